"""Predictions for users, from a model's probabilities and embeddings. NumPy alone: no TensorFlow, no MLflow."""

from dataclasses import dataclass

import numpy as np

from gemmodel.models import conformal
from gemmodel.models.metadata import ModelMetadata


@dataclass(frozen=True)
class Neighbour:
    """A reference photo, and its distance from the photo that a prediction is for, in [0, 2]."""

    file: str
    gem: str
    distance: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one photo.

    Attributes:
        gem: the most probable gem.
        mineral_class: its mineral class.
        probability: of the gem, in [0, 1].
        top: the most probable gems with their probabilities, highest first.
        prediction_set: gems, most probable first; contains the true gem of a fraction `coverage` of photos.
        unknown: whether the photo is unlike all reference photos.
        distance: mean distance to the nearest reference photos, in [0, 2].
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
    probabilities: np.ndarray, embedding: np.ndarray, metadata: ModelMetadata, *, top: int = 5
) -> list[Prediction]:
    """Returns the prediction for each photo.

    Args:
        probabilities: float (photos, classes).
        embedding: float (photos, D), of length 1 at most.
        metadata: of the model that computed both.
        top: the maximum number of gems in `Prediction.top`, and of photos in `Prediction.nearest`.
    """
    classes, thresholds, reference = metadata.classes, metadata.thresholds, metadata.reference
    order = np.argsort(-probabilities, axis=1, kind="stable")
    in_set = conformal.prediction_sets(probabilities, thresholds.set_threshold)
    neighbours = min(max(top, thresholds.neighbours), len(reference.embedding))
    distances, indices = conformal.nearest(embedding, reference.embedding, neighbours)
    mean_distance = distances[:, : thresholds.neighbours].mean(axis=1)
    return [
        Prediction(
            gem=classes[order[photo, 0]],
            mineral_class=metadata.hierarchy[classes[order[photo, 0]]],
            probability=float(probabilities[photo, order[photo, 0]]),
            top=[(classes[gem], float(probabilities[photo, gem])) for gem in order[photo, :top]],
            prediction_set=[classes[gem] for gem in order[photo] if in_set[photo, gem]],
            unknown=bool(mean_distance[photo] > thresholds.unknown_distance),
            distance=float(mean_distance[photo]),
            nearest=[
                Neighbour(str(reference.files[i]), classes[reference.labels[i]], float(distance))
                for i, distance in zip(indices[photo, :top], distances[photo, :top], strict=True)
            ],
        )
        for photo in range(len(probabilities))
    ]


def to_text(prediction: Prediction, *, max_names: int = 4) -> str:
    """Returns a prediction as text: `Ruby`, `Almandine or Pyrope`, or that the gem is unknown.

    Args:
        prediction: for a photo.
        max_names: the maximum number of gems of the prediction set that are named; the others are counted.
    """
    names = prediction.prediction_set[:max_names]
    if others := len(prediction.prediction_set) - len(names):
        names.append(f"one of {others} more")
    text = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"Unknown: unlike the training photos; most similar to {text}" if prediction.unknown else text
