"""Prediction sets and the detection of unusual photos, on scores that can be checked by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from gemmodel.core.params import Params
from gemmodel.models import conformal, held_out
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet, Thresholds


@pytest.mark.parametrize(
    ("photos", "coverage", "expected"),
    [
        (9, 0.9, 9),  # the ninth of nine: (9 + 1) 0.9
        (8, 0.9, 99),  # too few scores for a bound: the default
        (19, 0.9, 18),
        (99, 0.9, 90),
        (10, 0.5, 6),
        (10, 0.0, 1),
        (10, 1.0, 99),
    ],
)
def test_the_quantile_has_the_finite_sample_guarantee(photos: int, coverage: float, expected: float) -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, photos + 1))
    assert conformal.conformal_quantile(scores, coverage, default=99) == expected


def thresholds(set_threshold: float, *, relative: bool = True) -> Thresholds:
    return Thresholds(coverage=0.9, set_threshold=set_threshold, neighbours=3, unknown_distance=1.0, relative=relative)


def test_prediction_sets_have_the_exact_coverage(settings: Callable[..., Params]) -> None:
    """Of a new photo, on average over many draws of calibration photos."""
    rng, train = np.random.default_rng(2), settings({"train.coverage": 0.9}).train
    covered = []
    for _ in range(300):
        probabilities = rng.dirichlet(np.full(4, 0.5), size=40)  # the last one is that of the new photo
        labels = rng.multinomial(1, probabilities).argmax(axis=1)
        reference = ReferenceSet(np.zeros((39, 1)), labels[:39], np.arange(39).astype(str))
        fitted = conformal.fit_thresholds(HeldOutPredictions(probabilities[:39], labels[:39], reference), train)
        covered.append(conformal.prediction_sets(probabilities[39:], fitted)[0, labels[39]])
    assert np.mean(covered) == pytest.approx(36 / 40, abs=0.05)  # ceil(40 * 0.9) / 40; three standard errors


def test_the_most_probable_gem_is_always_in_the_set() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]])
    assert conformal.prediction_sets(probabilities, thresholds(0.5)).tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert conformal.prediction_sets(probabilities, thresholds(1.0)).sum(axis=1).tolist() == [1, 1, 1]
    assert conformal.prediction_sets(probabilities, thresholds(0.0)).all()


def test_thresholds_of_a_former_model_folder_are_probabilities() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]])
    former = thresholds(0.3, relative=False)
    assert conformal.prediction_sets(probabilities, former).tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    former = thresholds(0.95, relative=False)
    assert conformal.prediction_sets(probabilities, former).sum(axis=1).tolist() == [1, 1, 1]


def test_look_alikes_are_pairs_that_were_confused_more_often_than_by_chance() -> None:
    labels = np.repeat([0, 1, 2], 20)
    predicted = labels.copy()
    predicted[[0, 1, 20]] = [1, 1, 0]  # three photos of the first two gems, in both directions
    predicted[[2, 40]] = [2, 0]  # two: chance
    assert held_out.look_alikes(predicted, labels, classes=3) == [(0, 1)]
    many = np.repeat([0, 1], 100)
    assert held_out.look_alikes(np.where(np.arange(200) < 3, 1, many), many, classes=2) == []  # 3 of 200


def test_held_out_photos_say_how_often_sets_of_a_probability_are_right() -> None:
    probabilities = np.repeat([[0.97, 0.03], [0.7, 0.3], [0.55, 0.45]], [40, 40, 10], axis=0)
    labels = np.r_[np.zeros(39, int), 1, np.zeros(30, int), np.ones(10, int), np.zeros(10, int)]
    reference = ReferenceSet(np.zeros((90, 1)), labels, np.arange(90).astype(str))
    predictions = HeldOutPredictions(probabilities, labels, reference)
    summary = held_out.summarise(predictions, ["Agate", "Ruby"], thresholds(0.5))
    assert [summary.frequency(p) for p in (0.96, 0.75, 0.3)] == [39 / 40, 30 / 40, None]
    assert summary.frequency(1.0) is None  # ten photos have both gems in their set, which are too few
    assert summary.look_alikes == [("Agate", "Ruby")]
    assert summary.pairs(["Ruby"]) == [] and summary.pairs(["Ruby", "Agate"]) == [("Agate", "Ruby")]


def test_neighbours_have_the_largest_inner_product_and_exclude_the_photo_itself() -> None:
    reference = np.array([[1, 0], [0, 1], [-1, 0], [0.8, 0.6], [0.96, 0.28]], np.float32)
    distances, indices = conformal.nearest(np.array([[0.5, 0]], np.float32), reference, 3)
    assert indices.tolist() == [[0, 4, 3]]
    np.testing.assert_allclose(distances, [[0.5, 0.52, 0.6]], atol=1e-6)  # float32
    distances, indices = conformal.nearest(reference, reference, 1, leave_out=True)
    assert indices[:, 0].tolist() == [4, 3, 1, 4, 0]


def test_the_chunks_of_a_comparison_do_not_change_it() -> None:
    reference = np.random.default_rng(3).normal(size=(20, 4))
    whole = conformal.nearest(reference, reference, 2, leave_out=True)
    distances, indices = conformal.nearest(reference, reference, 2, leave_out=True, chunk=7)
    np.testing.assert_allclose(distances, whole[0], atol=1e-12)  # float64 sums, perhaps in another order
    np.testing.assert_array_equal(indices, whole[1])


def test_a_photo_that_no_component_describes_is_far_from_all_others() -> None:
    distances, _ = conformal.nearest(np.zeros((1, 3)), np.eye(3), 2)
    assert distances.tolist() == [[1, 1]]


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_thresholds_are_quantiles_over_the_held_out_photos(
    settings: Callable[..., Params], leave_one_out: bool
) -> None:
    rng = np.random.default_rng(4)
    embedding = rng.normal(size=(40, 3)).astype(np.float32)
    labels = np.arange(40) % 3
    probabilities = rng.dirichlet(np.ones(3), size=40)
    reference = ReferenceSet(embedding, labels, np.arange(40).astype(str))
    others = embedding if leave_one_out else rng.normal(size=(40, 3)).astype(np.float32)
    fitted = conformal.fit_thresholds(
        HeldOutPredictions(probabilities, labels, reference, None if leave_one_out else others),
        settings({"train.neighbours": 2, "train.ood_false_positive_rate": 0.1, "train.coverage": 0.8}).train,
    )
    assert (fitted.coverage, fitted.neighbours, fitted.relative) == (0.8, 2, True)
    ratios = probabilities[np.arange(40), labels] / probabilities.max(axis=1)
    assert fitted.set_threshold == np.sort(ratios)[::-1][33 - 1]  # ceil(41 * 0.8)
    distances = conformal.nearest(others, embedding, 2, leave_out=leave_one_out)[0].mean(axis=1)
    assert fitted.unknown_distance == np.sort(distances)[37 - 1]  # ceil(41 * 0.9)


def test_with_few_photos_no_photo_is_unknown_and_sets_contain_all_gems(settings: Callable[..., Params]) -> None:
    reference = ReferenceSet(np.eye(2, dtype=np.float32), np.array([0, 1]), np.array(["a", "b"]))
    fitted = conformal.fit_thresholds(
        HeldOutPredictions(np.full((2, 2), 0.5), np.array([0, 1]), reference), settings().train
    )
    assert (fitted.set_threshold, fitted.neighbours, fitted.unknown_distance) == (0, 1, 2)
