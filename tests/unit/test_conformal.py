"""Prediction sets and unknown photos, on scores that can be worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from gemmodel.core.params import Params
from gemmodel.models import conformal
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet


@pytest.mark.parametrize(
    ("photos", "coverage", "expected"),
    [
        (9, 0.9, 9),  # the ninth of nine: (9 + 1) 0.9
        (8, 0.9, 99),  # too few: nothing bounds a ninth
        (19, 0.9, 18),
        (99, 0.9, 90),
        (10, 0.5, 6),
        (10, 0.0, 1),
        (10, 1.0, 99),
    ],
)
def test_a_quantile_is_the_one_with_the_finite_sample_guarantee(photos: int, coverage: float, expected: float) -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, photos + 1))
    assert conformal.conformal_quantile(scores, coverage, otherwise=99) == expected


def test_sets_hold_the_right_gem_as_often_as_promised() -> None:
    """Over many draws of calibration photos, the mean coverage of a new photo is within a hair of the exact value."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(2000):
        right = rng.uniform(size=40)  # of the right gem's probability; the 40th is the new photo
        threshold = -conformal.conformal_quantile(-right[:39], 0.9, otherwise=0.0)
        covered.append(right[39] >= threshold)
    assert np.mean(covered) == pytest.approx(36 / 40, abs=0.025)  # ceil(40 * 0.9) / 40; three standard errors


def test_the_most_probable_gem_is_in_the_set_however_improbable() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]])
    assert conformal.prediction_sets(probabilities, 0.3).tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert conformal.prediction_sets(probabilities, 0.95).sum(axis=1).tolist() == [1, 1, 1]
    assert conformal.prediction_sets(probabilities, 0.0).all()


def test_neighbours_have_the_largest_inner_product_and_are_never_the_photo_itself() -> None:
    known = np.array([[1, 0], [0, 1], [-1, 0], [0.8, 0.6], [0.96, 0.28]], np.float32)
    distances, places = conformal.nearest(np.array([[0.5, 0]], np.float32), known, 3)
    assert places.tolist() == [[0, 4, 3]]
    np.testing.assert_allclose(distances, [[0.5, 0.52, 0.6]], atol=1e-6)
    distances, places = conformal.nearest(known, known, 1, leave_out=True)
    assert places[:, 0].tolist() == [4, 3, 1, 4, 0]


def test_more_photos_than_are_compared_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = np.random.default_rng(3).normal(size=(20, 4))
    whole = conformal.nearest(known, known, 2, leave_out=True)
    monkeypatch.setattr(conformal, "ROWS", 7)
    for one, other in zip(conformal.nearest(known, known, 2, leave_out=True), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_photo_that_no_component_describes_is_far_from_all() -> None:
    distances, _ = conformal.nearest(np.zeros((1, 3)), np.eye(3), 2)
    assert distances.tolist() == [[1, 1]]


@pytest.mark.parametrize("undersampled", [True, False])
def test_thresholds_come_from_photos_not_learnt_from(settings: Callable[..., Params], left_out: bool) -> None:
    rng = np.random.default_rng(4)
    known = rng.normal(size=(40, 3)).astype(np.float32)
    labels = np.arange(40) % 3
    probabilities = rng.dirichlet(np.ones(3), size=40)
    reference = ReferenceSet(known, labels, np.arange(40).astype(str))
    others = known if left_out else rng.normal(size=(40, 3)).astype(np.float32)
    found = conformal.fit_thresholds(
        HeldOutPredictions(probabilities, labels, reference, None if left_out else others),
        settings({"train.neighbours": 2, "train.ood_false_positive_rate": 0.1, "train.coverage": 0.8}).train,
    )
    assert (found.coverage, found.neighbours) == (0.8, 2)
    right = probabilities[np.arange(40), labels]
    assert found.set_threshold == np.sort(right)[::-1][33 - 1]  # ceil(41 * 0.8)
    away = conformal.nearest(others, known, 2, leave_out=left_out)[0].mean(axis=1)
    assert found.unknown_distance == pytest.approx(np.sort(away)[37 - 1])  # ceil(41 * 0.9)


def test_few_photos_flag_nothing_and_name_everything(settings: Callable[..., Params]) -> None:
    reference = ReferenceSet(np.eye(2, dtype=np.float32), np.array([0, 1]), np.array(["a", "b"]))
    found = conformal.fit_thresholds(
        HeldOutPredictions(np.full((2, 2), 0.5), np.array([0, 1]), reference), settings().train
    )
    assert (found.set_threshold, found.neighbours, found.unknown_distance) == (0, 1, 2)
