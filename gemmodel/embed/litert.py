"""LiteRT graphs: an exported Keras model runs without TensorFlow, and faster on CPUs."""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemmodel.core.errors import DataError, ModelError, suppress_stderr
from gemmodel.embed.backbones import engines
from gemmodel.images import decode

if TYPE_CHECKING:
    import keras

    from gemmodel.embed.backbones.backbone_file import FileNetwork

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
                given = file({next(iter(file.inputs)): read[f"read_{i}"]})
                inputs = inputs | {f"given_{i}_{j}": given[name] for j, name in enumerate(outputs)}
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

    model = keras.Model(pixels, dict(outputs))
    if not _has_files(model):
        path.write_bytes(_converted(model))
        return
    cut = _cut(model)
    files = {id(network): network for network in cut.networks}
    names = {key: f"backbone_{i}{network.suffix}" for i, (key, network) in enumerate(files.items())}
    calls = [{"file": names[id(network)], "outputs": network.outputs} for network in cut.networks]
    path.write_bytes(_converted(cut.end))
    with zipfile.ZipFile(path, "a") as archive:  # of a constant date, so that the same model has the same bytes
        archive.writestr(zipfile.ZipInfo(CALLS), json.dumps(calls))
        archive.writestr(zipfile.ZipInfo(FRONT), _converted(cut.front))
        for key, network in files.items():
            archive.writestr(zipfile.ZipInfo(names[key]), network.file_bytes())


def _converted(model: "keras.Model") -> bytes:
    import tensorflow as tf

    # Keras' own export traces each layer several times, which takes longer than the conversion, and it leaves the batch
    # size open: then LiteRT plans its memory anew for each photo.
    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    function = tf.function(
        lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False),
        input_signature=[tf.TensorSpec(x.shape, tf.float32, name=x.name) for x in model.inputs],
    )
    try:
        with suppress_stderr():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
            return converter.convert()
    except Exception as error:  # TensorFlow's converter has no error of its own that can be imported
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"this model cannot be exported for LiteRT: {line}; choose another backbone") from None


class _Cut(NamedTuple):
    """A model without the backbone files in it.

    Attributes:
        networks: the files, in the order of their calls; one that is called for two views is there twice.
        front: from pixels to `read_0`, ..., what each call reads.
        end: from pixels, and `given_0_0`, ..., what each call gives, to the model's outputs.
    """

    networks: list["FileNetwork"]
    front: "keras.Model"
    end: "keras.Model"


def _has_files(model: Any) -> bool:
    from gemmodel.embed.backbones.backbone_file import FileNetwork

    return isinstance(model, FileNetwork) or any(_has_files(layer) for layer in getattr(model, "layers", ()))


def _cut(model: "keras.Model") -> _Cut:
    """Cuts a model, and the models in it, before and after the backbone files."""
    import keras

    from gemmodel.embed.backbones.backbone_file import FileNetwork

    networks: list[FileNetwork] = []
    read: list[Any] = []
    given: list[Any] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, FileNetwork):
            return compute(layer, args[0])
        if isinstance(layer, keras.Model) and _has_files(layer):
            inner, pixels = _cut(layer), keras.tree.flatten(args[0])[0]
            tensors = inner.front(pixels)
            values = [compute(network, tensors[f"read_{i}"]) for i, network in enumerate(inner.networks)]
            return inner.end([pixels, *keras.tree.flatten(values)])
        return layer(*args, **kwargs)

    def compute(network: FileNetwork, x: Any) -> Any:
        networks.append(network)
        read.append(x)
        given.append(network(x))
        return [keras.layers.Identity()(value) for value in given[-1]]  # a model's input cannot be its output

    clone = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    flat = [x for values in given for x in values]
    names = [f"given_{i}_{j}" for i, values in enumerate(given) for j in range(len(values))]
    front = keras.Model(clone.inputs[0], {f"read_{i}": x for i, x in enumerate(read)})
    inputs = [keras.Input(batch_shape=x.shape, name=name) for x, name in zip(flat, names, strict=True)]
    pixels = keras.Input(batch_shape=clone.inputs[0].shape, name="pixels")
    end = keras.Model([clone.inputs[0], *flat], clone.output)
    return _Cut(networks, front, keras.Model([pixels, *inputs], end([pixels, *inputs])))


@contextmanager
def as_litert(model: "keras.Model") -> Iterator[Graph]:
    """Yields a model from pixels to one tensor as a graph, whose output is named `output`; its file is temporary."""
    import keras

    with tempfile.TemporaryDirectory() as scratch:
        pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
        export({"output": model(pixels)}, pixels, file := Path(scratch) / "model.tflite")
        yield Graph(file)
