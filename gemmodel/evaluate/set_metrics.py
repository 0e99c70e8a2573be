"""Metrics of two-level labels and of prediction sets."""

import numpy as np
import pandas as pd

from gemmodel.models import conformal
from gemmodel.models.metadata import ModelMetadata, mineral_class_indices

SIZES = (("1", 1, 1), ("2", 2, 2), ("3 to 4", 3, 4), ("5 or more", 5, np.inf))  # of sets: name, smallest, largest
CONFIDENCES = (("below 0.5", 0.0, 0.5), ("0.5 to 0.8", 0.5, 0.8), ("0.8 or more", 0.8, np.inf))


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
    sets = conformal.prediction_sets(probabilities, metadata.thresholds)
    sizes = sets.sum(axis=1)
    return {
        "mineral_class_accuracy": class_right,
        "label_score": class_right + (predicted == actual).astype(int),
        "set_coverage": sets[np.arange(len(actual)), actual],
        "set_size": sizes,
        "singleton_rate": sizes == 1,
    }


def stratified(actual: np.ndarray, probabilities: np.ndarray, sets: np.ndarray) -> pd.DataFrame:
    """Returns how often prediction sets contain the gem, by their size and by the highest probability.

    Size-stratified coverage is from Angelopoulos and others, "Uncertainty sets for image classifiers using conformal
    prediction", ICLR 2021. Sets that are right as often at every size say how sure each of them is.

    Args:
        actual: class indices, int (photos,).
        probabilities: float (photos, classes).
        sets: bool (photos, classes).

    Returns:
        One row per stratum that has photos: `by` (`all`, `size` or `probability`), its name (`stratum`), the number of
        `photos`, the `coverage`, and the mean `size`.
    """
    covered, sizes, confidence = sets[np.arange(len(actual)), actual], sets.sum(axis=1), probabilities.max(axis=1)
    strata = {("all", "all"): np.ones(len(actual), bool)}
    strata |= {("size", name): (sizes >= low) & (sizes <= high) for name, low, high in SIZES}
    strata |= {("probability", name): (confidence >= low) & (confidence < high) for name, low, high in CONFIDENCES}
    rows = [
        (by, name, int(photos.sum()), round(float(covered[photos].mean()), 6), round(float(sizes[photos].mean()), 6))
        for (by, name), photos in strata.items()
        if photos.any()
    ]
    return pd.DataFrame(rows, columns=["by", "stratum", "photos", "coverage", "size"])
