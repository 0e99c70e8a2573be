"""Prediction sets, and the detection of photos unlike all training photos. NumPy only: serving needs it too."""

import math
from dataclasses import dataclass

import numpy as np

from gemmodel.core.params import TrainParams

CHUNK = 1024  # photos compared with the reference at a time


@dataclass(frozen=True)
class Thresholds:
    """The thresholds that a model's probabilities and distances are compared with.

    Attributes:
        coverage: the fraction of photos whose gem the prediction set is to contain.
        set_threshold: the smallest probability of a gem in the prediction set. The most probable gem is always in it.
        neighbours: the number of nearest reference photos whose mean distance is taken.
        unknown_distance: the largest mean distance of a photo that counts as like the training photos.
        relative: whether `set_threshold` is a fraction of the most probable gem's probability. Model folders that do
            not say so are of a former version, where it was not.
    """

    coverage: float
    set_threshold: float
    neighbours: int
    unknown_distance: float
    relative: bool = False


@dataclass(frozen=True)
class ReferenceSet:
    """Training photos of a model, which new photos are compared with.

    Attributes:
        embedding: float32 (photos, D), each of length at most 1.
        labels: class indices, int32 (photos,).
        files: their paths within the clean folder, str (photos,).
    """

    embedding: np.ndarray
    labels: np.ndarray
    files: np.ndarray


@dataclass(frozen=True)
class HeldOutPredictions:
    """A model's predictions for photos that it was not trained on.

    Attributes:
        probabilities: float (photos, classes).
        labels: their class indices, int (photos,).
        reference: photos that the model was trained on.
        embedding: of the held-out photos, float32 (photos, D). None: these are the reference photos themselves, and
            each one was left out in turn.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    reference: ReferenceSet
    embedding: np.ndarray | None = None


def fit_thresholds(held_out: HeldOutPredictions, params: TrainParams) -> Thresholds:
    """Fits the thresholds of a model to photos that it was not trained on.

    Args:
        held_out: the model's predictions for them.
        params: `coverage`, `neighbours`, and `ood_false_positive_rate`, the fraction of photos of trained gems that may
            be flagged as unlike all of them.
    """
    reference = held_out.reference.embedding
    neighbours = max(1, min(params.neighbours, len(reference) - 1))
    if held_out.embedding is None:
        distances, _ = nearest(reference, reference, neighbours, leave_out=True)
    else:
        distances, _ = nearest(held_out.embedding, reference, neighbours)
    label_probs = held_out.probabilities[np.arange(len(held_out.labels)), held_out.labels]
    ratios = label_probs / held_out.probabilities.max(axis=1)
    return Thresholds(
        coverage=params.coverage,
        set_threshold=-conformal_quantile(-ratios, params.coverage, default=0.0),
        neighbours=neighbours,
        unknown_distance=conformal_quantile(distances.mean(axis=1), 1 - params.ood_false_positive_rate, default=2.0),
        relative=True,
    )


def conformal_quantile(scores: np.ndarray, coverage: float, *, default: float) -> float:
    """Returns a bound that the score of one more, exchangeable photo does not exceed with a given probability.

    It is the ceil((n + 1) coverage)-th smallest of n scores: split conformal prediction (Vovk, Gammerman and Shafer,
    "Algorithmic Learning in a Random World", 2005).

    Args:
        scores: nonconformity scores, float (photos,).
        coverage: that probability, in [0, 1].
        default: the bound where there are too few scores for one; the highest possible score.
    """
    rank = max(1, math.ceil(round((len(scores) + 1) * coverage, 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else default


def prediction_sets(probabilities: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Returns which gems are in the prediction set of each photo, bool of the same shape (photos, classes).

    A gem is in the set if its probability is at least `set_threshold` times that of the most probable gem: the
    likelihood ratio as nonconformity score. Without `relative`, after Sadinle, Lei and Wasserman, "Least ambiguous
    set-valued classifiers", JASA 2019. Either way the most probable gem is in it.
    """
    highest = probabilities.max(axis=1, keepdims=True)
    if thresholds.relative:
        return probabilities >= thresholds.set_threshold * highest
    return (probabilities >= thresholds.set_threshold) | (probabilities >= highest)


def nearest(
    embedding: np.ndarray, reference: np.ndarray, neighbours: int, *, leave_out: bool = False, chunk: int = CHUNK
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest reference photos of each photo.

    Args:
        embedding: of the photos, float (photos, D), each of length at most 1. What no component describes makes it
            shorter, and so increases the distance of an unusual photo from all others.
        reference: of the reference photos, float (reference photos, D), likewise.
        neighbours: the number of reference photos to return, at most all of them.
        leave_out: both are the same photos, and none is its own neighbour.
        chunk: photos compared at a time, which bounds the memory.

    Returns:
        Their distances, 1 - the inner product, so in [0, 2], and their indices; both (photos, neighbours), nearest
        first.
    """
    indices, distances = [], []
    for start in range(0, len(embedding), chunk):
        # Not a matrix product: BLAS would start its threads for it, which then wait for cores that others need.
        from_all = 1 - np.vecdot(embedding[start : start + chunk, np.newaxis], reference)
        if leave_out:
            from_all[np.arange(len(from_all)), start + np.arange(len(from_all))] = np.inf
        indices.append(np.argsort(from_all, axis=1, kind="stable")[:, :neighbours])
        distances.append(np.take_along_axis(from_all, indices[-1], axis=1))
    return np.concatenate(distances), np.concatenate(indices)
