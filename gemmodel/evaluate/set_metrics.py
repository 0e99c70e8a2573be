"""Two-level labels and prediction sets, photo by photo."""

import numpy as np

from gemmodel.models import conformal
from gemmodel.models.metadata import ModelMetadata, mineral_class_indices


def per_photo(actual: np.ndarray, probabilities: np.ndarray, known: ModelMetadata) -> dict[str, np.ndarray]:
    """Returns how good both labels and the prediction set of each photo are, each of shape (photos,).

    Args:
        actual: class indices, int (photos,).
        probabilities: float (photos, classes).
        known: of the model that gave them.

    Returns:
        By the name of the score that their mean is: `mineral_class_accuracy`; `label_score`, one for each right label,
        so at most two; `set_coverage`, whether the gem is in its set; `set_size`, gems in the set; `singleton_rate`,
        whether it is one alone.
    """
    _, primary = mineral_class_indices(known.classes, known.hierarchy)
    predicted = probabilities.argmax(axis=1)
    class_right = primary[predicted] == primary[actual]
    sets = conformal.prediction_sets(probabilities, known.thresholds.set_threshold)
    sizes = sets.sum(axis=1)
    return {
        "mineral_class_accuracy": class_right,
        "label_score": class_right + (predicted == actual).astype(int),
        "set_coverage": sets[np.arange(len(actual)), actual],
        "set_size": sizes,
        "singleton_rate": sizes == 1,
    }
