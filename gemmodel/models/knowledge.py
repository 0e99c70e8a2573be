"""What lies beside a trained network on disk. Read without TensorFlow."""

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gemmodel.data import arrays, folders
from gemmodel.errors import DataError, ModelError
from gemmodel.models.confidence import Confidence, Reference

EXPORT = "model.tflite"  # the network for LiteRT, beside model.keras


@dataclass(frozen=True)
class Knowledge:
    """What a model folder holds beside the network.

    Attributes:
        classes: the gems in the order of the probabilities.
        hierarchy: the mineral class of each gem.
        confidence: the thresholds.
        reference: the photos learnt from.
    """

    classes: list[str]
    hierarchy: Mapping[str, str]
    confidence: Confidence
    reference: Reference


def read(folder: Path) -> Knowledge:
    """Reads what lies beside a model.

    Raises:
        DataError: a file of it is missing.
        ModelError: a file of it is damaged.
    """
    try:
        with np.load(folder / "reference.npz") as kept:
            reference = Reference(kept["embedding"], kept["labels"], kept["files"])
        classes, hierarchy, thresholds = (
            folders.read_json(folder / f"{name}.json") for name in ("classes", "hierarchy", "confidence")
        )
        return Knowledge(classes, {gem: hierarchy[gem] for gem in classes}, Confidence(**thresholds), reference)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; `dvc repro` or `dvc pull` brings it back") from None
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{folder}: what lies beside its model is damaged: {error}; train it anew") from None


def write(knowledge: Knowledge, folder: Path) -> None:
    """Writes all but the classes, which lie with the network."""
    folders.write_json(folder / "hierarchy.json", dict(knowledge.hierarchy))
    folders.write_json(folder / "confidence.json", asdict(knowledge.confidence))
    arrays.write(folder / "reference.npz", **vars(knowledge.reference))
