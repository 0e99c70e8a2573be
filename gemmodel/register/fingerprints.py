"""Fingerprints, which identify a photo when its file is gone: its pixels, and a perceptual hash of them."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError
from gemmodel.images import decode, phash

HASH_DISTANCE = 2  # bits of 64: 3 of 3.9 million pairs of different gem photos are as near; 92 % of copies at half size
COLUMNS = ("file", "actual", "photo", "hash", "mirrored")


def table(*parts: Path) -> pd.DataFrame:
    """Describes every photo of some folders of class folders.

    Returns:
        One row per photo: `file` below its part, `actual` class, `photo` (the SHA-256 of its RGB pixels and their
        shape, in hexadecimal), and the perceptual hashes `hash` and `mirrored` (64 bits, 16 hexadecimal digits).

    Raises:
        DataError: a folder is missing or empty, or a photo cannot be read.
    """
    photos = [(path, part) for part in parts for paths in image_folder.list_images(part).values() for path in paths]
    rows = Parallel(n_jobs=-1, prefer="threads")(delayed(_row)(path, part) for path, part in photos)
    return pd.DataFrame(rows, columns=COLUMNS)


def with_predictions(test: Path, predictions: Path) -> pd.DataFrame:
    """Returns the `table` of the test photos, with a model's predictions as `predicted`.

    Args:
        test: the folder of the test photos.
        predictions: a CSV file with the columns `file` and `predicted`, as the evaluate stage writes it.

    Raises:
        DataError: the file is missing, or is about other photos.
    """
    predicted, photos = files.read_table(predictions), table(test)
    if not {"file", "predicted"} <= set(predicted) or sorted(predicted["file"]) != sorted(photos["file"]):
        raise DataError(f"{predictions}: not the predictions for {test}; `dvc repro evaluate` makes them")
    return photos.merge(predicted[["file", "predicted"]], on="file")


def find_leaked(photos: pd.DataFrame, training_set: pd.DataFrame, present_training_set: pd.DataFrame) -> list[str]:
    """Returns the files of the test photos that a model was trained on.

    A photo counts where its pixels are the same, or its hash is nearly the same. The hash does not count for training
    photos that are also in the present training set: cleaning has compared these with the test photos, and far better.

    Args:
        photos: the `table` of the test photos.
        training_set: the `table` of all photos that the model was trained and selected on.
        present_training_set: the `table` of the present training and validation photos.
    """
    same = photos["photo"].isin(training_set["photo"]).to_numpy()
    absent = training_set[~training_set["photo"].isin(present_training_set["photo"])]
    hashes = _hashes(absent)[:, 0]
    near = [np.bitwise_count(pair[:, np.newaxis] ^ hashes).min(initial=64) <= HASH_DISTANCE for pair in _hashes(photos)]
    return photos["file"][same | np.array(near, bool)].tolist()


def _row(path: Path, part: Path) -> tuple[str, ...]:
    image = decode.read(path)
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    file = path.relative_to(part)
    _, grey = phash.thumbnails(image)
    return file.as_posix(), file.parts[0], digest, *(f"{bits:016x}" for bits in phash.phash(grey))


def _hashes(photos: pd.DataFrame) -> np.ndarray:
    """Returns uint64 of shape (photos, 2)."""
    return np.array([[int(text, 16) for text in photos[name]] for name in COLUMNS[3:]], np.uint64).T
