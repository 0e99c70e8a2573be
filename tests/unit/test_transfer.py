"""Transfer learning: which layers are trained in which phase, and which phase is kept."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import Params
from gemmodel.train import fit, network
from gemmodel.train.context import OnEpoch, TrainingContext
from gemmodel.train.transfer import freeze, transfer
from tests import tiny_backbone as tiny

Settings = Callable[..., Params]
SMALL = {
    "base.image_size": 32,
    "model.name": "transfer",
    "model.transfer.weights": "none",
    "model.transfer.augmentation": "none",
    "model.transfer.unfreeze": "blocks.15",
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.resume": False,
}


@pytest.fixture
def model(settings: Settings) -> keras.Model:
    changes = SMALL | {"model.transfer.dense": [5]}
    return transfer(settings(changes).model.transfer, image_size=32, classes=3)


def test_the_head_follows_the_mean_of_the_last_map(model: keras.Model) -> None:
    assert model.output_shape == (None, 3)
    assert model.get_layer("pooled").output.shape == (None, 1280)
    assert model.count_params() == 3_413_024 + 1280 * 5 + 5 + 5 * 3 + 3
    assert not isinstance(model.layers[-1], keras.Model)


def test_only_layers_from_the_named_one_on_are_trainable(model: keras.Model) -> None:
    freeze(model, below="pooled")
    assert [tuple(variable.shape) for variable in model.trainable_variables] == [(1280, 5), (5,), (5, 3), (3,)]
    freeze(model, below="blocks.15")
    names = [layer.name for layer in model.layers if layer.trainable_variables]
    kernels = ["_expand_conv", "_depthwise_conv", "_project_conv"]
    assert names[:4] == [*(f"blocks.15.{name}" for name in kernels), "conv_head"]
    assert len(names) == 6


def test_training_leaves_batch_norm_as_it_was(model: keras.Model) -> None:
    freeze(model, below="pixels")
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    before = [layer.get_weights() for layer in norms]
    convolution = model.get_layer("conv_head").get_weights()[0]
    model.compile(keras.optimizers.SGD(0.1), loss="categorical_crossentropy", run_eagerly=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    model.train_on_batch(pixels, np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])
    for layer, weights in zip(norms, before, strict=True):
        np.testing.assert_array_equal(np.concatenate(layer.get_weights()), np.concatenate(weights))
    assert (model.get_layer("conv_head").get_weights()[0] != convolution).any()
    assert "conv_stem" in [layer.name for layer in model.layers if layer.trainable_variables]


def test_an_unknown_layer_is_an_error_before_training(settings: Settings) -> None:
    params = settings(SMALL | {"model.transfer.unfreeze": "block5"}).model.transfer
    with pytest.raises(ParameterError, match=r"unfreeze: no layer's name begins with 'block5'; .*conv"):
        transfer(params, image_size=32, classes=3)


@pytest.fixture
def folder(
    tmp_path: Path, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch, tiny_backbone: Path
) -> Path:
    """The current folder, with a backbone file and photos of two gems."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_backbone, "backbones")
    for part in ("train", "val"):
        for seed, gem in enumerate(("Agate", "Ruby")):
            (tmp_path / part / gem).mkdir(parents=True)
            draw(seed, size=(32, 32)).save(tmp_path / part / gem / "0.png")
    return tmp_path


def test_a_loss_that_is_no_number_in_any_epoch_is_an_error(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"base.image_size": 64, "model.transfer.backbone": tiny.NAME, "model.transfer.unfreeze": tiny.LAST_LAYER}
    monkeypatch.setattr(network, "fit", lambda *_, **__: {"loss": [np.nan], "val_loss": [np.nan]})
    context = TrainingContext(settings(SMALL | changes), folder, folder, folder, {}, checkpoints=folder / "checkpoints")
    with pytest.raises(ParameterError, match=r"train\.learning_rate is 0\.001; the loss is no number in any epoch"):
        network.train_network(context)


def test_a_training_on_a_replaced_backbone_file_begins_again(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"base.image_size": 64, "model.transfer.backbone": tiny.NAME, "model.transfer.unfreeze": "none"}
    params, checkpoints = settings(SMALL | changes | {"train.resume": True}), []

    def fit_nothing(*_: Any, checkpoint: Path, **__: Any) -> fit.History:
        checkpoints.append(checkpoint)
        return {"loss": [1.0], "val_loss": [1.0]}

    monkeypatch.setattr(network, "fit", fit_nothing)
    for content in (None, None, "# other bytes\n"):
        if content:
            with Path(tiny.NAME).with_suffix(".yaml").open("a") as description:
                description.write(content)
        network.train_network(TrainingContext(params, folder, folder, folder, {}, checkpoints=folder / "checkpoints"))
    assert checkpoints[0] == checkpoints[1] != checkpoints[2]


@pytest.mark.parametrize(
    ("unfreeze", "losses", "kept", "epochs"),
    [
        (tiny.LAST_LAYER, [0.9, 0.7], 1, 2),
        (tiny.LAST_LAYER, [0.7, 0.9], 0, 2),
        (tiny.LAST_LAYER, [0.7, np.nan], 0, 2),
        ("none", [0.7], 0, 1),
    ],
    ids=["second", "first", "second diverges", "no second"],
)
def test_the_better_phase_is_kept(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch,
    unfreeze: str, losses: list[float], kept: int, epochs: int,
) -> None:  # fmt: skip
    changes = {"base.image_size": 64, "model.transfer.backbone": tiny.NAME, "model.transfer.unfreeze": unfreeze}
    params = settings(SMALL | changes)
    phases: list[tuple[float, int]] = []

    def fit_one_epoch(model: keras.Model, *args: Any, on_epoch: OnEpoch, **_: Any) -> fit.History:
        """Sets the last bias to the index of the phase, with the given validation loss."""
        phases.append((args[2].learning_rate, len(model.trainable_variables)))
        kernel, bias = model.get_layer("gem").get_weights()
        model.get_layer("gem").set_weights([kernel, np.full_like(bias, len(phases) - 1)])
        metrics = {"loss": 1.0, "val_loss": losses[len(phases) - 1]}
        on_epoch(0, metrics)
        return {name: [value] for name, value in metrics.items()}

    monkeypatch.setattr(network, "fit", fit_one_epoch)
    reported: list[tuple[int, Mapping[str, float]]] = []
    result = network.train_network(
        TrainingContext(
            params, folder, folder, folder, {}, checkpoints=folder / "checkpoints",
            on_epoch=lambda epoch, metrics: reported.append((epoch, metrics)),
        )
    )  # fmt: skip
    assert phases == [(params.train.learning_rate, 2), (params.model.transfer.learning_rate, 4)][:epochs]
    assert result.model.get_layer("gem").get_weights()[1].tolist() == [kept, kept]
    assert result.classes == ["Agate", "Ruby"]
    np.testing.assert_array_equal(result.history["val_loss"], losses)
    assert [epoch for epoch, _ in reported] == list(range(epochs))
    assert fit.summary(result.history)["best_epoch"] == kept
