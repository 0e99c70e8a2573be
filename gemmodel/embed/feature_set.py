"""Photos as features, as the stage embed keeps them. NumPy alone: explore reads them without TensorFlow."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmodel.core.errors import DataError


class FeatureSet(NamedTuple):
    """Photos as features.

    Attributes:
        features: float32 (photos, features).
        labels: class indices, int32 (photos,).
        files: the photos' paths within their part, str (photos,).
        classes: the class names in the order of their indices.
        blocks: how many features are pooled maps, covariances and colours, in their order.
    """

    features: np.ndarray
    labels: np.ndarray
    files: np.ndarray
    classes: list[str]
    blocks: list[int]

    def concat(self, more: "FeatureSet") -> "FeatureSet":
        """Returns these photos and, after them, those of another part."""
        features, labels, files = (np.concatenate(parts) for parts in zip(self[:3], more[:3], strict=True))
        return self._replace(features=features, labels=labels, files=files)


def read(path: Path) -> FeatureSet:
    """Returns what `embed` wrote.

    Raises:
        DataError: there is no such file, or it is one of an older version.
    """
    try:
        with np.load(path) as kept:
            return FeatureSet(
                kept["features"], kept["labels"], kept["files"], kept["classes"].tolist(), kept["blocks"].tolist()
            )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `dvc repro embed` makes it") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; `dvc repro embed` makes it anew") from None
