"""Fine-tuning beside fusion: which layers learn, and how what both models tell is joined."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.core import npz
from gemmodel.core.errors import ParameterError
from gemmodel.core.params import Params
from gemmodel.embed import embedding, extractor, feature_set
from gemmodel.models import saving
from gemmodel.train import batches, fine_tuning, fit

Settings = Callable[..., Params]
CLASSES = ["Agate", "Ruby"]
SMALL = {
    "base.image_size": 32,
    "embed.views": ["photo"],
    "model.fusion.penalties": 0.1,
    "model.fusion.fine_tune_epochs": 10,
    "model.fusion.ensemble_size": 2,
    "model.fusion.learning_rate": 0.003,
    "model.fusion.unfreeze": "blocks.15",
    "train.epochs": 20,
    "train.batch_size": 4,
    "train.precision": "mixed_bfloat16",
}


@pytest.fixture
def split(tmp_path: Path, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of two classes, red and blue: 16 to train on, 16 to validate with."""
    monkeypatch.setattr(extractor, "features_on_cpu", embedding.features_on_gpu)  # an export would take longer than all
    for part, number in (("train", 8), ("val", 8)):
        for place, gem in enumerate(CLASSES):
            (tmp_path / part / gem).mkdir(parents=True)
            for seed in range(number):
                picture = draw(100 * place + 10 * number + seed, size=(32, 32), tint=(1 - place, 0.3, place))
                picture.save(tmp_path / part / gem / f"{seed}.png")
    return tmp_path


def tuned(
    params: Params, split: Path, *, noise: bool = False
) -> tuple[keras.Model, keras.Model, fit.History, list[int]]:
    """Returns the untuned extractor, the model that was kept, the figures, and the epochs that were told."""
    keras.utils.set_random_seed(1)
    extractor = extractor.extractor(params.embed, image_size=32)
    parts = {split / part: split / "features" / f"{part}.npz" for part in ("train", "val")}
    embedding.embed(parts, extractor, classes=CLASSES)
    for number, part in enumerate(parts.values() if noise else ()):  # fusion has nothing to learn from then
        known = feature_set.read(part)
        drawn = np.random.default_rng(number).normal(size=known.features.shape).astype(np.float32)
        npz.write(part, **known._asdict() | {"features": drawn})
    seen: list[int] = []
    model, classes, history, *_ = fine_tuning.fine_tune(
        params.model.fusion, params.train, params.augment, params.embed, base=params.base, split=split,
        folder=split / "features", backup=split / "backup", on_epoch=lambda epoch, values: seen.append(epoch),
    )  # fmt: skip
    assert classes == CLASSES
    return extractor, model, history, seen


@pytest.mark.parametrize(("head", "joined"), [("kernel", True), ("softmax", True), ("kernel", False)])
def test_what_the_tuned_backbone_tells_is_joined_where_it_helps(
    settings: Settings, split: Path, head: str, joined: bool
) -> None:
    params = settings(SMALL | {"model.fusion.head": head})
    extractor, model, history, seen = tuned(params, split, noise=joined)
    assert joined == (model.layers[-1].name == "joined")
    assert seen == list(range(len(history["loss"])))
    assert {len(values) for values in history.values()} == {len(seen)}
    before, after = extractor.get_layer("efficientnet_lite0"), model.get_layer("efficientnet_lite0")
    assert changed(before, after) == []
    photo = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    told, embedding = saving.with_embedding(model).predict(photo, verbose=0)
    np.testing.assert_allclose(told, model.predict(photo, verbose=0), atol=1e-6)
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)
    assert embedding.shape[0] == 2

    if joined:
        assert fit.summary(history)["best_epoch"] == seen[-1]
        kernels = [f"blocks.15.{name}" for name in ("_expand_conv", "_project_conv")]
        networks = [model.get_layer("tuned").get_layer(f"network_{params.base.seed + number}") for number in (0, 1)]
        for network in networks:
            assert changed(before, network) == [*kernels, "conv_head"]
            assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}
        one, other = (network.get_layer("conv_head").get_weights()[0] for network in networks)
        assert (one != other).any()


def changed(before: keras.Model, after: keras.Model) -> list[str]:
    """Returns the names of the layers of both whose weights differ."""
    known = {layer.name: layer.get_weights() for layer in before.layers}
    return [
        layer.name
        for layer in after.layers
        if any((one != two).any() for one, two in zip(layer.get_weights(), known.get(layer.name, []), strict=False))
    ]


def test_two_models_are_joined_by_what_they_tell_of_new_photos() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=300)
    scores = 2 * np.eye(3)[labels][None] + draw.normal(size=(2, 300, 3))  # both know something, each by itself
    first, second = softmax(scores, axis=2)
    found = fine_tuning.ensemble_weights(first, second, share=0.4, labels=labels)
    assert found
    (a, b), joined = found
    assert b / (a + b) == pytest.approx(0.4)
    np.testing.assert_allclose(joined, softmax(a * np.log(first) + b * np.log(second), axis=1), atol=1e-6)
    for scale in (0.95, 1.05):
        other = softmax(scale * (a * np.log(first) + b * np.log(second)), axis=1)
        assert log_loss(labels, joined) < log_loss(labels, other)
    right = [log_loss(labels, told) for told in (joined, first, second)]
    assert right[0] < 0.8 * min(right[1:])

    guesses = softmax(draw.normal(size=(300, 3)), axis=1)
    assert fine_tuning.ensemble_weights(first, guesses, share=0.4, labels=labels) is None


def test_a_guaranteed_coverage_is_not_broken(settings: Settings, split: Path) -> None:
    with pytest.raises(ParameterError, match="set refit_on_validation to true"):
        tuned(settings(SMALL | {"model.fusion.refit_on_validation": False}), split)


@pytest.mark.parametrize(
    ("name", "told"),
    [("block5", "no layer's name begins with 'block5'"), ("blocks.4._depthwise", "other layers pass blocks.4._depth")],
)
def test_a_layer_from_which_none_can_learn_is_named(settings: Settings, split: Path, name: str, told: str) -> None:
    with pytest.raises(ParameterError, match=f"unfreeze: {told}"):
        tuned(settings(SMALL | {"model.fusion.unfreeze": name}), split)


def test_above_a_graph_a_network_learns_what_it_learns_as_a_whole(settings: Settings, split: Path) -> None:
    one_batch = {"train.batch_size": 16}  # of several the augmentation's draws come in any order
    params = settings(SMALL | one_batch | {"train.precision": "float32", "train.epochs": 5})

    def figures(*, whole: bool) -> tuple[dict[str, float], list[np.ndarray]]:
        keras.utils.set_random_seed(1)
        photos = batches.batches(
            params.train, params.augment, base=params.base, split=split, augmentation_from="on_the_fly"
        )
        layers = keras.layers
        below = layers.Conv2D(8, 3, 2, activation="relu", name="below")
        learning = [layers.Conv2D(4, 1, name="learns"), layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
        network = keras.Sequential(
            [keras.Input((32, 32, 3), name="pixels"), layers.Rescaling(1 / 255), below, *learning]
        )
        before = network.get_weights()
        with fine_tuning.split_at_frozen([network], photos, unfreeze="rescaling") as ([all_of_it], *_):
            assert all_of_it is network
        with fine_tuning.split_at_frozen([network], photos, unfreeze="learns") as ([part], train, val):
            data = (network, photos.train, photos.val) if whole else (part, train, val)
            found = fine_tuning.fit_tail(*data, params.train, photos=photos, number=0, backup=None)
        return found, [now - then for now, then in zip(network.get_weights(), before, strict=True)]

    (one, learnt), (other, too) = figures(whole=True), figures(whole=False)
    assert one == pytest.approx(other, rel=1e-3)
    assert [np.abs(change).max() > 1e-3 for change in learnt] == [False, False, True, True, True, True]
    for change, same in zip(learnt, too, strict=True):
        np.testing.assert_allclose(change, same, atol=1e-4)
