"""Two-level labels and prediction sets, photo by photo."""

import numpy as np

from gemmodel.data.hierarchy import parents
from gemmodel.models import confidence
from gemmodel.models.knowledge import Knowledge


def of_photos(actual: np.ndarray, probabilities: np.ndarray, known: Knowledge) -> dict[str, np.ndarray]:
    """Returns how good both labels and the prediction set of each photo are, each of shape (photos,).

    Args:
        actual: class indices, int (photos,).
        probabilities: float (photos, classes).
        known: of the model that gave them.

    Returns:
        By the name of the score that their mean is: `mineral_class_accuracy`; `label_points`, one for each right label,
        so at most two; `set_coverage`, whether the gem is in its set; `set_size`, gems in the set; `set_single`,
        whether it is one alone.
    """
    _, primary = parents(known.classes, known.hierarchy)
    predicted = probabilities.argmax(axis=1)
    class_right = primary[predicted] == primary[actual]
    sets = confidence.in_set(probabilities, known.confidence.set_threshold)
    sizes = sets.sum(axis=1)
    return {
        "mineral_class_accuracy": class_right,
        "label_points": class_right + (predicted == actual).astype(int),
        "set_coverage": sets[np.arange(len(actual)), actual],
        "set_size": sizes,
        "set_single": sizes == 1,
    }
