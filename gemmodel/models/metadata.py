"""The files beside a trained network on disk. They are read without TensorFlow."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError, ModelError
from gemmodel.models import npz
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.held_out import HeldOutSummary, SetFrequency

EXPORT = "model.tflite"  # the network for LiteRT, beside model.keras
TRAINING = "training.json"
THRESHOLDS, FORMER_THRESHOLDS = "thresholds.json", "confidence.json"  # the second one in folders of version 0.1
HELD_OUT = "held_out.json"  # not in folders of former versions
FILES = ("classes.json", "hierarchy.json", THRESHOLDS, FORMER_THRESHOLDS, HELD_OUT, TRAINING, "reference.npz")


@dataclass(frozen=True)
class TrainingPhotos:
    """What a model was trained on.

    Attributes:
        sources: as `crawl.source` names them; `sample` is the bundled site, whose pictures are rendered.
        photos: the number of photos of each gem, of the train and validation parts.
    """

    sources: list[str]
    photos: Mapping[str, int]

    @property
    def rendered(self) -> bool:
        """Whether the pictures are rendered ones: such a model is a demonstration."""
        return "sample" in self.sources


@dataclass(frozen=True)
class ModelMetadata:
    """What a model folder holds beside the network.

    Attributes:
        classes: the gems in the order of the probabilities.
        hierarchy: the mineral class of each gem.
        thresholds: of prediction sets and of photos unlike all training photos.
        reference: training photos that new photos are compared with.
        held_out: what predictions for held-out photos show.
        training: what the model was trained on; None in folders that do not record it.
    """

    classes: list[str]
    hierarchy: Mapping[str, str]
    thresholds: Thresholds
    reference: ReferenceSet
    held_out: HeldOutSummary = field(default_factory=HeldOutSummary)
    training: TrainingPhotos | None = None


def read(folder: Path) -> ModelMetadata:
    """Reads the metadata of a model, also of one that version 0.1 wrote.

    Raises:
        DataError: a file is missing.
        ModelError: a file is damaged.
    """
    return parse(hashing.read_checked(folder, FILES), folder)


def parse(contents: Mapping[str, bytes], folder: Path) -> ModelMetadata:
    """Returns what `read` does.

    Args:
        contents: of FILES by name, from `hashing.read_checked`.
        folder: of the model, for errors.
    """
    thresholds_file = THRESHOLDS if THRESHOLDS in contents else FORMER_THRESHOLDS
    for name in ("classes.json", "hierarchy.json", thresholds_file, "reference.npz"):
        if name not in contents:
            raise DataError(f"{folder / name}: no such file; `dvc repro` or `dvc pull` brings it back")
    with damage(folder):
        with np.load(io.BytesIO(contents["reference.npz"])) as arrays:
            reference = ReferenceSet(arrays["embedding"], arrays["labels"], arrays["files"])
        classes, hierarchy, thresholds = (
            json.loads(contents[name]) for name in ("classes.json", "hierarchy.json", thresholds_file)
        )
        held_out = HeldOutSummary()
        if HELD_OUT in contents:
            content = json.loads(contents[HELD_OUT])
            frequencies = [SetFrequency(**row) for row in content["set_frequencies"]]
            held_out = HeldOutSummary(frequencies, [(a, b) for a, b in content["look_alikes"]])
        training = TrainingPhotos(**json.loads(contents[TRAINING])) if TRAINING in contents else None
        hierarchy = {gem: hierarchy[gem] for gem in classes}
        return ModelMetadata(classes, hierarchy, Thresholds(**thresholds), reference, held_out, training)


@contextmanager
def damage(folder: Path) -> Iterator[None]:
    """Turns what may go wrong while damaged files of a model are parsed into a ModelError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{folder}: the model's metadata is damaged: {error}; train it again") from None


def write(metadata: ModelMetadata, folder: Path) -> None:
    """Writes all but the classes, which are saved with the network."""
    files.write_json(folder / "hierarchy.json", dict(metadata.hierarchy))
    files.write_json(folder / THRESHOLDS, asdict(metadata.thresholds))
    files.write_json(folder / HELD_OUT, asdict(metadata.held_out))
    npz.write(folder / "reference.npz", **vars(metadata.reference))
    if metadata.training:
        files.write_json(folder / TRAINING, asdict(metadata.training))


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
