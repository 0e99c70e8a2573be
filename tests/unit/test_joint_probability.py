"""Both labels in one network: separate classifiers of mineral classes and of the gems of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from gemmodel.core.params import Params
from gemmodel.models import fusion, saving
from gemmodel.models.joint_probability import JointProbability
from gemmodel.train import kernel_ridge

PARENTS = [0, 1, 0, 2]
SEPARATE = {"model.fusion.labels": "separate", "model.fusion.clip": 2}


def cloud(seed: int, number: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Points around four centres, those of the first and third close together, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 4
    centres = np.array([[3, 0, 0, 0, 0], [0, 3, 0, 0, 0], [3, 0, 1, 0, 0], [0, 0, 0, 3, 0]])
    return (rng.normal(size=(number, 5)) + centres[labels]).astype(np.float32), labels


def test_a_gem_has_its_class_s_probability_times_its_share_of_it() -> None:
    classes = np.array([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]], np.float32)
    scores = np.array([[1.0, -7.0, 3.0, 50.0], [500.0, 0.0, -500.0, -900.0]], np.float32)
    told = np.asarray(JointProbability(parents=PARENTS)([classes, scores]))
    share = 1 / (1 + np.exp(2))
    np.testing.assert_allclose(told[0], [0.5 * share, 0.2, 0.5 * (1 - share), 0.3], rtol=1e-5)
    np.testing.assert_allclose(told[1], [0, 1, 0, 0], atol=1e-6)


def test_a_separate_kernel_head_is_a_head_of_classes_and_one_of_the_gems_of_each(
    settings: Callable[..., Params],
) -> None:
    """Against heads fitted one by one with the kernel head of all labels, before calibration."""
    points, labels = cloud(1)
    params = settings(SEPARATE).model.fusion
    common: dict[str, Any] = {"blocks": [2, 3], "penalty": 0.2}
    head, figures, left_out = kernel_ridge.kernel_head(params, points, labels, classes=4, parents=PARENTS, **common)
    new = cloud(2)[0]
    told = head.predict(new, verbose=0)
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(left_out.sum(axis=1), 1, atol=1e-6)
    assert (told.argmax(axis=1) == cloud(2)[1]).mean() > 0.7
    assert figures["accuracy"] == (left_out.argmax(axis=1) == labels).mean()
    primary = np.array(PARENTS)[labels]
    whole = settings({"model.fusion.clip": 2}).model.fusion
    first, _, first_left_out = kernel_ridge.kernel_head(whole, points, primary, classes=3, **common)
    members = np.eye(3)[PARENTS]
    np.testing.assert_allclose(told @ members, first.predict(new, verbose=0), atol=1e-4)
    np.testing.assert_allclose(left_out @ members, first_left_out, atol=1e-6)


def test_leaving_a_photo_out_is_fitting_without_it(settings: Callable[..., Params]) -> None:
    """The ridge regressions of each group, on a kernel that does not depend on which photos there are."""
    points, labels = cloud(3, 16)
    kernel, penalties = (points @ points.T).astype(float), np.full(16, 0.5)
    groups = [np.array([0, 2]), np.array([1]), np.array([3])]
    _, scores = kernel_ridge._ridges(kernel, penalties, labels, groups)
    for photo in range(16):
        rest = np.delete(np.arange(16), photo)
        coefficients, _ = kernel_ridge._ridges(kernel[np.ix_(rest, rest)], penalties[rest], labels[rest], groups)
        np.testing.assert_allclose(kernel[photo, rest] @ coefficients, scores[photo], atol=1e-9)


@pytest.mark.parametrize("kind", ["kernel", "softmax"])
def test_separate_labels_are_one_graph_that_comes_back(
    settings: Callable[..., Params], tmp_path: Path, kind: str
) -> None:
    points, labels = cloud(4)
    params = settings(SEPARATE).model.fusion
    if kind == "kernel":
        head, *_ = kernel_ridge.kernel_head(params, points, labels, classes=4, blocks=[5], penalty=0.1, parents=PARENTS)
    else:
        head = fusion.softmax_head(params, points, classes=4, parents=PARENTS)
    saving.save(head, list("abcd"), tmp_path / "models")
    loaded, _ = saving.load(tmp_path / "models")
    told = loaded.predict(points, verbose=0)
    np.testing.assert_array_equal(told, head.predict(points, verbose=0))
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)


def whole(kind: str, settings: Callable[..., Params]) -> keras.Model:
    """A small network from pixels, whose embedding is known."""
    pixels = keras.Input((4, 4, 3), name="pixels")
    x = layers.Rescaling(1 / 255)(layers.Flatten()(pixels))
    features = layers.Dense(5, name="blocks")(x)
    if kind == "softmax":
        return keras.Model(pixels, layers.Dense(4, activation="softmax", name="gem")(features))
    extractor, (points, labels) = keras.Model(pixels, features), cloud(5)
    if kind == "kernel":
        params = settings({"model.fusion.components": 3}).model.fusion
        head, *_ = kernel_ridge.kernel_head(params, points, labels, classes=4, blocks=[5], penalty=0.1)
    else:
        head = fusion.softmax_head(settings().model.fusion, points, classes=4)
    return fusion.attach(extractor, head)


@pytest.mark.parametrize(("kind", "size"), [("softmax", 5), ("kernel", 3), ("softmax head", 5)])
def test_the_embedding_is_within_reach_also_of_a_model_from_disk(
    settings: Callable[..., Params], tmp_path: Path, kind: str, size: int
) -> None:
    model = whole(kind, settings)
    saving.save(model, list("abcd"), tmp_path / "models")
    given = np.random.default_rng(6).uniform(0, 255, (3, 4, 4, 3)).astype(np.float32)
    told, embedding = saving.with_embedding(saving.load(tmp_path / "models")[0]).predict(given, verbose=0)
    assert embedding.shape == (3, size)
    np.testing.assert_allclose(told, model.predict(given, verbose=0), atol=1e-6)
    head = model.layers[-1] if isinstance(model.layers[-1], keras.Model) else None
    features = keras.Model(model.inputs[0], model.get_layer("blocks").output).predict(given, verbose=0)
    if head:
        expected = saving.with_embedding(head).predict(features, verbose=0)[1]
        assert (np.linalg.norm(expected, axis=1) < 1 + 1e-5).all()
    else:
        expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-6)
