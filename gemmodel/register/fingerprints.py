"""By what a photo is known again when its file is gone: its pixels, and a perceptual hash of them."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.images import decode, phash

HASH_DISTANCE = 2  # bits of 64: 3 of 3.9 million pairs of different gem photos are as near; 92 % of copies at half size
COLUMNS = ("file", "actual", "photo", "hash", "mirrored")


def table(*parts: Path) -> pd.DataFrame:
    """Describes every photo of some folders of class folders.

    Returns:
        A row a photo: `file` below its part, `actual` class, `photo` (SHA-256 of its RGB pixels and their shape, in
        hexadecimal), and the perceptual hashes `hash` and `mirrored` (64 bits, 16 hexadecimal digits).

    Raises:
        DataError: a folder is missing or empty, or a photo of it cannot be read.
    """
    found = [(path, part) for part in parts for paths in image_folder.list_images(part).values() for path in paths]
    rows = Parallel(n_jobs=-1, prefer="threads")(delayed(_row)(path, part) for path, part in found)
    return pd.DataFrame(rows, columns=COLUMNS)


def with_predictions(test: Path, predictions: Path) -> pd.DataFrame:
    """Returns the `table` of the test photos, with a model's answers as `predicted`.

    Args:
        test: the folder of the test photos.
        predictions: a CSV file with the columns `file` and `predicted`, as `evaluate` writes it.

    Raises:
        DataError: the file is missing, or is not about these photos.
    """
    if not predictions.is_file():
        raise DataError(f"{predictions}: no such file; `dvc repro` makes it, `dvc pull` fetches it")
    photos, answers = table(test), pd.read_csv(predictions, dtype=str, keep_default_na=False)
    if not {"file", "predicted"} <= set(answers) or sorted(answers["file"]) != sorted(photos["file"]):
        raise DataError(f"{predictions}: not the answers to the photos of {test}; `dvc repro evaluate` makes them")
    return photos.merge(answers[["file", "predicted"]], on="file")


def find_leaked(photos: pd.DataFrame, learnt_from: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Names the photos that a model has learnt from.

    A photo counts with the same pixels, or with nearly the same hash. The latter is not asked of a photo that lies
    beside these in today's data too: there, cleaning has compared the two by far more than a hash.

    Args:
        photos: a `table` of test photos.
        learnt_from: that of all photos that the model was trained and selected on.
        known: that of today's other photos.
    """
    same = photos["photo"].isin(learnt_from["photo"]).to_numpy()
    gone = _hashes(learnt_from[~learnt_from["photo"].isin(known["photo"])])[:, 0]
    near = [np.bitwise_count(both[:, np.newaxis] ^ gone).min(initial=64) <= HASH_DISTANCE for both in _hashes(photos)]
    return photos["file"][same | np.array(near, bool)].tolist()


def _row(path: Path, part: Path) -> tuple[str, ...]:
    image = decode.read(path)
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    file = path.relative_to(part)
    return file.as_posix(), file.parts[0], digest, *(f"{bits:016x}" for bits in phash.phash(phash.thumbnails(image)[1]))


def _hashes(photos: pd.DataFrame) -> np.ndarray:
    """Returns uint64 of shape (photos, 2)."""
    return np.array([[int(text, 16) for text in photos[name]] for name in COLUMNS[3:]], np.uint64).T
