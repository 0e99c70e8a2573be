"""LiteRT graphs: an exported Keras model runs without TensorFlow, and faster on CPUs."""

import os
import queue
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, SignatureRunner

from gemmodel.core.errors import DataError, ModelError, suppress_stderr
from gemmodel.images import decode

if TYPE_CHECKING:
    import keras


class Graph:
    """A graph that any number of threads may call at a time: each gets an interpreter of its own.

    Attributes:
        size: side of its square input in pixels.
    """

    _opening = Lock()  # standard error is hidden for all threads

    def __init__(self, path: Path, *, content: bytes | None = None, threads: int = 1) -> None:
        """Reads what `export` wrote into memory: the file may then be replaced.

        Args:
            path: the file.
            content: of the file, where it is read already.
            threads: of one interpreter. With one thread, equal photos give equal bits in any number of calls at a time.

        Raises:
            ModelError: the file is damaged or of another version.
        """
        self._path, self._threads = path, threads
        self._content = path.read_bytes() if content is None else content
        self._idle: queue.SimpleQueue[SignatureRunner] = queue.SimpleQueue()  # each serves one thread at a time
        with self._opening, suppress_stderr():  # LiteRT reports once per process that it computes on the CPU
            self._idle.put(first := self._runner())
        self.size: int = first.get_input_details()["pixels"]["shape"][1]

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name, of shape (1, ...), for pixels (side, side, 3) in [0, 255]."""
        try:
            runner = self._idle.get_nowait()
        except queue.Empty:
            runner = self._runner()
        try:
            return runner(pixels=pixels[None].astype(np.float32))
        finally:
            self._idle.put(runner)

    def with_threads(self, threads: int) -> "Graph":
        """Returns the same graph with another number of threads."""
        return Graph(self._path, content=self._content, threads=threads)

    def read(self, path: Path) -> np.ndarray:
        """Returns a photo of a part of the split as pixels, uint8 (side, side, 3).

        Raises:
            DataError: it cannot be read.
        """
        try:
            return decode.load(path, self.size)
        except DataError as error:
            raise DataError(f"{path}: {error}; `dvc checkout --force` restores the photos") from None

    def probabilities(self, photos: Iterable[Path | np.ndarray]) -> np.ndarray:
        """Returns a classifier's probabilities, float32 (photos, classes), of photos' paths or pixels, one per core."""

        def predict(photo: Path | np.ndarray) -> np.ndarray:
            return self(self.read(photo) if isinstance(photo, Path) else photo)["probabilities"]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(predict, photos)))

    def _runner(self) -> SignatureRunner:
        try:
            interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
            interpreter.allocate_tensors()
            return interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{self._path}: damaged or of another version: {line}; train it again") from None


def export(outputs: Mapping[str, Any], pixels: Any, path: Path) -> None:
    """Writes a graph for one photo at a time: batches are no faster, and an unknown batch size leaves shapes undefined.

    Args:
        outputs: Keras tensors by name, of batch size 1.
        pixels: Keras' input tensor of batch size 1, named `pixels`.
        path: the file to write.
    """
    import keras
    import tensorflow as tf

    # Keras' own export traces each layer several times, which takes longer than the conversion, and it leaves the batch
    # size open: then LiteRT plans its memory anew for each photo.
    model, module = keras.Model(pixels, dict(outputs)), tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    function = tf.function(
        lambda pixels: model(pixels, training=False),
        input_signature=[tf.TensorSpec(pixels.shape, tf.float32, name="pixels")],
    )
    with suppress_stderr():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
        path.write_bytes(converter.convert())


@contextmanager
def as_litert(model: "keras.Model") -> Iterator[Graph]:
    """Yields a model from pixels to one tensor as a graph, whose output is named `output`; its file is temporary."""
    import keras

    with tempfile.TemporaryDirectory() as scratch:
        pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
        export({"output": model(pixels)}, pixels, file := Path(scratch) / "model.tflite")
        yield Graph(file)
