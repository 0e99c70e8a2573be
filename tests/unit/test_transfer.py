"""Transfer learning: which layers learn in which phase, and which phase is kept."""

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
from gemmodel.train import fit
from gemmodel.train.transfer import freeze, transfer

Settings = Callable[..., Params]
SMALL = {
    "base.image_size": 32,
    "model.transfer.weights": "none",
    "model.transfer.augmentation": "none",
    "model.transfer.unfreeze": "blocks.15",
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.resume": False,
}


@pytest.fixture
def network(settings: Settings) -> keras.Model:
    changes = SMALL | {"model.transfer.dense": [5]}
    return transfer(settings(changes).model.transfer, image_size=32, classes=3)


def test_the_head_stands_on_the_pooled_last_map(network: keras.Model) -> None:
    assert network.output_shape == (None, 3)
    assert network.get_layer("pooled").output.shape == (None, 1280)
    assert network.count_params() == 3_413_024 + 1280 * 5 + 5 + 5 * 3 + 3
    assert not isinstance(network.layers[-1], keras.Model)


def test_frozen_layers_do_not_learn(network: keras.Model) -> None:
    freeze(network, below="pooled")
    assert [tuple(variable.shape) for variable in network.trainable_variables] == [(1280, 5), (5,), (5, 3), (3,)]
    freeze(network, below="blocks.15")
    names = [layer.name for layer in network.layers if layer.trainable_variables]
    kernels = ["_expand_conv", "_depthwise_conv", "_project_conv"]
    assert names[:4] == [*(f"blocks.15.{name}" for name in kernels), "conv_head"]
    assert len(names) == 6


def test_batch_norm_keeps_its_statistics(network: keras.Model) -> None:
    freeze(network, below="pixels")
    norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    before = [layer.get_weights() for layer in norms]
    convolution = network.get_layer("conv_stem").get_weights()[0]
    network.compile(keras.optimizers.SGD(0.1), loss="categorical_crossentropy")
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    network.train_on_batch(pixels, np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])
    for layer, weights in zip(norms, before, strict=True):
        np.testing.assert_array_equal(np.concatenate(layer.get_weights()), np.concatenate(weights))
    assert "conv_stem" in [layer.name for layer in network.layers if layer.trainable_variables]
    assert network.get_layer("conv_stem").get_weights()[0].shape == convolution.shape


def test_a_layer_that_is_not_there_is_named_before_anything_is_fitted(settings: Settings) -> None:
    params = settings(SMALL | {"model.transfer.unfreeze": "block5"}).model.transfer
    with pytest.raises(ParameterError, match=r"unfreeze: no layer's name begins with 'block5'; .*conv"):
        transfer(params, image_size=32, classes=3)


@pytest.mark.parametrize(
    ("unfreeze", "losses", "kept", "epochs"),
    [("blocks.15", [0.9, 0.7], 1, 2), ("blocks.15", [0.7, 0.9], 0, 2), ("none", [0.7], 0, 1)],
    ids=["second", "first", "no second"],
)
def test_the_better_phase_is_kept(
    settings: Settings, tmp_path: Path, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch,
    unfreeze: str, losses: list[float], kept: int, epochs: int,
) -> None:  # fmt: skip
    for part in ("train", "val"):
        for place, gem in enumerate(("Agate", "Ruby")):
            (tmp_path / part / gem).mkdir(parents=True)
            draw(place, size=(32, 32)).save(tmp_path / part / gem / "0.png")
    params = settings(SMALL | {"model.transfer.unfreeze": unfreeze})
    phases: list[tuple[float, int]] = []

    def fit(model: keras.Model, *given: Any, on_epoch: fit.OnEpoch, **_: Any) -> fit.History:
        """Set the last bias to the number of the phase, and tell of one epoch."""
        phases.append((given[2].learning_rate, len(model.trainable_variables)))
        kernel, bias = model.get_layer("gem").get_weights()
        model.get_layer("gem").set_weights([kernel, np.full_like(bias, len(phases) - 1)])
        values = {"loss": 1.0, "val_loss": losses[len(phases) - 1]}
        on_epoch(0, values)
        return {name: [value] for name, value in values.items()}

    monkeypatch.setattr(fit, "fit", fit)
    seen: list[tuple[int, Mapping[str, float]]] = []
    model, classes, history, *_ = fit.train_network(
        params.model.transfer, params.train, params.augment, base=params.base, split=tmp_path,
        augmented=tmp_path, backup=tmp_path / "backup", on_epoch=lambda epoch, values: seen.append((epoch, values)),
    )  # fmt: skip
    assert phases == [(params.train.learning_rate, 2), (params.model.transfer.learning_rate, 6)][:epochs]
    assert model.get_layer("gem").get_weights()[1].tolist() == [kept, kept]
    assert (classes, history["val_loss"]) == (["Agate", "Ruby"], losses)
    assert [epoch for epoch, _ in seen] == list(range(epochs))
    assert fit.summary(history)["best_epoch"] == kept
