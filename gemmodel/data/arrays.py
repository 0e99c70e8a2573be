"""Arrays on disk: the same bytes for the same values."""

import io
import zipfile
from pathlib import Path

import numpy as np

from gemmodel.data import folders


def write(path: Path, **arrays: np.ndarray) -> None:
    """Writes an `.npz` of arrays by name, for `np.load`, whole or not at all.

    `np.savez` leaves the sizes open until it has written, and what Python's patch versions put there differs.
    """
    with folders.replacing(path) as new, zipfile.ZipFile(new, "w") as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getvalue())
