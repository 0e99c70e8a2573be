"""Metrics of two-level labels and of prediction sets."""

import numpy as np

from gemmodel.models import conformal
from gemmodel.models.metadata import ModelMetadata, mineral_class_indices


def per_photo(actual: np.ndarray, probabilities: np.ndarray, metadata: ModelMetadata) -> dict[str, np.ndarray]:
    """Returns metrics of both labels and of the prediction set of each photo, each of shape (photos,).

    Args:
        actual: class indices, int (photos,).
        probabilities: float (photos, classes).
        metadata: of the model that predicted them.

    Returns:
        By the name of the score that is their mean: `mineral_class_accuracy`; `label_score`, the number of right labels
        out of two, gem and mineral class; `set_coverage`, whether the prediction set contains the gem; `set_size`, the
        number of gems in it; `singleton_rate`, whether it contains exactly one.
    """
    _, mineral_classes = mineral_class_indices(metadata.classes, metadata.hierarchy)
    predicted = probabilities.argmax(axis=1)
    class_right = mineral_classes[predicted] == mineral_classes[actual]
    sets = conformal.prediction_sets(probabilities, metadata.thresholds.set_threshold)
    sizes = sets.sum(axis=1)
    return {
        "mineral_class_accuracy": class_right,
        "label_score": class_right + (predicted == actual).astype(int),
        "set_coverage": sets[np.arange(len(actual)), actual],
        "set_size": sizes,
        "singleton_rate": sizes == 1,
    }
