"""How sure an answer is: prediction sets, and photos unlike all that are known. NumPy alone: serving needs it too."""

import math
from dataclasses import dataclass

import numpy as np

from gemmodel.core.params import TrainParams

CHUNK = 1024  # photos compared with the known ones at a time


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a model's answers.

    Attributes:
        coverage: the share of photos whose gem the prediction set is to hold.
        set_threshold: a gem is in the set if its probability is at least this; the most probable one always is.
        neighbours: how many nearest known photos tell how far away a photo is.
        unknown_distance: a photo is unlike all known gems if its mean distance to them is more than this.
    """

    coverage: float
    set_threshold: float
    neighbours: int
    unknown_distance: float


@dataclass(frozen=True)
class ReferenceSet:
    """The photos that a model has learnt from.

    Attributes:
        embedding: float32 (photos, D), of length 1 at most.
        labels: class indices, int32 (photos,).
        files: their paths within the clean folder, str (photos,).
    """

    embedding: np.ndarray
    labels: np.ndarray
    files: np.ndarray


@dataclass(frozen=True)
class HeldOutPredictions:
    """What photos tell of a model that has not learnt from them.

    Attributes:
        probabilities: float (photos, classes).
        labels: their class indices, int (photos,).
        reference: the photos learnt from.
        embedding: of the photos, float32 (photos, D). None: they are those of the reference, each left out in turn.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    reference: ReferenceSet
    embedding: np.ndarray | None = None


def fit_thresholds(evidence: HeldOutPredictions, params: TrainParams) -> Thresholds:
    """Sets the thresholds of a model by photos that it has not learnt from.

    Args:
        evidence: of the model.
        params: `coverage`, `neighbours` and `ood_false_positive_rate`, the share of photos of known gems that may be called
            unlike all known ones.
    """
    known = evidence.reference.embedding
    neighbours = max(1, min(params.neighbours, len(known) - 1))
    if evidence.embedding is None:
        distances, _ = nearest(known, known, neighbours, leave_out=True)
    else:
        distances, _ = nearest(evidence.embedding, known, neighbours)
    right = evidence.probabilities[np.arange(len(evidence.labels)), evidence.labels]
    return Thresholds(
        coverage=params.coverage,
        set_threshold=-conformal_quantile(-right, params.coverage, otherwise=0.0),
        neighbours=neighbours,
        unknown_distance=conformal_quantile(distances.mean(axis=1), 1 - params.ood_false_positive_rate, otherwise=2.0),
    )


def conformal_quantile(scores: np.ndarray, coverage: float, *, otherwise: float) -> float:
    """Returns a bound that the score of one more photo, exchangeable with these, keeps with a given probability.

    The ceil((n + 1) coverage)-th smallest of n scores: split conformal prediction, after Vovk, Gammerman and Shafer,
    "Algorithmic Learning in a Random World", 2005.

    Args:
        scores: float (photos,), the higher the stranger.
        coverage: that probability, in [0, 1].
        otherwise: the bound where the scores are too few for one, the highest score that there can be.
    """
    place = max(1, math.ceil(round((len(scores) + 1) * coverage, 9)))
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else otherwise


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Returns which gems are in the prediction set of each photo, bool of the same shape (photos, classes).

    After Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers", JASA 2019.
    """
    return (probabilities >= threshold) | (probabilities >= probabilities.max(axis=1, keepdims=True))


def nearest(
    embedding: np.ndarray, known: np.ndarray, neighbours: int, *, leave_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the known photos nearest to each photo.

    Args:
        embedding: of the photos, float (photos, D), of length 1 at most: what no component holds is missing from it,
            and so takes a strange photo away from all.
        known: of the known photos, float (known, D), likewise.
        neighbours: how many to find, at most all of them.
        leave_out: both are the same photos, and none is its own neighbour.

    Returns:
        Their distances, 1 less the inner product, so in [0, 2], and their indices: (photos, neighbours), nearest first.
    """
    places, distances = [], []
    for start in range(0, len(embedding), CHUNK):
        # Not a product of matrices: BLAS would wake its threads for it, which then wait on cores that others need.
        away = 1 - np.vecdot(embedding[start : start + CHUNK, np.newaxis], known)
        if leave_out:
            away[np.arange(len(away)), start + np.arange(len(away))] = np.inf
        places.append(np.argsort(away, axis=1, kind="stable")[:, :neighbours])
        distances.append(np.take_along_axis(away, places[-1], axis=1))
    return np.concatenate(distances), np.concatenate(places)
