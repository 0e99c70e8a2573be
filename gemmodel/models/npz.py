"""Arrays on disk: equal values give equal bytes."""

import zipfile
from pathlib import Path

import numpy as np

from gemmodel.core import files


def write(path: Path, **arrays: np.ndarray) -> None:
    """Writes an `.npz` of arrays by name, for `np.load`, whole or not at all.

    `np.savez` writes an entry's size after its values, and the placeholder before it differs between patch versions
    of Python. Here the size is given beforehand, so that no array has to be held in memory twice.
    """
    with files.atomic_write(path) as new, zipfile.ZipFile(new, "w") as archive:
        for name, values in arrays.items():
            array, entry = np.asarray(values), zipfile.ZipInfo(f"{name}.npy")
            entry.file_size = array.nbytes
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
