"""Scores of two-level labels and of prediction sets."""

import numpy as np

from gemmodel.data.hierarchy import parents
from gemmodel.models import confidence
from gemmodel.models.knowledge import Knowledge


def scores(actual: np.ndarray, probabilities: np.ndarray, known: Knowledge) -> dict[str, float | int]:
    """Returns how often both labels are right, and how good the prediction sets are, rounded to six digits.

    Args:
        actual: class indices, int (photos,).
        probabilities: float (photos, classes).
        known: of the model that gave them.

    Returns:
        `mineral_class_accuracy`; `label_points`, one for each right label of a photo, so at most two a photo;
        `set_coverage`, the share of photos whose gem is in its set; `set_size`, gems a set; `set_single`, the share of
        sets of one gem.
    """
    _, primary = parents(known.classes, known.hierarchy)
    predicted = probabilities.argmax(axis=1)
    right, class_right = predicted == actual, primary[predicted] == primary[actual]
    sets = confidence.in_set(probabilities, known.confidence.set_threshold)
    sizes = sets.sum(axis=1)
    return {
        "mineral_class_accuracy": round(float(class_right.mean()), 6),
        "label_points": int(right.sum() + class_right.sum()),
        "set_coverage": round(float(sets[np.arange(len(actual)), actual].mean()), 6),
        "set_size": round(float(sizes.mean()), 6),
        "set_single": round(float((sizes == 1).mean()), 6),
    }
