"""The files beside a trained network on disk. They are read without TensorFlow."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gemmodel.core import files
from gemmodel.core.errors import DataError, ModelError
from gemmodel.models import npz
from gemmodel.models.conformal import ReferenceSet, Thresholds

EXPORT = "model.tflite"  # the network for LiteRT, beside model.keras
THRESHOLDS, FORMER_THRESHOLDS = "thresholds.json", "confidence.json"  # the second one in folders of version 0.1


@dataclass(frozen=True)
class ModelMetadata:
    """What a model folder holds beside the network.

    Attributes:
        classes: the gems in the order of the probabilities.
        hierarchy: the mineral class of each gem.
        thresholds: of prediction sets and of photos unlike all training photos.
        reference: training photos that new photos are compared with.
    """

    classes: list[str]
    hierarchy: Mapping[str, str]
    thresholds: Thresholds
    reference: ReferenceSet


def read(folder: Path) -> ModelMetadata:
    """Reads the metadata of a model, also of one that version 0.1 wrote.

    Raises:
        DataError: a file is missing.
        ModelError: a file is damaged.
    """
    thresholds_file = THRESHOLDS if (folder / THRESHOLDS).exists() else FORMER_THRESHOLDS
    try:
        with np.load(folder / "reference.npz") as arrays:
            reference = ReferenceSet(arrays["embedding"], arrays["labels"], arrays["files"])
        classes, hierarchy, thresholds = (
            files.read_json(folder / name) for name in ("classes.json", "hierarchy.json", thresholds_file)
        )
        return ModelMetadata(classes, {gem: hierarchy[gem] for gem in classes}, Thresholds(**thresholds), reference)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; `dvc repro` or `dvc pull` brings it back") from None
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{folder}: the model's metadata is damaged: {error}; train it again") from None


def write(metadata: ModelMetadata, folder: Path) -> None:
    """Writes all but the classes, which are saved with the network."""
    files.write_json(folder / "hierarchy.json", dict(metadata.hierarchy))
    files.write_json(folder / THRESHOLDS, asdict(metadata.thresholds))
    npz.write(folder / "reference.npz", **vars(metadata.reference))


def mineral_class_indices(classes: Iterable[str], hierarchy: Mapping[str, str]) -> tuple[list[str], np.ndarray]:
    """Returns the mineral classes, sorted, and the index of the one that each gem belongs to.

    Args:
        classes: the gems in the order of their indices.
        hierarchy: the mineral class of each gem.

    Returns:
        The names of the mineral classes, and their indices by gem, int32 of shape (gems,).
    """
    mineral_classes = [hierarchy[gem] for gem in classes]
    names = sorted(set(mineral_classes))
    return names, np.array([names.index(name) for name in mineral_classes], np.int32)
