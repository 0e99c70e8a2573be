"""Several photos of one stone: one prediction for all of them. NumPy alone."""

from dataclasses import replace

import numpy as np

from gemmodel.models.metadata import ModelMetadata
from gemmodel.serve import predictions
from gemmodel.serve.predictions import Prediction

EPS = 1e-9  # the least probability of a gem, so that one photo alone does not rule it out


def join(probabilities: np.ndarray, embedding: np.ndarray, metadata: ModelMetadata, *, top: int = 5) -> Prediction:
    """Returns one prediction for several photos of one stone.

    The probabilities are the normalised geometric mean of the photos' (a logarithmic opinion pool: Genest and Zidek,
    "Combining probability distributions", Statistical Science 1986). Equal photos give the answer of one of them, and
    photos that agree do not count as independent observations. The stone is unknown where at least half of its photos
    are, and its distance is the mean of theirs.

    Args:
        probabilities: float (photos, classes).
        embedding: float (photos, D), of length 1 at most.
        metadata: of the model that computed both.
        top: as in `predictions.to_predictions`.
    """
    pooled = np.exp(np.log(np.maximum(probabilities, EPS)).mean(axis=0, keepdims=True))
    joined = predictions.to_predictions(
        pooled / pooled.sum(), embedding.mean(axis=0, keepdims=True), metadata, top=top
    )[0]  # fmt: skip
    each = predictions.to_predictions(probabilities, embedding, metadata, top=top)
    all_nearest = [neighbour for prediction in each for neighbour in prediction.nearest]
    farthest_first = sorted(all_nearest, key=lambda neighbour: -neighbour.distance)
    nearest = {neighbour.file: neighbour for neighbour in farthest_first}  # each file once, at its least distance
    return replace(
        joined,
        distance=float(np.mean([prediction.distance for prediction in each])),
        unknown=2 * sum(prediction.unknown for prediction in each) >= len(each),
        nearest=sorted(nearest.values(), key=lambda neighbour: (neighbour.distance, neighbour.file))[:top],
    )
