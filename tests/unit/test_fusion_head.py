"""Fusion's head: class weights, the choice of the penalty, and which photos it is fitted to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gemmodel.core.params import Params
from gemmodel.embed import feature_set
from gemmodel.embed.extractor import blocks, extractor
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import fusion
from gemmodel.train import fit, fusion_head
from gemmodel.train.context import TrainingContext
from gemmodel.train.ridge.kernel_ridge import KernelRidge
from gemmodel.train.train import train_model

Settings = Callable[..., Params]
Cloud = Callable[..., tuple[np.ndarray, np.ndarray]]
CLASSES = ["Agate", "Ruby", "Rubín"]
SMALL = {"embed.views": ["photo"], "embed.weights": "none", "base.image_size": 32}


def as_feature_set(features: np.ndarray, labels: np.ndarray, prefix: str = "") -> FeatureSet:
    files = np.array([f"{prefix}{i}" for i in range(len(labels))])
    return FeatureSet(features, labels, files, CLASSES, {"maps": features.shape[1]})


def probabilities(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    outputs = model(inputs, training=False)
    return np.asarray(outputs[0] if len(model.outputs) > 1 else outputs)


def make_head(settings: Settings, features: np.ndarray) -> keras.Model:
    ridge = KernelRidge(settings().model.fusion, classes=3, blocks=[features.shape[1]], penalty=0.1)
    return fusion_head.to_keras(ridge.fit(features, np.arange(len(features)) % 3))


def test_a_constant_feature_gives_finite_probabilities(settings: Settings) -> None:
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    features[:, 2] = 0
    head = make_head(settings, features)
    assert np.isfinite(probabilities(head, features)).all()
    assert np.isfinite(probabilities(head, features + 5)).all()


def test_an_attached_head_gives_the_probabilities_of_the_features(settings: Settings) -> None:
    pixels_to_features = extractor(settings(SMALL).embed, image_size=32)
    pixels = np.random.default_rng(9).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    features = probabilities(pixels_to_features, pixels)
    head = make_head(settings, features)
    model = fusion.attach(pixels_to_features, head)
    assert (model.input_shape, model.outputs[0].shape) == ((None, 32, 32, 3), (None, 3))
    # The same float32 layers on the same features; two runs of the backbone may differ in the last digits.
    np.testing.assert_allclose(probabilities(model, pixels), probabilities(head, features), atol=1e-6)


def test_class_weights_divide_the_penalty_of_the_head(settings: Settings, cloud: Cloud) -> None:
    features, labels = (array[:40] for array in cloud(1))
    labels = np.where(labels == 2, 0, labels)  # 27 and 13 photos, none of the third class
    params = settings({"train.class_weight": "balanced", "model.fusion.refit_on_validation": False})
    photos = as_feature_set(features, labels)
    balanced, _ = fusion_head.fit_kernel(params.model.fusion, photos, photos, params=params.train)
    penalties = 0.1 / np.take([40 / 54, 40 / 26], labels)
    expected = KernelRidge(params.model.fusion, classes=3, blocks=[5], penalty=penalties).fit(features, labels)
    np.testing.assert_array_equal(balanced.loo_probs_, expected.loo_probs_)


def test_left_out_validation_photos_select_the_penalty_of_a_head_that_is_fitted_to_them(
    settings: Settings, cloud: Cloud
) -> None:
    train, val = as_feature_set(*cloud(1)), as_feature_set(*cloud(2, 30))
    params = settings({"model.fusion.penalties": [0.1, 1000]})
    epochs: list[int] = []
    ridge, history = fusion_head.fit_kernel(
        params.model.fusion, train, val, params=params.train, on_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert epochs == [0, 1]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    best = fit.summary(history)["best_epoch"]
    assert best == int(np.argmin(history["val_loss"]))
    both = train.concat(val)
    expected = KernelRidge(params.model.fusion, classes=3, blocks=[5], penalty=[0.1, 1000][best]).fit(
        both.features, both.labels
    )
    np.testing.assert_array_equal(ridge.loo_probs_, expected.loo_probs_)
    features, labels = cloud(3)
    np.testing.assert_array_equal(ridge.predict_proba(features), expected.predict_proba(features))
    assert (ridge.predict_proba(features).argmax(axis=1) == labels).mean() > 0.85


@pytest.fixture
def write_features(tmp_path: Path, settings: Settings) -> Callable[..., FeatureSet]:
    """Write a feature file of one part: features of three classes, drawn around the index of each class."""
    sizes = blocks(extractor(settings(SMALL).embed, image_size=32))

    def write(part: str, photos: int, rng: np.random.Generator) -> FeatureSet:
        labels = np.arange(photos) % 3
        features = rng.normal(size=(photos, sum(sizes.values()))) + labels[:, None]
        features = features.astype(feature_set.DTYPE).astype(np.float32)  # as a file returns them
        drawn = as_feature_set(features, labels, part)._replace(blocks=sizes)
        feature_set.write(tmp_path / part, drawn)
        return drawn

    return write


@pytest.fixture
def context(tmp_path: Path, settings: Settings) -> Callable[..., TrainingContext]:
    """Return the inputs of a training on the feature files of `write_features`, with some parameters changed."""

    def make(changes: dict[str, Any]) -> TrainingContext:
        hierarchy = dict(zip(CLASSES, ("Quartz", "Corundum", "Corundum"), strict=True))
        folders = {name: tmp_path / name for name in ("split", "augmented", "checkpoints")}
        return TrainingContext(settings(SMALL | changes), features=tmp_path, hierarchy=hierarchy, **folders)

    return make


def test_reserved_validation_photos_do_not_change_the_head(
    context: Callable[..., TrainingContext], write_features: Callable[..., FeatureSet]
) -> None:
    """Without `refit_on_validation` their scores and those of new photos are exchangeable."""
    changes = {"model.fusion.penalties": [1000, 0.1, 10], "model.fusion.refit_on_validation": False}
    results, rng = [], np.random.default_rng(7)
    for _ in range(2):
        write_features("train", 30, np.random.default_rng(1))
        val = write_features("val", 12, rng)  # others each time
        results.append(fusion_head.train_fusion(context(changes)))
        held_out, head = results[-1].held_out, results[-1].model.get_layer("head")
        # float32 matrix products of other batch sizes may differ in the last digits
        np.testing.assert_allclose(held_out.probabilities, probabilities(head, val.features), atol=1e-5)
        assert held_out.reference.files.tolist() == [f"train{i}" for i in range(30)]
    for a, b in zip(*(result.model.get_layer("head").get_weights() for result in results), strict=True):
        np.testing.assert_array_equal(a, b)
    history = results[0].history
    assert fit.summary(history, results[0].selection_metric)["best_epoch"] == int(np.argmin(history["loss"]))


def test_a_refitted_head_has_the_leave_one_out_predictions_of_all_photos(
    context: Callable[..., TrainingContext], write_features: Callable[..., FeatureSet]
) -> None:
    both = write_features("train", 30, np.random.default_rng(1)).concat(
        write_features("val", 12, np.random.default_rng(2))
    )
    inputs = context({})
    held_out = fusion_head.train_fusion(inputs).held_out
    sizes = list(both.blocks.values())
    ridge = KernelRidge(inputs.params.model.fusion, classes=3, blocks=sizes, penalty=0.1)
    np.testing.assert_array_equal(held_out.probabilities, ridge.fit(both.features, both.labels).loo_probs_)
    assert held_out.embedding is None
    assert held_out.reference.files.tolist() == both.files.tolist()
    # The embedding keeps the inner products of the photos; the float32 graph and NumPy round differently.
    inner, expected = (x @ x.T for x in (held_out.reference.embedding, ridge.kernel_.support))
    np.testing.assert_allclose(inner, expected, atol=1e-4)


def test_a_number_of_threads_gives_the_bits_of_that_number(
    context: Callable[..., TrainingContext], write_features: Callable[..., FeatureSet]
) -> None:
    write_features("train", 600, np.random.default_rng(1))
    write_features("val", 12, np.random.default_rng(2))
    results = []
    for limit, threads in ((1, 0), (None, 1), (2, 0)):
        with threadpool_limits(limit):
            results.append(train_model(context({"base.threads": threads})).model.get_layer("head").get_weights())
    one, set_to_one, two = results
    for a, b in zip(one, set_to_one, strict=True):
        np.testing.assert_array_equal(a, b)
    if all((a == b).all() for a, b in zip(one, two, strict=True)):
        pytest.skip("here the bits do not depend on the number of threads")
