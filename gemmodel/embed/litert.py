"""LiteRT graphs: a Keras model written as one, which is then asked without TensorFlow, and faster on CPUs."""

import queue
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, SignatureRunner

from gemmodel.core.errors import ModelError, suppress_stderr

if TYPE_CHECKING:
    import keras


class Graph:
    """A graph that any number of threads may ask at once: each gets an interpreter to itself.

    Attributes:
        size: side of the square photos that it takes, in pixels.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Opens what `export` wrote.

        Args:
            path: the file.
            threads: of one interpreter. With one the same photo gives the same bits, however many are asked at once.

        Raises:
            ModelError: the file is damaged.
        """
        self._path, self._threads = path, threads
        self._idle: queue.SimpleQueue[SignatureRunner] = queue.SimpleQueue()  # each serves one thread at a time
        with suppress_stderr():  # LiteRT tells once a process that it computes on the CPU
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

    def _runner(self) -> SignatureRunner:
        try:
            interpreter = Interpreter(str(self._path), num_threads=self._threads)
            interpreter.allocate_tensors()
            return interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{self._path}: damaged or of another version: {line}; train it anew") from None


def export(outputs: Mapping[str, Any], pixels: Any, path: Path) -> None:
    """Writes a graph of one photo at a time: a batch is no faster there, and one of unknown size keeps shapes open.

    Args:
        outputs: Keras tensors by name, each from one photo.
        pixels: Keras' input tensor of batch size 1, named `pixels`.
        path: becomes the file.
    """
    import keras

    with suppress_stderr():
        keras.Model(pixels, dict(outputs)).export(path, format="litert", verbose=False)


@contextmanager
def as_litert(model: "keras.Model") -> Iterator[Graph]:
    """Yields a model from pixels to one output, named `told`, as a graph, whose file lasts as long as this."""
    import keras

    with tempfile.TemporaryDirectory() as scratch:
        pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
        export({"told": model(pixels)}, pixels, file := Path(scratch) / "model.tflite")
        yield Graph(file)
