"""LiteRT graphs: an exported Keras model runs without TensorFlow, and faster on CPUs."""

import json
import math
import os
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import count, islice, takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gemmodel.core import files
from gemmodel.core.errors import DataError, ModelError, first_line, suppress_stderr
from gemmodel.embed import feature_set
from gemmodel.embed.backbones import engines
from gemmodel.images import decode

if TYPE_CHECKING:
    import keras

S = TypeVar("S")
T = TypeVar("T")

# A graph may have other files in it: the LiteRT graph of model.tflite is then what comes last, and the others are a ZIP
# archive at its end, as LiteRT's metadata are, which it ignores. With backbone files it is a chain: from pixels to what
# each file reads, the files, the rest. With extractors it is a classifier's head, which reads what they compute.
FRONT, CALLS = "front.tflite", "calls.json"
NETWORK = "network.tflite"  # beside the extractors of several backbones, which are numbered
FEATURES = "features"  # what a head reads, of all extractors; and of the network under its name without a suffix
BATCH = 8  # photos that a head reads at once. Each call reads all of its weights, 55 MB for 87 gems
MAX_CONSTANT = 100_000  # numbers of a weight that a graph is traced with as a constant
AHEAD = max(32, 2 * (os.cpu_count() or 1) + BATCH)  # photos that are computed, or wait for it


class Graph:
    """A graph that any number of threads may call at a time.

    Attributes:
        size: side of its square input in pixels.
    """

    def __init__(self, path: Path, *, content: bytes | None = None, threads: int = 1) -> None:
        """Reads what `export` or `export_head` wrote into memory: the file may then be replaced.

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
            parts = files.appended(self._content)
            calls = json.loads(parts.pop(CALLS, b"[]"))
        except (ValueError, zipfile.BadZipFile):
            raise ModelError(f"{path}: damaged; train it again") from None
        names = list(takewhile(parts.__contains__, map(feature_set.EXTRACTOR.format, count())))
        self._extractors = [Graph(path, content=parts.pop(name), threads=threads) for name in names]
        network = parts.pop(NETWORK, None)
        self._network = Graph(path, content=network, threads=threads) if network else None
        opened = {name: self._open(part, name) for name, part in parts.items()}
        self._calls = [(opened[call["file"]], call["outputs"]) for call in calls]  # what each backbone file computes
        self._end, self._one_at_a_time = self._open(self._content, ""), Lock()
        self._front = opened.get(FRONT, self._end)
        if not names and "pixels" not in self._front.inputs:
            raise ModelError(f"{path}: damaged: it does not read pixels; train it again")
        self.size: int = self._extractors[0].size if names else self._front.inputs["pixels"][0][1]

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name, of shape (1, ...), for pixels (side, side, 3) in [0, 255]."""
        return self.finish([self.start(pixels)])

    def start(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what `finish` reads of a photo: all but the head where there is one, else the outputs."""
        if self._extractors:
            read = {FEATURES: np.concatenate([_only(part(pixels)) for part in self._extractors], axis=1)}
            return read | ({Path(NETWORK).stem: _only(self._network(pixels))} if self._network else {})
        inputs = photo = {"pixels": pixels[None].astype(np.float32)}
        if self._calls:
            read = self._front(photo)
            for i, (file, outputs) in enumerate(self._calls):
                given = engines.compute(file, read[f"read_{i}"], outputs)
                inputs = inputs | {f"given_{i}_{j}": values for j, values in enumerate(given)}
        return self._end({name: inputs[name] for name in self._end.inputs})

    def finish(self, started: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns the outputs by name, of shape (photos, ...), for what `start` returned for each photo.

        On x86 the bits do not depend on how many photos there are.
        """
        joined = {name: np.concatenate([photo[name] for photo in started]) for name in started[0]}
        if not self._extractors:
            return joined
        with self._one_at_a_time:  # it uses memory's whole speed, and each copy would have its own weights
            return self._end(joined)

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

    def probabilities(self, photos: Iterable[Path | np.ndarray], *, pool: Executor | None = None) -> np.ndarray:
        """Returns a classifier's probabilities, float32 (photos, classes).

        Args:
            photos: their paths or pixels.
            pool: computes several at once; None: one on each core.
        """

        def start(photo: Path | np.ndarray) -> dict[str, np.ndarray]:
            return self.start(self.read(photo) if isinstance(photo, Path) else photo)

        with nullcontext(pool) if pool else ThreadPoolExecutor(os.cpu_count()) as workers:
            return np.concatenate([self.finish(some)["probabilities"] for some in batches(workers, start, photos)])

    def _open(self, content: bytes, part: str) -> engines.Engine:
        name, suffix = (f"{self._path}: {part}", Path(part).suffix) if part else (str(self._path), ".tflite")
        return engines.open_engine(content, suffix, name=name, threads=self._threads, remedy="; train it again")


def batches(pool: Executor, function: Callable[[S], T], photos: Iterable[S]) -> Iterator[list[T]]:
    """Yields what a function returns for each photo, in their order, as many at once as a head reads.

    Unlike `pool.map` it computes only a few photos ahead, since what a head reads of a photo takes 46 kB.
    """
    running: deque[Future[T]] = deque()
    remaining = iter(photos)
    while True:
        running.extend(pool.submit(function, photo) for photo in islice(remaining, AHEAD - len(running)))
        if not running:
            return
        yield [running.popleft().result() for _ in range(min(BATCH, len(running)))]


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    (values,) = outputs.values()
    return values


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
    photo = {"pixels": model.inputs[0].shape}
    if not has_files(model):
        path.write_bytes(_converted(lambda pixels: model(pixels, training=False), model, photo))
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

    first = _converted(front, model, photo)
    given = {f"given_{i}_{j}": (1, *shape) for i, network in enumerate(calls) for j, shape in enumerate(network.shapes)}
    path.write_bytes(_converted(end, model, photo | given))
    files = {id(network): network for network in calls}
    names = {key: f"backbone_{i}{network.suffix}" for i, (key, network) in enumerate(files.items())}
    table = [{"file": names[id(network)], "outputs": network.outputs} for network in calls]
    parts = {CALLS: json.dumps(table).encode(), FRONT: first}
    _add_parts(path, parts | {names[key]: network.file_bytes() for key, network in files.items()})


def export_head(
    head: "keras.Model", path: Path, *, extractors: Sequence[Path], network: "keras.Model | None" = None
) -> None:
    """Writes a classifier as a graph of its head, in which there are the graphs that compute what the head reads.

    Args:
        head: from features, and from the outputs of `network` if there is one, to named outputs.
        path: the file to write.
        extractors: what `export` wrote, each from pixels to the features of a backbone; the head reads all of them.
        network: from pixels to one tensor.

    Raises:
        ModelError: LiteRT does not have all its operations.
    """
    names = [FEATURES, *([Path(NETWORK).stem] if network else [])]
    shapes = {name: (None, *x.shape[1:]) for name, x in zip(names, head.inputs, strict=True)}
    parts = {feature_set.EXTRACTOR.format(i): extractor.read_bytes() for i, extractor in enumerate(extractors)}
    if network:
        export_model(network, path)
        parts[NETWORK] = path.read_bytes()
    path.write_bytes(_converted(lambda *inputs: head(list(inputs), training=False), head, shapes))
    _add_parts(path, parts)


def _add_parts(path: Path, parts: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in parts.items():  # of a constant date, so that the same model has the same bytes
            archive.writestr(zipfile.ZipInfo(name), content)


def _converted(compute: Callable[..., Any], model: "keras.Model", inputs: Mapping[str, Sequence[int | None]]) -> bytes:
    """Returns the LiteRT graph of a function of tensors, of which `inputs` are the names and shapes."""
    import keras
    import tensorflow as tf

    # Keras' own export traces each layer several times, which takes longer than the conversion, and it leaves the batch
    # size open: then LiteRT plans its memory again for each photo. Small weights, of which there are hundreds, are
    # constants: the converter writes variables to a SavedModel and reads them again. It copies large constants often.
    small = [x for x in model.variables if math.prod(x.shape) <= MAX_CONSTANT]
    values = [x.numpy() for x in small]
    module = tf.Module()
    module.model_variables = [x.value for x in model.variables if math.prod(x.shape) > MAX_CONSTANT]

    def with_constants(*tensors: Any) -> Any:
        with keras.StatelessScope([*zip(small, map(tf.constant, values), strict=True)]):
            return compute(*tensors)

    signature = [tf.TensorSpec(shape, name=name) for name, shape in inputs.items()]
    function = tf.function(with_constants, input_signature=signature, autograph=False).get_concrete_function()
    try:
        with suppress_stderr():
            return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    except Exception as error:  # TensorFlow's converter has no error of its own that can be imported
        line = first_line(error)
        raise ModelError(f"this model cannot be exported for LiteRT: {line}; choose another backbone") from None


def export_model(model: "keras.Model", path: Path) -> None:
    """Writes a model from pixels to one tensor as a graph, whose output is named `output`; raises as `export`."""
    import keras

    pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
    export({"output": model(pixels)}, pixels, path)


@contextmanager
def as_litert(model: "keras.Model") -> Iterator[Graph]:
    """Yields what `export_model` writes; its file is temporary."""
    with tempfile.TemporaryDirectory() as scratch:
        export_model(model, file := Path(scratch) / "model.tflite")
        yield Graph(file)
