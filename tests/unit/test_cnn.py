"""The plain convolutional network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from gemmodel import devices
from gemmodel.core.errors import ParameterError
from gemmodel.core.params import Params
from gemmodel.models import saving
from gemmodel.train.cnn import cnn

Settings = Callable[..., Params]


def test_the_default_is_the_public_network(settings: Settings) -> None:
    model = cnn(settings().model.cnn, image_size=220, classes=87)
    assert model.count_params() == 2_792_855
    assert (model.input_shape, model.output_shape) == ((None, 220, 220, 3), (None, 87))


def test_the_two_class_network_of_cats_and_dogs(settings: Settings) -> None:
    changes = {"filters": [32, 32], "pooling": "max", "padding": "valid", "dense": 128, "dropout": 0.0}
    params = settings({f"model.cnn.{key}": value for key, value in changes.items()} | {"model.cnn.output": "sigmoid"})
    model = cnn(params.model.cnn, image_size=64, classes=2)
    assert model.count_params() == 813_217
    assert model.output_shape == (None, 2)
    assert [layer.output.shape for layer in model.layers if isinstance(layer, layers.Flatten)] == [(None, 6272)]


def test_kernels_pooling_and_dense_layers_are_one_or_several(settings: Settings) -> None:
    changes = {"filters": [4, 8], "kernel": [5, 3], "pooling": "average", "dense": [16, 7]}
    model = cnn(settings({f"model.cnn.{k}": v for k, v in changes.items()}).model.cnn, image_size=32, classes=3)
    shapes = [layer.kernel.shape for layer in model.layers if hasattr(layer, "kernel")]
    assert shapes == [(5, 5, 3, 4), (3, 3, 4, 8), (512, 16), (16, 7), (7, 3)]
    assert sum(isinstance(layer, layers.AveragePooling2D) for layer in model.layers) == 2
    none = cnn(settings({"model.cnn.dense": []}).model.cnn, image_size=32, classes=3)
    assert sum(isinstance(layer, layers.Dense) for layer in none.layers) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_sigmoid_unit_learns_by_binary_cross_entropy(settings: Settings, tmp_path: Path, smoothing: float) -> None:
    changes = {"filters": [4], "pooling": "max", "dense": [], "dropout": 0.0, "output": "sigmoid"}
    model = cnn(settings({f"model.cnn.{k}": v for k, v in changes.items()}).model.cnn, image_size=32, classes=2)
    pixels = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0])
    told = np.asarray(model(pixels))
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-6)
    one_hot = np.eye(2, dtype=np.float32)[labels]
    categorical = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)(one_hot, told)
    binary = keras.losses.BinaryCrossentropy(label_smoothing=smoothing)(labels[:, np.newaxis], told[:, 1:])
    assert float(categorical) == pytest.approx(float(binary), rel=1e-5)
    saving.save(model, ["cat", "dog"], tmp_path / "models")
    loaded, _ = saving.load(tmp_path / "models")
    np.testing.assert_array_equal(np.asarray(loaded(pixels)), told)


@pytest.mark.parametrize(("padding", "classes"), [("same", 2), ("valid", 5)])
def test_it_gives_probabilities_of_any_number_of_classes(settings: Settings, padding: str, classes: int) -> None:
    blocks = {"model.cnn.filters": [4, 8], "model.cnn.pooling": ["max", "average"], "model.cnn.padding": padding}
    model = cnn(settings(blocks).model.cnn, image_size=32, classes=classes)
    told = model.predict(np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)), verbose=0)
    assert told.shape == (3, classes)
    assert told.min() >= 0
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "size", "told"),
    [
        ({"model.cnn.filters": [8] * 6, "model.cnn.pooling": ["max"] * 6}, 32, "32 pixels is too small"),
        ({"model.cnn.padding": "valid"}, 64, "base.image_size of 64 pixels is too small for 5 blocks"),
        ({"model.cnn.filters": [8, 8]}, 64, "model.cnn.pooling has 5 entries and model.cnn.filters has 2"),
        ({"model.cnn.kernel": [3, 5]}, 64, "model.cnn.kernel has 2 entries and model.cnn.filters has 5"),
        ({"model.cnn.output": "sigmoid"}, 64, "model.cnn.output: sigmoid is for 2 classes, here are 3"),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused(settings: Settings, changes: dict[str, Any], size: int, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        cnn(settings(changes).model.cnn, image_size=size, classes=3)


@pytest.mark.parametrize("size", [46, 94])
def test_each_block_of_the_smallest_image_has_a_pixel_left(settings: Settings, size: int) -> None:
    """With valid padding n blocks need 3 * 2 ** n - 2 pixels, which leaves 2 before the last pooling."""
    blocks = {46: 4, 94: 5}[size]
    changes = {"filters": [4] * blocks, "pooling": ["max"] * blocks, "padding": "valid"}
    params = settings({f"model.cnn.{key}": value for key, value in changes.items()}).model.cnn
    assert cnn(params, image_size=size, classes=2).output_shape == (None, 2)
    with pytest.raises(ParameterError, match="too small"):
        cnn(params, image_size=size - 1, classes=2)


@pytest.mark.parametrize(
    ("vendor", "flags", "policy"),
    [
        ("GenuineIntel", "avx2 avx512_bf16 amx_bf16", "mixed_bfloat16"),
        ("GenuineIntel", "avx2 avx512_bf16", "float32"),
        ("AuthenticAMD", "avx2 avx512_bf16", "mixed_bfloat16"),
        ("AuthenticAMD", "avx2", "float32"),
        (None, None, "float32"),  # not Linux
    ],
)
def test_a_cpu_computes_in_what_it_is_fastest_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str | None, flags: str | None, policy: str
) -> None:
    told = tmp_path / "cpuinfo"
    if vendor:
        core = f"processor\t: 0\nvendor_id\t: {vendor}\npower management:\nflags\t\t: fpu {flags}\n"
        told.write_text(f"{core}\n{core}\n")
    monkeypatch.setattr(devices, "CPU_INFO", told)
    assert devices.precision("auto") == policy
    assert devices.precision("float32") == "float32"
