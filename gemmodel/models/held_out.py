"""What a model's predictions for held-out photos show: how often its sets are right, and which gems look alike.

NumPy only: serving needs it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemmodel.models import conformal
from gemmodel.models.conformal import HeldOutPredictions, Thresholds

BOUNDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # lower bounds of the bins of a set's probability
MIN_PHOTOS = 30  # in a bin; the frequency of fewer would be wrong by 20 points too often
MIN_CONFUSED, MIN_CONFUSED_FRACTION = 3, 0.05  # photos of two look-alikes; random errors give no pair three


@dataclass(frozen=True)
class SetFrequency:
    """How often the prediction sets of one bin of probabilities were right.

    Attributes:
        low: the smallest probability of a set in the bin, in [0, 1]: the sum over its gems.
        photos: held-out photos with such a set.
        right: how many of them had their gem in it.
    """

    low: float
    photos: int
    right: int


@dataclass(frozen=True)
class HeldOutSummary:
    """What held-out predictions show. It is empty for a model folder of a former version.

    Attributes:
        set_frequencies: by ascending probability.
        look_alikes: pairs of gems that the model confused, each in the order of the classes.
    """

    set_frequencies: Sequence[SetFrequency] = ()
    look_alikes: Sequence[tuple[str, str]] = ()

    def frequency(self, probability: float) -> float | None:
        """Returns how often sets of about this probability were right, in [0, 1]; None where too few were seen."""
        bins = [row for row in self.set_frequencies if row.low <= probability]
        return bins[-1].right / bins[-1].photos if bins and bins[-1].photos >= MIN_PHOTOS else None

    def pairs(self, gems: Sequence[str]) -> list[tuple[str, str]]:
        """Returns the look-alikes that are both among some gems."""
        return [(a, b) for a, b in self.look_alikes if a in gems and b in gems]


def summarise(held_out: HeldOutPredictions, classes: Sequence[str], thresholds: Thresholds) -> HeldOutSummary:
    """Returns what predictions for photos that a model was not trained on show.

    Args:
        held_out: the predictions.
        classes: the gems in the order of the probabilities.
        thresholds: of the prediction sets.
    """
    probs, labels = held_out.probabilities, held_out.labels
    sets = conformal.prediction_sets(probs, thresholds)
    bins = np.digitize(set_probability(probs, sets), BOUNDS[1:])
    photos = np.bincount(bins, minlength=len(BOUNDS)).tolist()
    right = np.bincount(bins, sets[np.arange(len(labels)), labels], minlength=len(BOUNDS)).astype(int).tolist()
    return HeldOutSummary(
        [SetFrequency(*row) for row in zip(BOUNDS, photos, right, strict=True)],
        [(classes[a], classes[b]) for a, b in look_alikes(probs.argmax(axis=1), labels, classes=len(classes))],
    )


def set_probability(probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Returns the sum of the probabilities of each photo's prediction set, float (photos,)."""
    return np.minimum((probabilities * sets).sum(axis=1), 1.0)


def look_alikes(predicted: np.ndarray, labels: np.ndarray, *, classes: int) -> list[tuple[int, int]]:
    """Returns the pairs of classes, by ascending index, that were confused more often than by chance.

    Args:
        predicted: class indices, int (photos,).
        labels: the actual class indices, int (photos,).
        classes: the number of classes.
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    photos, confused = counts.sum(axis=1), np.triu(counts + counts.T, k=1)
    enough = (confused >= MIN_CONFUSED) & (confused >= MIN_CONFUSED_FRACTION * (photos[:, None] + photos))
    return [(int(a), int(b)) for a, b in zip(*np.nonzero(enough), strict=True)]
