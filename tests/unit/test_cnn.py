"""The plain convolutional network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from gemmodel import devices
from gemmodel.core.errors import ParameterError
from gemmodel.core.image_folder import list_samples
from gemmodel.core.params import Params
from gemmodel.images import decode
from gemmodel.models import saving
from gemmodel.train.cnn import cnn
from gemmodel.train.context import TrainingContext
from gemmodel.train.network import train_network

Settings = Callable[..., Params]


def test_the_default_is_the_published_network(settings: Settings) -> None:
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
def test_a_sigmoid_unit_is_trained_with_binary_cross_entropy(
    settings: Settings, tmp_path: Path, smoothing: float
) -> None:
    changes = {"filters": [4], "pooling": "max", "dense": [], "dropout": 0.0, "output": "sigmoid"}
    model = cnn(settings({f"model.cnn.{k}": v for k, v in changes.items()}).model.cnn, image_size=32, classes=2)
    pixels = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0])
    probs = np.asarray(model(pixels))
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)  # float32
    one_hot = np.eye(2, dtype=np.float32)[labels]
    categorical = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)(one_hot, probs)
    binary = keras.losses.BinaryCrossentropy(label_smoothing=smoothing)(labels[:, np.newaxis], probs[:, 1:])
    assert float(categorical) == pytest.approx(float(binary), rel=1e-5)  # float32 logarithms of p and of 1 - (1 - p)
    saving.save(model, ["cat", "dog"], tmp_path / "models")
    loaded, _ = saving.load(tmp_path / "models")
    np.testing.assert_array_equal(np.asarray(loaded(pixels)), probs)


@pytest.mark.parametrize(("padding", "classes"), [("same", 2), ("valid", 5)])
def test_the_output_is_probabilities_of_any_number_of_classes(settings: Settings, padding: str, classes: int) -> None:
    blocks = {"model.cnn.filters": [4, 8], "model.cnn.pooling": ["max", "average"], "model.cnn.padding": padding}
    model = cnn(settings(blocks).model.cnn, image_size=32, classes=classes)
    probs = model.predict(np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)), verbose=0)
    assert probs.shape == (3, classes)
    assert probs.min() >= 0
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)  # float32


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"model.cnn.filters": [8] * 6, "model.cnn.pooling": ["max"] * 6}, 32, "32 pixels is too small"),
        ({"model.cnn.padding": "valid"}, 64, "base.image_size of 64 pixels is too small for 5 blocks"),
        ({"model.cnn.filters": [8, 8]}, 64, "model.cnn.pooling has 5 entries and model.cnn.filters has 2"),
        ({"model.cnn.kernel": [3, 5]}, 64, "model.cnn.kernel has 2 entries and model.cnn.filters has 5"),
        ({"model.cnn.output": "sigmoid"}, 64, "model.cnn.output: sigmoid is for 2 classes, but there are 3"),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused(
    settings: Settings, changes: dict[str, Any], size: int, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
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


def test_class_weights_balance_the_photos_of_a_network(settings: Settings, tmp_path: Path) -> None:
    """With 6, 3 and 1 training photos. The folder of copies on disk is empty, as `target_per_class` may leave it."""
    for part, counts in (("train", (6, 3, 1)), ("val", (1, 1, 1))):
        for name, count in zip(("Agate", "Beryl", "Ruby"), counts, strict=True):
            (tmp_path / part / name).mkdir(parents=True)
            for seed in range(count):
                pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{seed}.jpg")
    (tmp_path / "augmented").mkdir()
    changes = {
        "base.image_size": 32, "train.epochs": 1, "train.label_smoothing": 0, "train.learning_rate": 1e-9,
        "train.class_weight": "balanced", "train.precision": "float32", "model.name": "cnn",
        "model.cnn.augmentation": "disk", "model.cnn.filters": [4], "model.cnn.pooling": ["max"],
        "model.cnn.dropout": 0,
    }  # fmt: skip
    folders = {name: tmp_path / name for name in ("augmented", "features", "checkpoints")}
    result = train_network(TrainingContext(settings(changes), split=tmp_path, hierarchy={}, **folders))
    paths, labels = list_samples(tmp_path / "train", result.classes)
    assert np.bincount(labels).tolist() == [6, 3, 1]
    pixels = np.stack([decode.load(path, 32) for path in paths]).astype(np.float32)
    loss = -np.log(result.model.predict(pixels, verbose=0)[np.arange(10), labels])
    weights = np.take([10 / 18, 10 / 9, 10 / 3], labels)
    # float32 sums, and a learning rate that leaves the weights as they were in all but the last digits
    assert result.history["loss"][0] == pytest.approx((loss * weights).mean(), rel=1e-3)


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
def test_automatic_precision_is_the_fastest_of_the_cpu(
    tmp_path: Path, vendor: str | None, flags: str | None, policy: str
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    if vendor:
        core = f"processor\t: 0\nvendor_id\t: {vendor}\npower management:\nflags\t\t: fpu {flags}\n"
        cpu_info.write_text(f"{core}\n{core}\n")
    assert devices.precision("auto", cpu_info=cpu_info) == policy
    assert devices.precision("float32", cpu_info=cpu_info) == "float32"
