"""Photos as features, in the files that the embed stage writes. NumPy only: explore reads them without TensorFlow."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmodel.core import npz
from gemmodel.core.errors import DataError


class FeatureSet(NamedTuple):
    """Photos as features.

    Attributes:
        features: float32 (photos, features).
        labels: class indices, int32 (photos,).
        files: the photos' paths below their part, str (photos,).
        classes: the class names in the order of their indices.
        blocks: the number of features in each block, by name and in the order of the features: `maps`, `covariances`
            and `colours`, of which the last two may be absent.
    """

    features: np.ndarray
    labels: np.ndarray
    files: np.ndarray
    classes: list[str]
    blocks: dict[str, int]

    def block(self, name: str) -> np.ndarray:
        """Returns the features of a block, float32 (photos, features of the block)."""
        names = list(self.blocks)
        start = sum(self.blocks[earlier] for earlier in names[: names.index(name)])
        return self.features[:, start : start + self.blocks[name]]

    def concat(self, other: "FeatureSet") -> "FeatureSet":
        """Returns these photos, followed by those of another part."""
        return self._replace(
            features=np.concatenate([self.features, other.features]),
            labels=np.concatenate([self.labels, other.labels]),
            files=np.concatenate([self.files, other.files]),
        )


def write(path: Path, photos: FeatureSet) -> None:
    """Writes a feature file, an `.npz` of one array per attribute; the names of the blocks are `block_names`."""
    blocks = {"block_names": np.array(list(photos.blocks)), "blocks": np.array(list(photos.blocks.values()))}
    npz.write(path, **photos._asdict() | {"classes": np.array(photos.classes)} | blocks)


def read(path: Path) -> FeatureSet:
    """Returns the photos of a feature file.

    Raises:
        DataError: the file does not exist, or a former version wrote it.
    """
    try:
        with np.load(path) as arrays:
            blocks = dict(zip(arrays["block_names"].tolist(), arrays["blocks"].tolist(), strict=True))
            return FeatureSet(arrays["features"], arrays["labels"], arrays["files"], arrays["classes"].tolist(), blocks)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `dvc repro embed` makes it") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; `dvc repro embed` makes it again") from None
