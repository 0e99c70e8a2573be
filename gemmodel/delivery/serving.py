"""The registered model: base64 photos in, gems out. MLflow loads it through `_load_pyfunc`."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gemmodel import devices  # noqa: F401  # before Keras: keeps what TensorFlow says at its import to itself
from gemmodel.data import cropping, folders, images
from gemmodel.errors import DataError
from gemmodel.models import archive

TOP = 5


class Classifier:
    """A trained model that takes photos as they are."""

    def __init__(self, folder: Path) -> None:
        """Loads what `archive.save` wrote."""
        self.model, self.classes = archive.load(folder)
        self.crop: cropping.Method = folders.read_json(folder / "input.json")["crop"]

    def predict(self, photos: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Names the gem of each photo, cropped as the training photos were.

        Args:
            photos: a column `photo` of base64 text: JPEG, PNG or another format that Pillow reads.
            params: not used.

        Returns:
            A row a photo: `gem`, its `probability`, and the names and probabilities of the five most probable gems.

        Raises:
            DataError: a photo is not base64 or not an image; the message names its row.
        """
        size = self.model.input_shape[1]
        pixels = np.stack([_pixels(text, row, size, self.crop) for row, text in enumerate(photos["photo"])])
        probabilities = self.model.predict(pixels.astype(np.float32), batch_size=8, verbose=0)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        return pd.DataFrame(
            {
                "gem": [self.classes[row[0]] for row in best],
                "probability": probabilities.max(axis=1).astype(float),
                "top": [[self.classes[index] for index in row] for row in best],
                "top_probabilities": [
                    p[row].astype(float).tolist() for p, row in zip(probabilities, best, strict=True)
                ],
            }
        )


def _pixels(text: str, row: int, size: int, crop: cropping.Method) -> np.ndarray:
    try:
        photo, _ = cropping.crop(images.read(io.BytesIO(base64.b64decode(text, validate=True))), crop)
        return images.pixels(photo, size)
    except (ValueError, DataError) as error:
        raise DataError(f"photo {row}: {error}; send the file's bytes as base64") from None


def _load_pyfunc(folder: str) -> Classifier:
    return Classifier(Path(folder))
