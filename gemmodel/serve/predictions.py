"""From a model's probabilities and embedding to what a person is told. NumPy alone: no TensorFlow, no MLflow."""

from dataclasses import dataclass

import numpy as np

from gemmodel.models import conformal
from gemmodel.models.metadata import ModelMetadata


@dataclass(frozen=True)
class Neighbour:
    """A photo that the model has learnt from, and its distance from the one asked about, in [0, 2]."""

    file: str
    gem: str
    distance: float


@dataclass(frozen=True)
class Prediction:
    """What a person is told of a photo.

    Attributes:
        gem: the most probable gem.
        mineral_class: the one that it belongs to.
        probability: of the gem, in [0, 1].
        top: the most probable gems with their probabilities, highest first.
        prediction_set: the prediction set: the gems of which the right one is one, in as many cases as `coverage` says.
        unknown: whether the photo is unlike all known gems.
        distance: mean distance to the nearest known photos, in [0, 2].
        nearest: those photos, nearest first.
    """

    gem: str
    mineral_class: str
    probability: float
    top: list[tuple[str, float]]
    prediction_set: list[str]
    unknown: bool
    distance: float
    nearest: list[Neighbour]


def to_predictions(
    probabilities: np.ndarray, embedding: np.ndarray, knowledge: ModelMetadata, *, top: int = 5
) -> list[Prediction]:
    """Returns what a person is told of each photo.

    Args:
        probabilities: float (photos, classes).
        embedding: float (photos, D).
        knowledge: of the model that gave both.
        top: how many gems and known photos are named, at most.
    """
    classes, thresholds, known = knowledge.classes, knowledge.thresholds, knowledge.reference
    order = np.argsort(-probabilities, axis=1, kind="stable")
    in_set = conformal.prediction_sets(probabilities, thresholds.set_threshold)
    shown = min(max(top, thresholds.neighbours), len(known.embedding))
    away, places = conformal.nearest(embedding, known.embedding, shown)
    distances = away[:, : thresholds.neighbours].mean(axis=1)
    return [
        Prediction(
            gem=classes[order[photo, 0]],
            mineral_class=knowledge.hierarchy[classes[order[photo, 0]]],
            probability=float(probabilities[photo, order[photo, 0]]),
            top=[(classes[index], float(probabilities[photo, index])) for index in order[photo, :top]],
            prediction_set=[classes[index] for index in order[photo] if in_set[photo, index]],
            unknown=bool(distances[photo] > thresholds.unknown_distance),
            distance=float(distances[photo]),
            nearest=[
                Neighbour(str(known.files[place]), classes[known.labels[place]], float(distance))
                for place, distance in zip(places[photo, :top], away[photo, :top], strict=True)
            ],
        )
        for photo in range(len(probabilities))
    ]


def to_text(answer: Prediction, *, most: int = 4) -> str:
    """Returns the answer in words: `Ruby`, `Almandine or Pyrope`, or that no known gem looks so.

    Args:
        answer: of a photo.
        most: gems of the prediction set that are named; of more, the number of the others is told.
    """
    names = answer.prediction_set[:most]
    if more := len(answer.prediction_set) - len(names):
        names.append(f"one of {more} more")
    told = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"No gem that I know; the nearest is {told}" if answer.unknown else told
