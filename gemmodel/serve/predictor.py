"""Predictions of a trained model for photos, by its LiteRT export: without TensorFlow and MLflow, which are slow."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.embed.litert import Graph, exported
from gemmodel.images import crop, decode
from gemmodel.models import metadata
from gemmodel.serve import predictions
from gemmodel.serve.predictions import Prediction

Photo = Path | IO[bytes]


class Predictor:
    """A trained model. It crops and resizes each photo as the training photos were."""

    def __init__(self, folder: Path, *, workers: int = 0) -> None:
        """Reads what `saving.save` wrote.

        Args:
            folder: of the model.
            workers: the number of photos processed at once; they share the cores evenly. 0 is one per core.

        Raises:
            DataError: there is no model in the folder, or none with an export.
            ModelError: a file of the model is damaged.
        """
        cores = os.cpu_count() or 1
        self.export = exported(folder / metadata.EXPORT)
        if not self.export.is_file():
            raise DataError(f"{self.export}: no such model; `dvc repro` trains one, `dvc pull` fetches one")
        self.metadata = metadata.read(folder)
        self.crop: crop.Method = files.read_json(folder / "input.json")["crop"]
        self._graph = Graph(folder / metadata.EXPORT, threads=max(1, cores // (workers or cores)))
        self._pool = ThreadPoolExecutor(workers or cores)

    def predict(self, photos: Sequence[Photo], *, top: int = 5) -> Iterator[Prediction | DataError]:
        """Yields the prediction for each photo, in their order, or the error where a photo cannot be read.

        Args:
            photos: paths or open files, in any of decode.FORMATS.
            top: the maximum number of gems and of reference photos in a prediction.
        """
        return self._pool.map(lambda photo: self._predict(photo, top), photos)

    def _predict(self, photo: Photo, top: int) -> Prediction | DataError:
        try:
            probabilities, embedding = self.outputs(self.pixels(photo))
        except DataError as error:
            return error
        return predictions.to_predictions(probabilities, embedding, self.metadata, top=top)[0]

    def pixels(self, photo: Photo) -> np.ndarray:
        """Returns a photo as the model's input, uint8 of shape (side, side, 3).

        Raises:
            DataError: the file cannot be read as a photo.
        """
        return self.to_input(decode.read(photo))

    def to_input(self, image: Image.Image) -> np.ndarray:
        """Returns an image from `decode.read` as the model's input, uint8 of shape (side, side, 3)."""
        return decode.pixels(crop.crop(image, self.crop)[0], self._graph.size)

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities (1, classes) and embedding (1, D) of pixels (side, side, 3) in [0, 255]."""
        outputs = self._graph(pixels)
        return outputs["probabilities"], outputs["embedding"]

    def probabilities(self, photos: Iterator[np.ndarray]) -> np.ndarray:
        """Returns the probabilities, float (photos, classes), of pixels (side, side, 3) each."""
        return np.concatenate(list(self._pool.map(lambda pixels: self.outputs(pixels)[0], photos)))

    def explain(self, photo: Photo, *, known: int = 5) -> tuple[Image.Image, list[str]]:
        """Returns why the model answers as it does: a picture, and sentences.

        Args:
            photo: a path or an open file.
            known: the number of most similar reference photos that are named.

        Returns:
            The photo and, beside it in grey, in red the parts on which the answer rests (`explain.occlusion`); and what
            `explain.cues` says about the part, the colours and the known photos; of a photo unlike all of these only
            the last one.

        Raises:
            DataError: the file cannot be read as a photo.
        """
        return self.explain_pixels(self.pixels(photo), known=known)

    def explain_pixels(self, pixels: np.ndarray, *, known: int = 5) -> tuple[Image.Image, list[str]]:
        """Returns what `explain` does, for the model's input."""
        from gemmodel.explain import cues
        from gemmodel.figures import overlays

        prediction = predictions.to_predictions(*self.outputs(pixels), self.metadata, top=known)[0]
        nearest = [neighbour.gem for neighbour in prediction.nearest]
        explanation = cues.explain(self.probabilities, pixels, self.metadata.classes, nearest)
        # Of a photo unlike all known ones the answer means little, and so does what would change it.
        sentences = explanation.sentences[-1:] if prediction.unknown else explanation.sentences
        return overlays.side_by_side(pixels, explanation.part.shown), sentences
