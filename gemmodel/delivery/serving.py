"""The registered model: base64 photos in, gems out. MLflow loads it through `_load_pyfunc`."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gemmodel import devices  # noqa: F401  # before Keras: keeps what TensorFlow says at its import to itself
from gemmodel.data import cropping, folders, images
from gemmodel.delivery import answers
from gemmodel.errors import DataError
from gemmodel.models import archive, knowledge

TOP = 5


class Classifier:
    """A trained model that takes photos as they are."""

    def __init__(self, folder: Path) -> None:
        """Loads what `archive.save` wrote."""
        model, self.classes = archive.load(folder)
        self.model, self.knowledge = archive.embedder(model), knowledge.read(folder)
        self.crop: cropping.Method = folders.read_json(folder / "input.json")["crop"]

    def predict(self, photos: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Names the gem of each photo, cropped as the training photos were.

        Args:
            photos: a column `photo` of base64 text: JPEG, PNG or another format that Pillow reads.
            params: not used.

        Returns:
            A row a photo: `gem`, its `mineral_class` and `probability`, names and probabilities of the five most
            probable gems, the prediction set (`possible`), and whether the photo is unlike all known gems (`unknown`).

        Raises:
            DataError: a photo is not base64 or not an image; the message names its row.
        """
        size = self.model.input_shape[1]
        pixels = np.stack([_pixels(text, row, size, self.crop) for row, text in enumerate(photos["photo"])])
        probabilities, embedding = self.model.predict(pixels.astype(np.float32), batch_size=8, verbose=0)
        told = answers.answers(probabilities, embedding, self.knowledge, top=TOP)
        return pd.DataFrame(
            {
                "gem": [answer.gem for answer in told],
                "mineral_class": [answer.mineral_class for answer in told],
                "probability": [answer.probability for answer in told],
                "top": [[gem for gem, _ in answer.top] for answer in told],
                "top_probabilities": [[probability for _, probability in answer.top] for answer in told],
                "possible": [answer.possible for answer in told],
                "unknown": [answer.unknown for answer in told],
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
