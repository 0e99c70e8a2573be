"""Fine-tuning of fusion: which layers learn, and which of the two models is kept."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from gemmodel.errors import ParameterError
from gemmodel.models import features, fine_tuning, training
from gemmodel.params import Params

Settings = Callable[..., Params]
CLASSES = ["Agate", "Ruby"]
SMALL = {
    "base.image_size": 32,
    "embed.views": ["photo"],
    "embed.weights": "none",
    "model.fusion.penalties": 0.1,
    "model.fusion.fine_tune_epochs": 2,
    "model.fusion.unfreeze": "blocks.15",
    "train.epochs": 2,
    "train.batch_size": 4,
}


@pytest.fixture
def split(tmp_path: Path, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of two classes: 8 to train on, 4 to validate with."""
    monkeypatch.setattr(features, "features_on_cpu", features.features_on_gpu)  # an export would take longer than all
    for part, number in (("train", 4), ("val", 2)):
        for place, gem in enumerate(CLASSES):
            (tmp_path / part / gem).mkdir(parents=True)
            for seed in range(number):
                picture = draw(100 * place + 10 * number + seed, size=(32, 32), tint=(1, 0.9 - place / 8, 0.9))
                picture.save(tmp_path / part / gem / f"{seed}.png")
    return tmp_path


def tuned(params: Params, split: Path) -> tuple[keras.Model, keras.Model, training.History, list[int]]:
    """Returns the untuned extractor, the model that was kept, the figures, and the epochs that were told."""
    keras.utils.set_random_seed(1)
    extractor = features.extractor(params.embed, image_size=32)
    parts = {split / part: split / "features" / f"{part}.npz" for part in ("train", "val")}
    features.embed(parts, extractor, classes=CLASSES)
    seen: list[int] = []
    model, classes, history, *_ = fine_tuning.fine_tune(
        params.model.fusion, params.train, params.augment, params.embed, base=params.base, split=split,
        folder=split / "features", backup=split / "backup", on_epoch=lambda epoch, values: seen.append(epoch),
    )  # fmt: skip
    assert classes == CLASSES
    return extractor, model, history, seen


@pytest.mark.parametrize(("head", "epochs", "rate"), [("kernel", 1, 0.001), ("softmax", 2, 1.0)])
def test_the_model_of_lower_validation_loss_is_kept(
    settings: Settings, split: Path, head: str, epochs: int, rate: float
) -> None:
    params = settings(SMALL | {"model.fusion.head": head, "model.fusion.learning_rate": rate})
    extractor, model, history, seen = tuned(params, split)
    assert seen == list(range(epochs + 1))
    assert {len(values) for values in history.values()} == {epochs + 1}
    before, after = (network.get_layer("efficientnet_lite0") for network in (extractor, model))
    changed = [
        layer.name
        for layer, other in zip(before.layers, after.layers, strict=True)
        if any((one != two).any() for one, two in zip(layer.get_weights(), other.get_weights(), strict=True))
    ]
    better = training.summary(history)["best_epoch"] == epochs
    kernels = [f"blocks.15.{name}" for name in ("_expand_conv", "_depthwise_conv", "_project_conv")]
    assert changed == ([*kernels, "conv_head"] if better else [])
    told = np.asarray(model(np.zeros((2, 32, 32, 3), np.float32)))
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)
    assert not list((split / "backup").iterdir())


def test_a_layer_that_is_not_there_is_named(settings: Settings, split: Path) -> None:
    with pytest.raises(ParameterError, match="unfreeze: no layer's name begins with 'block5'"):
        tuned(settings(SMALL | {"model.fusion.unfreeze": "block5"}), split)
