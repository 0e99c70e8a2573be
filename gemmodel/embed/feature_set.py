"""Photos as features, in the shards that the embed stage writes. NumPy only: explore reads them without TensorFlow."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError

DTYPE = np.float16  # on disk; top-1 and log loss are those of float32 to the fifth digit (decision 31)
SHARD_SIZE = 4096  # photos, a multiple of the batch: then whole batches are the same with and without shards
TABLE = "photos.json"
EXTRACTOR = "extractor_{}.tflite"  # of each backbone; beside it its digest


@dataclass(frozen=True)
class ShardedArray:
    """A matrix whose rows are in several files. Only the requested rows are read, as float32.

    Attributes:
        parts: `.npy` files, or arrays in memory, of the same number of columns.
        sizes: the number of rows of each.
        columns: the number of columns.
    """

    parts: tuple[Path | np.ndarray, ...]
    sizes: tuple[int, ...]
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and of columns."""
        return sum(self.sizes), self.columns

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns some rows, float32 (rows, columns).

        Args:
            rows: a slice, or indices in any order.
        """
        indices = np.arange(len(self))[rows]
        return self.read(indices, slice(None))

    def read(self, indices: np.ndarray, columns: slice) -> np.ndarray:
        """Returns some columns of the rows of some indices, float32."""
        out = np.empty((len(indices), len(range(self.columns)[columns])), np.float32)
        start = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            here = np.flatnonzero((indices >= start) & (indices < start + size))
            if len(here):
                # Mapped for this reading only: a process' memory counts the pages that it has read.
                array = np.load(part, mmap_mode="r") if isinstance(part, Path) else part
                inside = indices[here] - start
                in_turn = (np.diff(inside) == 1).all()
                out[here] = array[slice(inside[0], inside[-1] + 1) if in_turn else inside, columns]
            start += size
        return out


class FeatureSet(NamedTuple):
    """Photos as features.

    Attributes:
        features: float32 (photos, features).
        labels: class indices, int32 (photos,).
        files: the photos' paths below their part, str (photos,).
        classes: the class names in the order of their indices.
        blocks: the number of features in each block, by name and in the order of the features: `maps`, `covariances`,
            `vectors` and `colours`, some of which may be absent. Those of several backbones begin with their names:
            `efficientnet_lite2.maps`.
        settings: the parameters that the features were computed with, by name.
    """

    features: np.ndarray | ShardedArray
    labels: np.ndarray
    files: np.ndarray
    classes: list[str]
    blocks: dict[str, int]
    settings: Mapping[str, Any] = {}

    def block(self, name: str) -> np.ndarray:
        """Returns the features of a block, float32 (photos, features of the block)."""
        names = list(self.blocks)
        start = sum(self.blocks[earlier] for earlier in names[: names.index(name)])
        columns = slice(start, start + self.blocks[name])
        return self.sharded().read(np.arange(len(self.labels)), columns)

    def sharded(self) -> ShardedArray:
        """Returns the features as a sharded array, which one in memory is a shard of."""
        if isinstance(self.features, ShardedArray):
            return self.features
        return ShardedArray((self.features,), (len(self.features),), self.features.shape[1])

    def concat(self, other: "FeatureSet") -> "FeatureSet":
        """Returns these photos, followed by those of another part. No features are read or copied."""
        a, b = self.sharded(), other.sharded()
        return self._replace(
            features=ShardedArray(a.parts + b.parts, a.sizes + b.sizes, a.columns),
            labels=np.concatenate([self.labels, other.labels]),
            files=np.concatenate([self.files, other.files]),
        )

    def check_settings(self, expected: Mapping[str, Any], folder: Path) -> None:
        """Checks that the features were computed with given parameters.

        Raises:
            DataError: a parameter differs.
        """
        different = [name for name, value in expected.items() if self.settings.get(name, value) != value]
        if different:
            raise DataError(f"{folder}: of another {', '.join(different)}; `dvc repro embed` computes it again")


def shard_slices(photos: int, shard_size: int = SHARD_SIZE) -> Iterator[slice]:
    """Yields the rows of each shard."""
    for start in range(0, photos, shard_size):
        yield slice(start, min(start + shard_size, photos))


def shard_name(index: int) -> str:
    """Returns the name of a shard's file."""
    return f"{index:04}.npy"


def write_shard(path: Path, features: np.ndarray) -> str:
    """Writes the features of some photos, whole or not at all, and returns the SHA-256 of the file.

    Raises:
        DataError: a feature is not finite, or too large for the file's type; or the disk is full.
    """
    with np.errstate(over="ignore"):
        stored = features.astype(DTYPE)
    if not np.isfinite(stored).all():
        raise DataError(f"{path}: features beyond {np.finfo(DTYPE).max:.0f}; choose another embed.backbone")
    with files.atomic_write(path) as new:
        with new.open("wb") as file:  # np.save's own writing does not tell a full disk from other errors
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(stored))
            file.write(stored.data)
        return hashing.sha256(new)


def write_table(folder: Path, photos: FeatureSet, shards: Sequence[str]) -> None:
    """Writes what is known of the photos besides their features: `photos.json`.

    Args:
        folder: holds the shards.
        photos: whose `features` are not read.
        shards: the SHA-256 of each shard.
    """
    table = photos._asdict() | {"labels": photos.labels.tolist(), "files": photos.files.tolist()}
    table["settings"] = dict(photos.settings)
    table["features"] = photos.features.shape[1]
    table["shards"] = {shard_name(i): sha for i, sha in enumerate(shards)}
    files.write_json(folder / TABLE, table)


def write(folder: Path, photos: FeatureSet, *, shard_size: int = SHARD_SIZE) -> None:
    """Writes the features of photos, whole or not at all: a folder of shards and of `photos.json`."""
    with files.atomic_write(folder) as new:
        new.mkdir()
        shards = [
            write_shard(new / shard_name(i), photos.features[rows])
            for i, rows in enumerate(shard_slices(len(photos.labels), shard_size))
        ]
        write_table(new, photos, shards)


def join(folders: Mapping[str, Path], out: Path, *, settings: Mapping[str, Any]) -> None:
    """Writes the features of several backbones for the same photos side by side. Those of one are linked, not copied.

    Args:
        folders: with the features of each backbone, by the name that its blocks get.
        out: the folder to write.
        settings: the parameters that all of them were computed with.
    """
    if len(folders) == 1:
        shutil.copytree(next(iter(folders.values())), out, copy_function=link)
        return
    photos = {name: read(folder) for name, folder in folders.items()}
    blocks = {
        block if block == "colours" else f"{name}.{block}": size
        for name, features in photos.items()
        for block, size in features.blocks.items()
    }
    first, *_ = photos.values()
    shards = []
    for i, rows in enumerate(shard_slices(len(first.labels))):
        joined = np.hstack([features.features[rows] for features in photos.values()])
        shards.append(write_shard(out / shard_name(i), joined))
    joint = first._replace(features=ShardedArray((), (), sum(blocks.values())), blocks=blocks, settings=settings)
    write_table(out, joint, shards)


def digest_file(file: Path) -> Path:
    """Returns the file that says, once it is there, that another one is whole: its SHA-256."""
    return file.with_suffix(".sha256")


def is_intact(file: Path) -> bool:
    """Returns whether a file has the bytes of which its SHA-256 was written; both are there."""
    return hashing.sha256(file).encode() == digest_file(file).read_bytes()


def extractors(folder: Path, backbones: int) -> list[Path]:
    """Returns the extractors' LiteRT graphs that the embed stage wrote beside the features, one for each backbone.

    Raises:
        DataError: one is missing or damaged.
    """
    paths = [folder / EXTRACTOR.format(i) for i in range(backbones)]
    for path in paths:
        if not path.is_file() or not digest_file(path).is_file():
            raise DataError(f"{path}: not there; `dvc repro embed` makes it")
        if not is_intact(path):
            raise DataError(f"{path}: damaged; `dvc repro embed` makes it again")
    return paths


def link(source: str | Path, target: str | Path) -> None:
    """Makes another name of a file, or a copy on a disk without hard links."""
    try:
        os.link(source, target)
    except OSError:
        files.copy(Path(source), Path(target))


def read(folder: Path) -> FeatureSet:
    """Opens the features that `write` or the embed stage wrote. The shards are checked, but not kept in memory.

    Raises:
        DataError: the folder does not exist, a former version wrote it, or a shard is missing, damaged or not the one
            that was written with the others.
    """
    if not (folder / TABLE).is_file():
        former = "of a former version" if folder.with_suffix(".npz").is_file() else "not there"
        raise DataError(f"{folder}: {former}; `dvc repro embed` computes it")
    table = files.read_json(folder / TABLE)
    if not isinstance(table, dict) or set(table) != {*FeatureSet._fields, "shards"}:
        raise DataError(f"{folder / TABLE}: not what this version writes; `dvc repro embed` computes it again")
    paths, sizes = [folder / name for name in table["shards"]], []
    for path, sha in zip(paths, table["shards"].values(), strict=True):
        if not path.is_file() or hashing.sha256(path) != sha:
            state = "damaged, or of other parameters" if path.is_file() else "not there"
            raise DataError(f"{path}: {state}; `dvc repro embed` computes it again")
        sizes.append(len(np.load(path, mmap_mode="r")))
    return FeatureSet(
        ShardedArray(tuple(paths), tuple(sizes), table["features"]),
        np.array(table["labels"], np.int32),
        np.array(table["files"]),
        table["classes"],
        table["blocks"],
        table["settings"],
    )
