"""Predictions of a trained model for photos, by its LiteRT export: without TensorFlow and MLflow, which are slow."""

import copy
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, get_args

import numpy as np
from PIL import Image

from gemmodel.core import hashing
from gemmodel.core.errors import DataError, GemmodelError, ModelError
from gemmodel.embed import litert
from gemmodel.embed.litert import Graph
from gemmodel.images import crop, decode
from gemmodel.models import metadata
from gemmodel.serve import predictions
from gemmodel.serve.predictions import Prediction

if TYPE_CHECKING:
    from gemmodel.explain.cues import Sentence

INPUT = "input.json"  # how photos are cropped
Photo = Path | IO[bytes]


class Predictor:
    """A trained model, all of it in memory. It crops and resizes each photo as the training photos were.

    Attributes:
        metadata: what the model's folder holds beside the network.
        crop: how photos are cropped.
        hashes: the content of the model's `sha256.json`; None of a former version, whose files are not checked.
        digest: of `hashes`, to tell models apart.
    """

    def __init__(self, folder: Path, *, workers: int = 0) -> None:
        """Reads what `saving.save` wrote.

        Args:
            folder: of the model.
            workers: the number of photos processed at once; they share the cores evenly. 0 is one per core.

        Raises:
            DataError: there is no model in the folder, or none with an export.
            ModelError: a file of the model is damaged.
        """
        export = folder / metadata.EXPORT
        contents = hashing.read_checked(folder, (metadata.EXPORT, INPUT, *metadata.FILES))
        if metadata.EXPORT not in contents:
            raise DataError(
                f"{export}: no such model; `dvc repro` trains one, `dvc pull` fetches one, "
                "`gemmodel register` uploads a registered one again"
            )
        self.hashes = contents.get(hashing.HASHES)
        self.digest = hashlib.sha256(self.hashes or b"").hexdigest()[:16]
        if self.hashes is None:
            print(f"gemmodel: {folder}: of a former version, without {hashing.HASHES}: not checked", file=sys.stderr)
        self.metadata = metadata.parse(contents, folder)
        with metadata.damage(folder):
            self.crop: crop.Method = json.loads(contents[INPUT])["crop"]
            if self.crop not in get_args(crop.Method):
                raise ValueError(f"{INPUT}: crop is {self.crop}")
        self._use(Graph(export, content=contents[metadata.EXPORT], threads=_threads(workers)), workers)

    def _use(self, graph: Graph, workers: int) -> None:
        self._graph, self._pool = graph, ThreadPoolExecutor(workers or os.cpu_count())

    @cached_property
    def explainer(self) -> "Predictor":
        """The same model with all cores for one photo: an explanation takes long, and must not delay predictions."""
        other = copy.copy(self)
        other._use(self._graph.with_threads(_threads(1)), 1)
        return other

    def predict(self, photos: Sequence[Photo], *, top: int = 5) -> Iterator[Prediction | DataError]:
        """Yields the prediction for each photo, in their order, or the error where a photo cannot be read.

        Args:
            photos: paths or open files, in any of decode.FORMATS.
            top: the maximum number of gems and of reference photos in a prediction.
        """
        for batch in litert.batches(self._pool, self._start, photos):
            started = [photo for photo in batch if not isinstance(photo, DataError)]
            outputs = self._graph.finish(started) if started else {}
            answers = iter(predictions.to_predictions(**outputs, metadata=self.metadata, top=top) if started else ())
            yield from (photo if isinstance(photo, DataError) else next(answers) for photo in batch)

    def _start(self, photo: Photo) -> dict[str, np.ndarray] | DataError:
        """Returns what the model's head reads of a photo, or the error where it cannot be read."""
        try:
            return self._graph.start(self.pixels(photo))
        except DataError as error:
            return error

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
        return self._graph.probabilities(photos, pool=self._pool)

    def explain(self, photo: Photo, *, known: int = 5) -> "tuple[Image.Image, list[Sentence]]":
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

    def explain_pixels(self, pixels: np.ndarray, *, known: int = 5) -> "tuple[Image.Image, list[Sentence]]":
        """Returns what `explain` does, for the model's input."""
        from gemmodel.explain import cues
        from gemmodel.figures import overlays

        probabilities, embedding = self.outputs(pixels)
        prediction = predictions.to_predictions(probabilities, embedding, self.metadata, top=known)[0]
        nearest = [neighbour.gem for neighbour in prediction.nearest]
        explanation = cues.explain(self.probabilities, pixels, probabilities[0], self.metadata.classes, nearest)
        # Of a photo unlike all known ones the answer means little, and so does what would change it.
        sentences = explanation.sentences[-1:] if prediction.unknown else explanation.sentences
        return overlays.side_by_side(pixels, explanation.part.shown), sentences


class CurrentPredictor:
    """The model that is in a folder now, for processes that serve.

    Another model in the folder is loaded once it is whole by its hashes. Until then, and for what has begun, the former
    one remains. Any number of threads may use it.
    """

    def __init__(self, folder: Path) -> None:
        """Loads the model; raises what `Predictor` does."""
        self._folder, self._lock = folder, threading.Lock()
        self._files, self._error = self._list(), ""
        self._predictor = Predictor(folder)

    def get(self) -> Predictor:
        """Returns the model, to be used for all of one request."""
        if self._lock.acquire(blocking=False):  # one request loads; the others do not wait
            try:
                self._renew()
            finally:
                self._lock.release()
        return self._predictor

    def _renew(self) -> None:
        if (present := self._list()) == self._files:
            if self._error:  # not at once: a model that is being written is no error
                print(f"gemmodel: {self._error}; the former model remains in use", file=sys.stderr, flush=True)
            self._error = ""
            return
        self._files, self._error = present, ""
        try:
            new = Predictor(self._folder)
            if new.hashes is None:
                raise ModelError(f"{self._folder}: without {hashing.HASHES}, so it may be half of two models")
            if new.hashes != self._predictor.hashes:
                self._predictor = new
                print(f"gemmodel: {self._folder}: another model, in use from now on", file=sys.stderr, flush=True)
        except (GemmodelError, OSError) as error:
            self._error = str(error)

    def _list(self) -> dict[str, tuple[int, ...]]:
        """Returns what changes where a file does."""
        try:
            stats = {entry.name: entry.stat() for entry in os.scandir(self._folder)}
        except OSError:  # it is being replaced
            return {}
        return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _threads(workers: int) -> int:
    cores = os.cpu_count() or 1
    return max(1, cores // (workers or cores))
