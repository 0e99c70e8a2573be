"""Asking a trained model about photos, by its LiteRT export: no TensorFlow, no MLflow, the first answer at once."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.embed.litert import Graph
from gemmodel.images import crop, decode
from gemmodel.models import metadata
from gemmodel.serve import predictions
from gemmodel.serve.predictions import Prediction

Photo = Path | IO[bytes]


class Predictor:
    """A trained model that answers for photos as they are, cropped and resized as the training photos were."""

    def __init__(self, folder: Path, *, workers: int = 0) -> None:
        """Reads what `archive.save` wrote.

        Args:
            folder: of the model.
            workers: photos worked on at once, each by its share of the cores; 0: one a core.

        Raises:
            DataError: there is no model in the folder, or none with an export.
            ModelError: a file of it is damaged.
        """
        cores = os.cpu_count() or 1
        self.export = folder / metadata.EXPORT
        if not self.export.is_file():
            raise DataError(f"{self.export}: no export of a model here; `dvc repro` trains one, `dvc pull` fetches one")
        self.knowledge = metadata.read(folder)
        self.crop: crop.Method = files.read_json(folder / "input.json")["crop"]
        self._graph = Graph(self.export, threads=max(1, cores // (workers or cores)))
        self._pool = ThreadPoolExecutor(workers or cores)

    def predict(self, photos: Sequence[Photo], *, top: int = 5) -> Iterator[Prediction | DataError]:
        """Yields what a person is told of each photo, in their order, or why it cannot be read.

        Args:
            photos: paths or open files, in any format of folders.FORMATS.
            top: how many gems and known photos are named, at most.
        """
        return self._pool.map(lambda photo: self._answer(photo, top), photos)

    def _answer(self, photo: Photo, top: int) -> Prediction | DataError:
        try:
            probabilities, embedding = self.outputs(self.pixels(photo))
        except DataError as error:
            return error
        return predictions.to_predictions(probabilities, embedding, self.knowledge, top=top)[0]

    def pixels(self, photo: Photo) -> np.ndarray:
        """Returns a photo as the model sees it, uint8 of shape (side, side, 3).

        Raises:
            DataError: it cannot be read as a photo.
        """
        return decode.pixels(crop.crop(decode.read(photo), self.crop)[0], self._graph.size)

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities (1, classes) and embedding (1, D) for pixels (side, side, 3) in [0, 255]."""
        told = self._graph(pixels)
        return told["probabilities"], told["embedding"]

    def probabilities(self, photos: Iterator[np.ndarray]) -> np.ndarray:
        """Returns the probabilities, float (photos, classes), for pixels (side, side, 3) each."""
        return np.concatenate(list(self._pool.map(lambda pixels: self.outputs(pixels)[0], photos)))

    def why(self, photo: Photo) -> Image.Image:
        """Returns a photo and, beside it, which parts of it speak for the answer, by occlusion.

        Raises:
            DataError: it cannot be read as a photo.
        """
        from gemmodel.explain import occlusion
        from gemmodel.figures import overlays

        pixels = self.pixels(photo)
        target = int(self.outputs(pixels)[0].argmax())

        def scores(photos: Iterator[np.ndarray]) -> np.ndarray:
            return np.log(np.maximum(self.probabilities(photos)[:, target], 1e-9))

        return overlays.side_by_side(pixels, occlusion.occlusion(scores, pixels))
