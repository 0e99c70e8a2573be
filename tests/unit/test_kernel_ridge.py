"""Kernel ridge regression against scikit-learn's, its leave-one-out scores, stacking, and its Keras graph."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sklearn.kernel_ridge
import sklearn.linear_model
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import FusionParams, Params
from gemmodel.train.fusion_head import to_keras
from gemmodel.train.ridge import nystroem
from gemmodel.train.ridge.calibration import KernelRidgeFit, fit_ridges, fit_stacker, grouped_softmax
from gemmodel.train.ridge.kernel_ridge import KernelRidge, draw_landmarks, grouped_ridge

Cloud = Callable[..., tuple[np.ndarray, np.ndarray]]
PHOTOS, PENALTY, BLOCKS = 45, 0.2, [2, 3]
PARENTS = [0, 1, 0, 2]  # the mineral class of each of four gems
# The estimator computes its kernel in float32, the reference in float64: entries differ by some 1e-7, and coefficients
# by at most that times the condition number of the regularised kernel, (45 + 0.2) / 0.2.
TOLERANCE = 1e-4


@pytest.fixture
def fusion_params(settings: Callable[..., Params]) -> Callable[..., FusionParams]:
    """Return the section `model.fusion` with `clip: 2` and other values for some keys."""

    def load(**changes: Any) -> FusionParams:
        return settings({f"model.fusion.{key}": value for key, value in ({"clip": 2} | changes).items()}).model.fusion

    return load


def kernel(features: np.ndarray, train: np.ndarray, degree: int) -> np.ndarray:
    """The kernel of the docstring, in float64, between photos and the training photos."""
    features, train = features.astype(float), train.astype(float)
    mean, std = train.mean(axis=0), train.std(axis=0)
    cosines = []
    for start, end in pairwise(np.cumsum([0, *BLOCKS])):
        a, b = (np.clip((x - mean) / std, -2, 2)[:, start:end] for x in (features, train))
        norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        cosines.append(a @ b.T / norms)
    return ((1 + np.mean(cosines, axis=0)) / 2) ** degree


def reference(train_kernel: np.ndarray, labels: np.ndarray, **fit: Any) -> sklearn.kernel_ridge.KernelRidge:
    ridge = sklearn.kernel_ridge.KernelRidge(alpha=PENALTY, kernel="precomputed")
    return ridge.fit(train_kernel, np.eye(3)[labels] - 1 / 3, **fit)


def calibrated(scores: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
    a, b = scales
    return a * np.arcsinh(b * scores)


def test_coefficients_and_probabilities_match_scikit_learn(
    fusion_params: Callable[..., FusionParams], cloud: Cloud
) -> None:
    (features, labels), new = cloud(5, PHOTOS), cloud(6, 20)[0]
    params = fusion_params(degree=3, stacking_penalty=0)
    ridge = KernelRidge(params, classes=3, blocks=BLOCKS, penalty=PENALTY).fit(features, labels)
    expected = reference(kernel(features, features, 3), labels)
    np.testing.assert_allclose(ridge.gems_.dual_coef[0], expected.dual_coef_, atol=TOLERANCE)
    probs = softmax(calibrated(expected.predict(kernel(new, features, 3)), ridge.gems_.arcsinh_scales[0]), axis=1)
    np.testing.assert_allclose(ridge.predict_proba(new), probs, atol=TOLERANCE)


def test_a_smaller_penalty_is_a_larger_sample_weight(fusion_params: Callable[..., FusionParams], cloud: Cloud) -> None:
    features, labels = cloud(5, PHOTOS)
    weights = np.where(labels == 0, 4.0, 0.5)
    params = fusion_params(degree=3, stacking_penalty=0)
    ridge = KernelRidge(params, classes=3, blocks=BLOCKS, penalty=PENALTY / weights).fit(features, labels)
    expected = reference(kernel(features, features, 3), labels, sample_weight=weights)
    # The weight of 4 divides the penalty, and so multiplies the condition number, by 4.
    np.testing.assert_allclose(ridge.gems_.dual_coef[0], expected.dual_coef_, atol=4 * TOLERANCE)


def test_leave_one_out_is_fitting_without_the_photo(fusion_params: Callable[..., FusionParams], cloud: Cloud) -> None:
    features, labels = cloud(5, PHOTOS)
    params = fusion_params(degree=3, stacking_penalty=0)
    ridge = KernelRidge(params, classes=3, blocks=BLOCKS, penalty=PENALTY).fit(features, labels)
    whole, scores = kernel(features, features, 3), np.empty((PHOTOS, 3))
    for photo in range(PHOTOS):
        rest = np.delete(np.arange(PHOTOS), photo)
        scores[photo] = reference(whole[np.ix_(rest, rest)], labels[rest]).predict(whole[[photo]][:, rest])[0]
    expected = softmax(calibrated(scores, ridge.gems_.arcsinh_scales[0]), axis=1)
    np.testing.assert_allclose(ridge.loo_probs_, expected, atol=TOLERANCE)


def test_leave_one_out_of_a_group_is_fitting_without_the_photo(
    fusion_params: Callable[..., FusionParams], cloud: Cloud
) -> None:
    features, labels = cloud(3, 16)[0], np.arange(16) % 4
    linear, penalties = (features @ features.T).astype(float), np.full(16, 0.5)
    groups = [np.array([0, 2]), np.array([1]), np.array([3])]
    params = fusion_params(degree=1)

    def fitted_to(rows: np.ndarray) -> KernelRidgeFit:
        kernel = linear[np.ix_(rows, rows)]
        ridge = grouped_ridge(kernel, penalties[rows], labels[rows], groups)
        return fit_ridges(params, [ridge], labels[rows], groups)

    ridges = fitted_to(np.arange(16))
    scores = np.empty((16, 4))
    for photo in range(16):
        rest = np.delete(np.arange(16), photo)
        scores[photo] = linear[photo, rest] @ fitted_to(rest).dual_coef[0]
    expected = grouped_softmax(calibrated(scores, ridges.arcsinh_scales[0]), groups)
    # Both in float64; the arcsinh scale multiplies the rounding of the scores, some 1e-14, by up to exp(5) ** 2.
    np.testing.assert_allclose(ridges.loo_probs, expected, atol=1e-9)


def test_stacking_is_softmax_regression_regularised_towards_the_mean() -> None:
    """Against scikit-learn's, which is regularised towards 0; and it corrects a class that is taken for another."""
    rng = np.random.default_rng(1)
    labels = np.arange(90) % 3
    scores = rng.normal(size=(90, 3)) + 2 * np.eye(3)[np.where(labels == 2, 1, labels)] + np.eye(3)[labels]
    expected = LogisticRegression(C=1 / 5, fit_intercept=False, tol=1e-8).fit(scores, labels).coef_.T
    # Both minimise by L-BFGS, SciPy until a step gains less than 2e-9 of a loss of some 50; the curvature is 5 or more.
    np.testing.assert_allclose(fit_stacker(scores, labels, np.zeros((3, 3)), 5), expected, atol=1e-3)
    mean = np.eye(3)
    # A penalty of 1e9 leaves a difference of the gradient, some 50, divided by it.
    np.testing.assert_allclose(fit_stacker(scores, labels, mean, 1e9), mean, atol=1e-4)
    stacked = scores @ fit_stacker(scores, labels, mean, 1)
    third = labels == 2
    assert (scores.argmax(axis=1) == 2)[third].mean() < 0.2
    assert (stacked.argmax(axis=1) == 2)[third].mean() > 0.4
    assert (stacked.argmax(axis=1) == labels).mean() > (scores.argmax(axis=1) == labels).mean()


def test_the_scores_of_two_degrees_are_stacked(fusion_params: Callable[..., FusionParams], cloud: Cloud) -> None:
    """Against scikit-learn's regressions; with a huge penalty the stacker is the mean of the degrees."""
    (features, labels), new = cloud(5, PHOTOS), cloud(6, 20)[0]

    def fit(penalty: float, *, loo: bool = True) -> KernelRidge:
        params = fusion_params(degree=[2, 5], stacking_penalty=penalty)
        return KernelRidge(params, classes=3, blocks=BLOCKS, penalty=PENALTY, loo=loo).fit(features, labels)

    ridge = fit(100)
    np.testing.assert_array_equal(fit(100, loo=False).predict_proba(new), ridge.predict_proba(new))
    scores = [
        calibrated(reference(kernel(features, features, degree), labels).predict(kernel(new, features, degree)), scales)
        for degree, scales in zip((2, 5), ridge.gems_.arcsinh_scales, strict=True)
    ]
    expected = softmax(np.concatenate(scores, axis=1) @ ridge.gems_.stacker, axis=1)
    np.testing.assert_allclose(ridge.predict_proba(new), expected, atol=TOLERANCE)
    np.testing.assert_allclose(ridge.loo_probs_.sum(axis=1), 1, atol=1e-9)  # float64
    mean, plain = fit(1e9), fit(0)
    np.testing.assert_allclose(mean.gems_.stacker, np.tile(np.eye(3) / 2, (2, 1)), atol=1e-4)
    np.testing.assert_allclose(mean.loo_probs_, plain.loo_probs_, atol=1e-4)


@pytest.fixture
def gems() -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Draw photos of four gems, of which the first and the third are alike, and their class indices."""

    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(48) % 4
        centres = np.array([[3, 0, 0, 0, 0], [0, 3, 0, 0, 0], [3, 0, 1, 0, 0], [0, 0, 0, 3, 0]])
        noise = np.random.default_rng(seed).normal(size=(48, 5))
        return (noise + centres[labels]).astype(np.float32), labels

    return draw


def test_separate_labels_sum_to_the_regression_of_mineral_classes(
    fusion_params: Callable[..., FusionParams], gems: Callable[[int], tuple[np.ndarray, np.ndarray]]
) -> None:
    (features, labels), (new, new_labels) = gems(1), gems(2)
    common: dict[str, Any] = {"blocks": BLOCKS, "penalty": PENALTY}
    separate = KernelRidge(fusion_params(labels="separate"), classes=4, parents=PARENTS, **common)
    probs = separate.fit(features, labels).predict_proba(new)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-9)  # here and below float64
    assert (probs.argmax(axis=1) == new_labels).mean() > 0.7
    single = KernelRidge(fusion_params(), classes=3, **common).fit(features, np.array(PARENTS)[labels])
    members = np.eye(3)[PARENTS]
    np.testing.assert_allclose(probs @ members, single.predict_proba(new), atol=1e-9)
    np.testing.assert_allclose(separate.loo_probs_ @ members, single.loo_probs_, atol=1e-9)


@pytest.mark.parametrize("labels", ["all", "separate"])
def test_the_keras_graph_gives_the_same_probabilities(
    fusion_params: Callable[..., FusionParams], gems: Callable[[int], tuple[np.ndarray, np.ndarray]], labels: str
) -> None:
    (features, indices), new = gems(1), gems(2)[0]
    features[:, 4] = 0  # a feature that never changes
    ridge = KernelRidge(
        fusion_params(labels=labels, degree=[3, 8]), classes=4, blocks=BLOCKS, penalty=PENALTY, parents=PARENTS
    ).fit(features, indices)
    # The graph computes in float32. Its kernel differs by some 1e-7, in degree 8 by eight times that. The sum of its
    # products with coefficients of some 5 differs by 1e-5. The arcsinh scale and the stacker multiply that by about 10.
    np.testing.assert_allclose(np.asarray(to_keras(ridge)(new)[0]), ridge.predict_proba(new), atol=1e-4)


@pytest.mark.parametrize("labels", ["all", "separate"])
def test_landmarks_give_the_regression_on_the_features_of_scikit_learns_nystroem(
    fusion_params: Callable[..., FusionParams], cloud: Cloud, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nystroem, "BLOCK", 7)  # several batches, the last one smaller
    (features, indices), new = cloud(1, 60), cloud(2, 9)[0]
    parents = [0, 1, 0]
    params = fusion_params(landmarks=20, degree=3, stacking_penalty=0, labels=labels)
    ridge = KernelRidge(params, classes=3, blocks=BLOCKS, penalty=PENALTY, parents=parents, seed=5)
    ridge.fit(features, indices)
    assert len(ridge.landmarks_) == len(ridge.kernel_.support) == 20
    assert set(indices[ridge.landmarks_]) == {0, 1, 2}
    if labels == "separate":
        assert ridge.predict_proba(new).sum(axis=1) == pytest.approx(np.ones(9))
        return

    def similarity(photos: np.ndarray) -> np.ndarray:
        return ridge.kernel_.similarity(photos).astype(
            float
        )  # of the principal components, as the exact solution has it

    def scores(rows: np.ndarray, photos: np.ndarray) -> np.ndarray:
        """Scores of photos by a regression on some rows, with the landmarks among these."""
        kept = np.isin(ridge.landmarks_, rows)
        chosen = features[ridge.landmarks_[kept]]
        mapped = [similarity(of)[:, kept] ** 3 for of in (features[rows], photos)]
        values, vectors = np.linalg.eigh(similarity(chosen)[:, kept] ** 3 + nystroem.JITTER * np.eye(kept.sum()))
        train, test = (k @ (vectors / np.sqrt(values)) for k in mapped)  # as Nystroem does
        targets = np.eye(3)[indices[rows]] - 1 / 3
        return sklearn.linear_model.Ridge(PENALTY, fit_intercept=False).fit(train, targets).predict(test)

    everything = np.arange(60)
    (dual_coef,), (scales,) = ridge.gems_.dual_coef, ridge.gems_.arcsinh_scales
    # float32 features, whose errors the inverse of the landmarks' kernel magnifies
    np.testing.assert_allclose(similarity(new) ** 3 @ dual_coef, scores(everything, new), atol=2e-3)
    left_out = np.concatenate([scores(np.delete(everything, i), features[i : i + 1]) for i in everything])
    np.testing.assert_allclose(ridge.loo_probs_, softmax(calibrated(left_out, scales), axis=1), atol=5e-3)


def test_as_many_landmarks_as_photos_give_the_exact_solution(
    fusion_params: Callable[..., FusionParams], cloud: Cloud
) -> None:
    (features, indices), new = cloud(1), cloud(2)[0]
    common: dict[str, Any] = {"classes": 3, "blocks": BLOCKS, "penalty": PENALTY}
    exact = KernelRidge(fusion_params(landmarks=len(features)), **common).fit(features, indices)
    assert exact.landmarks_.tolist() == list(range(len(features)))
    fewer = KernelRidge(fusion_params(landmarks=len(features) - 1), **common).fit(features, indices)
    # One photo of 60 is no landmark: no feature is standardised by it, and photos are compared with it through others.
    assert np.abs(fewer.predict_proba(new) - exact.predict_proba(new)).mean() < 0.02
    assert np.abs(fewer.loo_probs_ - exact.loo_probs_).mean() < 0.02


def test_fewer_landmarks_than_classes_are_refused(fusion_params: Callable[..., FusionParams], cloud: Cloud) -> None:
    ridge = KernelRidge(fusion_params(landmarks=2), classes=3, blocks=BLOCKS, penalty=0.1)
    with pytest.raises(ParameterError, match=r"model\.fusion\.landmarks: 2 are fewer than the 3 classes"):
        ridge.fit(*cloud(1))


def test_landmarks_are_drawn_in_proportion_to_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 2])
    drawn = draw_landmarks(labels, 90, seed=1)
    assert np.bincount(labels[drawn]).tolist() == pytest.approx([60, 30, 1], abs=1)
    assert drawn.tolist() == draw_landmarks(labels, 90, seed=1).tolist() != draw_landmarks(labels, 90, seed=2).tolist()
