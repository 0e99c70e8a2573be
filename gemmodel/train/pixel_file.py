"""Decoded photos on disk, for trainings whose pixels do not fit into memory."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gemmodel.core.errors import DISK_FULL
from gemmodel.images import decode


class PixelFile:
    """The pixels of photos: each photo is decoded once, when it is first read, and its pixels are kept in a file.

    The file has no name, so nothing is left of it when the process ends, however it ends. When its disk is full, the
    photos that are not in it yet are decoded each time; this is printed once. Any number of threads may read.

    Args:
        paths: the photos.
        image_size: side of the square in pixels.
        folder: on whose disk the file is, 3 * image_size ** 2 bytes per photo; it is created if necessary.
    """

    def __init__(self, paths: Sequence[Path], *, image_size: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths, self._shape, self._folder = paths, (image_size, image_size, 3), folder
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this object
        self._kept, self._full = np.zeros(len(paths), bool), False

    def read(self, index: int) -> np.ndarray:
        """Returns a photo as `decode.load` does, uint8 (image_size, image_size, 3).

        Raises:
            DataError: the file of the photo cannot be read as a photo.
        """
        size = int(np.prod(self._shape))
        if self._kept[index]:
            return np.frombuffer(os.pread(self._file.fileno(), size, index * size), np.uint8).reshape(self._shape)
        pixels = decode.load(self._paths[index], self._shape[0])
        if not self._full:
            try:
                self._kept[index] = os.pwrite(self._file.fileno(), pixels.tobytes(), index * size) == size
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                self._full = True
                print(f"train: {self._folder}: its disk is full; the remaining photos are decoded in every epoch")
        return pixels
