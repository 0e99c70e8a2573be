"""Predictions for users, from a model's probabilities and embeddings. NumPy alone: no TensorFlow, no MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemmodel.models import conformal
from gemmodel.models import held_out as held_out_summary
from gemmodel.models.metadata import ModelMetadata

# How certain an answer is from which probability of its prediction set on, and the words before the names.
CERTAINTIES = {"sure": (0.95, ""), "probable": (0.75, "Probably "), "possible": (0.5, "Perhaps "),
               "unclear": (0.0, "Unclear, perhaps ")}  # fmt: skip


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
        set_probability: the sum of their probabilities, in [0, 1].
        frequency: the fraction of held-out photos with a set of about this probability whose set had their gem, in
            [0, 1]; None where too few were seen.
        look_alikes: pairs of the set that the model confused in held-out photos.
        unknown: whether the photo is unlike all reference photos.
        distance: mean distance to the nearest reference photos, in [0, 2].
        nearest: those photos, nearest first.
    """

    gem: str
    mineral_class: str
    probability: float
    top: list[tuple[str, float]]
    prediction_set: list[str]
    set_probability: float
    frequency: float | None
    look_alikes: list[tuple[str, str]]
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
    in_set = conformal.prediction_sets(probabilities, thresholds)
    set_probs = held_out_summary.set_probability(probabilities, in_set).tolist()
    sets = [[classes[gem] for gem in gems if members[gem]] for gems, members in zip(order, in_set, strict=True)]
    neighbours = min(max(top, thresholds.neighbours), len(reference.embedding))
    distances, indices = conformal.nearest(embedding, reference.embedding, neighbours)
    mean_distance = distances[:, : thresholds.neighbours].mean(axis=1)
    return [
        Prediction(
            gem=classes[order[photo, 0]],
            mineral_class=metadata.hierarchy[classes[order[photo, 0]]],
            probability=float(probabilities[photo, order[photo, 0]]),
            top=[(classes[gem], float(probabilities[photo, gem])) for gem in order[photo, :top]],
            prediction_set=sets[photo],
            set_probability=set_probs[photo],
            frequency=metadata.held_out.frequency(set_probs[photo]),
            look_alikes=metadata.held_out.pairs(sets[photo]),
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
    """Returns a prediction as text: `Ruby`, `Probably Almandine or Pyrope`, or that the gem is unknown.

    The words follow `certainty`.

    Args:
        prediction: for a photo.
        max_names: as in `join`, of the prediction set.
    """
    text = join(prediction.prediction_set, max_names=max_names)
    if prediction.unknown:
        return f"Unknown: unlike the training photos; most similar to {text}"
    return CERTAINTIES[certainty(prediction)][1] + text


def certainty(prediction: Prediction) -> str:
    """Returns how certain an answer is, a key of CERTAINTIES.

    It follows the set's probability, or the frequency where held-out photos show that such sets were right less often.
    """
    probability = min(prediction.set_probability, 1.0 if prediction.frequency is None else prediction.frequency)
    return next((name for name, (lowest, _) in CERTAINTIES.items() if probability >= lowest), "unclear")


def join(names: Sequence[str], *, max_names: int = 4) -> str:
    """Returns names as text: `Ruby, Spinel or Pyrope`; of more than `max_names` + 1 the others are counted."""
    shown = list(names)
    if len(names) > max_names + 1:  # the name of one more takes no more room than "one of 1 more"
        shown[max_names:] = [f"one of {len(names) - max_names} more"]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def to_details(prediction: Prediction) -> list[str]:
    """Returns what held-out photos show about a prediction, as sentences; none where the gem is unknown."""
    sentences: list[str] = []
    if prediction.unknown:
        return sentences
    if prediction.frequency is not None:
        percent = round(100 * prediction.frequency)
        photos = "nearly all" if percent == 100 else f"about {percent}"
        which = "one of these gems" if len(prediction.prediction_set) > 1 else "the gem that was named"
        sentences.append(f"Of 100 photos new to the model with an answer as sure as this one, {photos} show {which}.")
    sentences += [f"{a} and {b} look alike: the model often confuses them." for a, b in prediction.look_alikes]
    return sentences
