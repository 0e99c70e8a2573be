"""LiteRT graphs: an exported Keras model runs without TensorFlow, and faster on CPUs."""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmodel.core.errors import DataError, ModelError, first_line, suppress_stderr
from gemmodel.embed.backbones import engines
from gemmodel.images import decode

if TYPE_CHECKING:
    import keras

# A graph with backbone files in it is a chain: from pixels to what each file reads, the files, the rest. The rest is
# the LiteRT graph of model.tflite; the others are a ZIP archive at its end, as LiteRT's metadata are, which it ignores.
FRONT, CALLS = "front.tflite", "calls.json"


class Graph:
    """A graph that any number of threads may call at a time.

    Attributes:
        size: side of its square input in pixels.
    """

    def __init__(self, path: Path, *, content: bytes | None = None, threads: int = 1) -> None:
        """Reads what `export` wrote into memory: the file may then be replaced.

        Args:
            path: the file.
            content: of the file, where it is read already.
            threads: of one computation. With one, equal photos give equal bits in any number of calls at a time.

        Raises:
            ModelError: the file is damaged or of another version, or ONNX Runtime, which it needs, is not installed.
        """
        self._path, self._threads = path, threads
        self._content = path.read_bytes() if content is None else content
        try:
            parts = _other_parts(self._content)
            calls = json.loads(parts.pop(CALLS, b"[]"))
        except (ValueError, zipfile.BadZipFile):
            raise ModelError(f"{path}: damaged; train it again") from None
        opened = {name: self._open(part, name) for name, part in parts.items()}
        self._calls = [(opened[call["file"]], call["outputs"]) for call in calls]  # what each backbone file computes
        self._end = self._open(self._content, "")
        self._front = opened.get(FRONT, self._end)
        self.size: int = self._front.inputs["pixels"][0][1]

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name, of shape (1, ...), for pixels (side, side, 3) in [0, 255]."""
        inputs = photo = {"pixels": pixels[None].astype(np.float32)}
        if self._calls:
            read = self._front(photo)
            for i, (file, outputs) in enumerate(self._calls):
                given = engines.compute(file, read[f"read_{i}"], outputs)
                inputs = inputs | {f"given_{i}_{j}": values for j, values in enumerate(given)}
        return self._end({name: inputs[name] for name in self._end.inputs})

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

    def _open(self, content: bytes, part: str) -> engines.Engine:
        name, suffix = (f"{self._path}: {part}", Path(part).suffix) if part else (str(self._path), ".tflite")
        return engines.open_engine(content, suffix, name=name, threads=self._threads, remedy="; train it again")


def _other_parts(content: bytes) -> dict[str, bytes]:
    """Returns the parts of a chain but the last, by name."""
    if content[-22:-18] != b"PK\5\6":  # the end of a ZIP archive without a comment
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def export(outputs: Mapping[str, Any], pixels: Any, path: Path) -> None:
    """Writes a graph for one photo at a time: batches are no faster, and an unknown batch size leaves shapes undefined.

    Args:
        outputs: Keras tensors by name, of batch size 1.
        pixels: Keras' input tensor of batch size 1, named `pixels`.
        path: the file to write.

    Raises:
        ModelError: LiteRT does not have all its operations.
    """
    import keras
    import tensorflow as tf

    from gemmodel.embed.backbones.backbone_file import FileNetwork, has_files, substituted

    model = keras.Model(pixels, dict(outputs))
    if not has_files(model):
        path.write_bytes(_converted(lambda pixels: model(pixels, training=False), model, {}))
        return
    calls: list[FileNetwork] = []  # one that is called for two views is there twice

    def front(pixels: Any) -> dict[str, Any]:
        read = {}

        def record(network: FileNetwork, x: Any) -> list[Any]:
            read[f"read_{len(calls)}"] = x
            calls.append(network)
            return [tf.zeros((1, *shape)) for shape in network.shapes]

        with substituted(record):
            model(pixels, training=False)
        return read

    def end(pixels: Any, *given: Any) -> dict[str, Any]:
        values = iter(given)
        with substituted(lambda network, x: [next(values) for _ in network.shapes]):
            return dict(model(pixels, training=False))

    first = _converted(front, model, {})
    given = {f"given_{i}_{j}": shape for i, network in enumerate(calls) for j, shape in enumerate(network.shapes)}
    path.write_bytes(_converted(end, model, given))
    files = {id(network): network for network in calls}
    names = {key: f"backbone_{i}{network.suffix}" for i, (key, network) in enumerate(files.items())}
    with zipfile.ZipFile(path, "a") as archive:  # of a constant date, so that the same model has the same bytes
        table = [{"file": names[id(network)], "outputs": network.outputs} for network in calls]
        archive.writestr(zipfile.ZipInfo(CALLS), json.dumps(table))
        archive.writestr(zipfile.ZipInfo(FRONT), first)
        for key, network in files.items():
            archive.writestr(zipfile.ZipInfo(names[key]), network.file_bytes())


def _converted(compute: Callable[..., Any], model: "keras.Model", given: Mapping[str, Sequence[int]]) -> bytes:
    """Returns the LiteRT graph of a function of pixels and of `given` tensors, named with their shapes for a photo."""
    import tensorflow as tf

    # Keras' own export traces each layer several times, which takes longer than the conversion, and it leaves the batch
    # size open: then LiteRT plans its memory again for each photo.
    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    inputs = [tf.TensorSpec(model.inputs[0].shape, name="pixels")]
    inputs += [tf.TensorSpec((1, *shape), name=name) for name, shape in given.items()]
    function = tf.function(compute, input_signature=inputs).get_concrete_function()
    try:
        with suppress_stderr():
            return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    except Exception as error:  # TensorFlow's converter has no error of its own that can be imported
        line = first_line(error)
        raise ModelError(f"this model cannot be exported for LiteRT: {line}; choose another backbone") from None


@contextmanager
def as_litert(model: "keras.Model") -> Iterator[Graph]:
    """Yields a model from pixels to one tensor as a graph, whose output is named `output`; its file is temporary."""
    import keras

    with tempfile.TemporaryDirectory() as scratch:
        pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
        export({"output": model(pixels)}, pixels, file := Path(scratch) / "model.tflite")
        yield Graph(file)
