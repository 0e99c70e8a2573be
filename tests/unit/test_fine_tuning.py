"""Fine-tuning beside fusion: which layers are trained, and how the predictions of both models are combined."""

import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from keras import layers
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.core.errors import DataError, ParameterError
from gemmodel.core.params import Params, load
from gemmodel.embed import feature_set
from gemmodel.embed.backbones.backbone import backbone, last_map
from gemmodel.models import saving
from gemmodel.train import batches, fine_tuning, fit
from gemmodel.train.context import TrainingContext
from tests import tiny_backbone

Settings = Callable[..., Params]
CLASSES = ["Agate", "Ruby"]
SMALL = {
    "base.image_size": 32,
    "embed.backbone": "small.keras",
    "embed.views": ["photo"],
    "model.fusion.penalties": 0.1,
    "model.fusion.fine_tune_epochs": 6,
    "model.fusion.distillation": 0.5,
    "model.fusion.ensemble_size": 2,
    "model.fusion.learning_rate": 0.01,
    "model.fusion.unfreeze": "block",
    "train.epochs": 5,
    "train.batch_size": 4,
    "train.precision": "mixed_bfloat16",
}
SHORT = {"model.fusion.ensemble_size": 1, "model.fusion.fine_tune_epochs": 1}


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory,
    draw: Callable[..., Image.Image],
    write_params: Callable[..., Path],
    embed_split: Callable[..., keras.Model],
) -> tuple[Path, keras.Model]:
    """Photos of two classes, red and blue, 16 to train on, 16 to validate with; their features, and the extractor."""
    folder = tmp_path_factory.mktemp("split")
    for part in ("train", "val"):
        for i, gem in enumerate(CLASSES):
            (folder / part / gem).mkdir(parents=True)
            for seed in range(8):
                picture = draw(100 * i + 80 + seed, size=(32, 32), tint=(1 - i, 0.3, i))
                picture.save(folder / part / gem / f"{seed}.png")
    params = load(write_params(tmp_path_factory.mktemp("params"), SMALL))
    write_backbone(folder / "small.keras")
    with chdir(folder):
        return folder, embed_split(folder, folder / "features", params)


def write_backbone(path: Path) -> None:
    """Write a network with an inverted residual, as EfficientNet has sixteen."""
    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    stem = layers.Conv2D(16, 3, 4, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(32, 1, name="block_expand")(stem)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="block_depthwise")(x)
    x = layers.BatchNormalization(name="block_norm")(x)
    x = layers.Add()([stem, layers.Conv2D(16, 1, name="block_project")(x)])
    keras.Model(image, layers.Conv2D(32, 1, activation="relu", name="top")(x)).save(path)
    description = tiny_backbone.DESCRIPTION | {"image_size": 32, "maps": ["stem", "top"]}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(description))


@pytest.fixture
def split(embedded: tuple[Path, keras.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the photos, their features and the backbone."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(embedded[0], tmp_path, dirs_exist_ok=True))


@pytest.fixture
def fine_tune(
    split: Path, embedded: tuple[Path, keras.Model]
) -> Callable[..., tuple[keras.Model, fit.TrainingResult, list[int]]]:
    """Fine-tune; return the extractor before, the result, and the epochs that were reported."""

    def train(params: Params, *, noise: bool = False) -> tuple[keras.Model, fit.TrainingResult, list[int]]:
        """`noise` replaces the features, so that fusion itself cannot learn."""
        keras.utils.set_random_seed(1)
        for seed, part in enumerate(("train", "val") if noise else ()):
            photos = feature_set.read(split / "features" / part)
            drawn = np.random.default_rng(seed).normal(size=photos.features.shape).astype(np.float32)
            feature_set.write(split / "features" / part, photos._replace(features=drawn))
        epochs: list[int] = []
        result = fine_tuning.fine_tune(
            TrainingContext(
                params, split, split, split / "features", {}, checkpoints=split / "checkpoints",
                on_epoch=lambda epoch, _: epochs.append(epoch),
            )
        )  # fmt: skip
        assert result.classes == CLASSES
        return embedded[1], result, epochs

    return train


@pytest.mark.parametrize("noise", [True, False])
def test_the_networks_are_combined_with_fusion_where_they_help(settings: Settings, fine_tune: Any, noise: bool) -> None:
    params = settings(SMALL | ({} if noise else SHORT))
    extractor, result, epochs = fine_tune(params, noise=noise)
    model, history = result.model, result.history
    assert (model.layers[-1].name == "ensemble") == noise
    assert epochs == list(range(len(history["loss"])))
    assert {len(values) for values in history.values()} == {len(epochs)}
    before, after = extractor.get_layer("small"), model.get_layer("small")
    assert changed_layers(before, after) == []
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    probs, embedding = saving.with_embedding(model).predict(pixels, verbose=0)
    # float32: two compiled graphs of the same layers, whose sums may have another order
    np.testing.assert_allclose(probs, model.predict(pixels, verbose=0)[0], atol=1e-5)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert embedding.shape[0] == 2

    if noise:
        assert fit.summary(history, result.selection_metric)["best_epoch"] == epochs[-1]
        networks = [model.get_layer(saving.NETWORK).get_layer(f"network_{params.base.seed + i}") for i in range(2)]
        for network in networks:
            assert changed_layers(before, network) == ["block_expand", "block_project", "top"]
            assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}
        a, b = (network.get_layer("top").get_weights()[0] for network in networks)
        assert (a != b).any()


def changed_layers(before: keras.Model, after: keras.Model) -> list[str]:
    """Returns the names of the layers of a backbone whose weights differ in another model that contains it."""
    weighted = [layer for layer in before.layers if layer.get_weights()]
    assert len(weighted) == 6, "`write_backbone` has five convolutions and a batch norm"
    return [
        layer.name
        for layer in weighted
        if any(
            (old != new).any()
            for old, new in zip(layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True)
        )
    ]


def test_the_scale_of_an_ensemble_minimises_the_log_loss_of_held_out_photos() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    scores = 2 * np.eye(3)[labels][None] + rng.normal(size=(2, 300, 3))  # two classifiers with independent errors
    p, q = softmax(scores, axis=2)
    combined = fine_tuning.ensemble_weights(p, q, weight=0.4, labels=labels)
    assert combined
    (a, b), probs = combined
    assert b / (a + b) == pytest.approx(0.4)
    np.testing.assert_allclose(probs, softmax(a * np.log(p) + b * np.log(q), axis=1), atol=1e-6)  # EPS of fusion: 1e-7
    for scale in (0.95, 1.05):
        other = softmax(scale * (a * np.log(p) + b * np.log(q)), axis=1)
        assert log_loss(labels, probs) < log_loss(labels, other)
    assert log_loss(labels, probs) < 0.8 * min(log_loss(labels, p), log_loss(labels, q))

    guesses = softmax(rng.normal(size=(300, 3)), axis=1)
    assert fine_tuning.ensemble_weights(p, guesses, weight=0.4, labels=labels) is None


def test_features_of_other_photos_are_refused(settings: Settings, fine_tune: Any, split: Path) -> None:
    (split / "val" / CLASSES[0] / "3.png").unlink()
    with pytest.raises(DataError, match=r"its photos are not those of .*; `dvc repro embed` makes it again"):
        fine_tune(settings(SMALL))


def test_reserved_validation_photos_are_not_used(settings: Settings, fine_tune: Any) -> None:
    with pytest.raises(ParameterError, match="set refit_on_validation to true"):
        fine_tune(settings(SMALL | {"model.fusion.refit_on_validation": False}))


def test_a_backbone_with_its_own_side_is_refused_before_anything_is_fitted(settings: Settings, fine_tune: Any) -> None:
    with pytest.raises(ParameterError, match=r"efficientnet_lite0 has its own side, 16; name it without one"):
        fine_tune(settings(SMALL | {"embed.backbone": ["efficientnet_lite0@16", "efficientnet_lite1"]}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("block5", "no layer's name begins with 'block5'"),
        ("block_depthwise", "other layers bypass block_depthwise"),
        ("add", "other layers bypass add"),
    ],
)
def test_a_layer_that_training_cannot_start_from_is_named(
    settings: Settings, fine_tune: Any, name: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=f"unfreeze: {message}"):
        fine_tune(settings(SMALL | SHORT | {"model.fusion.unfreeze": name}))


def test_the_tail_of_efficientnet_ends_what_the_frozen_layers_begin(settings: Settings, split: Path) -> None:
    params = settings(SMALL)
    data = batches.load_training_data(
        params.train, params.augment, base=params.base, split=split, augmentation_source="none"
    )
    lite = backbone("efficientnet_lite0", weights="imagenet", image_size=32)
    network = keras.Model(lite.inputs[0], layers.GlobalAveragePooling2D()(last_map(lite)))
    with fine_tuning.split_at_frozen([network], data, unfreeze="blocks.15") as ([tail], _, val):
        assert tail.layers[1].name == "blocks.15._expand_conv"
        (pixels, _), (inputs, _) = next(iter(data.val)), next(iter(val))
        # Values up to 6, of float32 sums in another order.
        np.testing.assert_allclose(tail(inputs), network(pixels), rtol=0, atol=1e-3)


def test_the_tail_of_a_network_is_trained_like_the_whole(settings: Settings, split: Path) -> None:
    one_batch = {"train.batch_size": 16}  # with several, threads draw the augmentation of batches in any order
    params = settings(SMALL | one_batch | {"train.precision": "float32", "train.epochs": 5})

    def train(*, whole: bool) -> tuple[dict[str, float], list[np.ndarray]]:
        keras.utils.set_random_seed(1)
        data = batches.load_training_data(
            params.train, params.augment, base=params.base, split=split, augmentation_source="on_the_fly"
        )
        network = keras.Sequential(
            [
                keras.Input((32, 32, 3), name="pixels"),
                layers.Rescaling(1 / 255),
                layers.Conv2D(8, 3, 2, activation="relu", name="frozen"),
                layers.Conv2D(4, 1, name="trained"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2, "softmax"),
            ]
        )
        before = network.get_weights()
        with fine_tuning.split_at_frozen([network], data, unfreeze="rescaling") as ([tail], *_):
            assert tail is network
        with fine_tuning.split_at_frozen([network], data, unfreeze="trained") as ([tail], train, val):
            fitted = (network, data.train, data.val) if whole else (tail, train, val)
            metrics = fine_tuning.fit_tail(*fitted, params.train, data=data, index=0, checkpoint=None)
        return metrics, [new - old for new, old in zip(network.get_weights(), before, strict=True)]

    (whole_metrics, whole_changes), (metrics, changes) = train(whole=True), train(whole=False)
    # LiteRT's float32 sums have another order than TensorFlow's, and Adam divides small gradients by their own size.
    assert metrics == pytest.approx(whole_metrics, rel=1e-3)
    assert [np.abs(change).max() > 1e-3 for change in changes] == [False, False, True, True, True, True]
    for change, expected in zip(changes, whole_changes, strict=True):
        np.testing.assert_allclose(change, expected, atol=1e-4)
