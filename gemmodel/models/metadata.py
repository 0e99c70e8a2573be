"""What lies beside a trained network on disk. Read without TensorFlow."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gemmodel.core import files, npz
from gemmodel.core.errors import DataError, ModelError
from gemmodel.models.conformal import ReferenceSet, Thresholds

EXPORT = "model.tflite"  # the network for LiteRT, beside model.keras


@dataclass(frozen=True)
class ModelMetadata:
    """What a model folder holds beside the network.

    Attributes:
        classes: the gems in the order of the probabilities.
        hierarchy: the mineral class of each gem.
        confidence: the thresholds.
        reference: the photos learnt from.
    """

    classes: list[str]
    hierarchy: Mapping[str, str]
    confidence: Thresholds
    reference: ReferenceSet


def read(folder: Path) -> ModelMetadata:
    """Reads what lies beside a model.

    Raises:
        DataError: a file of it is missing.
        ModelError: a file of it is damaged.
    """
    try:
        with np.load(folder / "reference.npz") as kept:
            reference = ReferenceSet(kept["embedding"], kept["labels"], kept["files"])
        classes, hierarchy, thresholds = (
            files.read_json(folder / f"{name}.json") for name in ("classes", "hierarchy", "confidence")
        )
        return ModelMetadata(classes, {gem: hierarchy[gem] for gem in classes}, Thresholds(**thresholds), reference)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; `dvc repro` or `dvc pull` brings it back") from None
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{folder}: what lies beside its model is damaged: {error}; train it anew") from None


def write(knowledge: ModelMetadata, folder: Path) -> None:
    """Writes all but the classes, which lie with the network."""
    files.write_json(folder / "hierarchy.json", dict(knowledge.hierarchy))
    files.write_json(folder / "confidence.json", asdict(knowledge.confidence))
    npz.write(folder / "reference.npz", **vars(knowledge.reference))


def mineral_class_indices(classes: Iterable[str], hierarchy: Mapping[str, str]) -> tuple[list[str], np.ndarray]:
    """Returns the mineral classes, sorted, and which of them each gem belongs to.

    Args:
        classes: the gems in the order of their indices.
        hierarchy: the mineral class of each.

    Returns:
        The names of the mineral classes, and their indices by gem, int32 of shape (gems,).
    """
    of_gems = [hierarchy[gem] for gem in classes]
    names = sorted(set(of_gems))
    return names, np.array([names.index(name) for name in of_gems], np.int32)
