"""Exported graphs: they run without TensorFlow, and faster on CPUs."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemmodel.core import files
from gemmodel.core.errors import ModelError, suppress_stderr
from gemmodel.embed.backbones import engines

if TYPE_CHECKING:
    import keras

    from gemmodel.embed.backbones.backbone_file import FileNetwork


class Graph:
    """A graph that any number of threads may call at a time.

    A backbone in a `.tflite` or `.onnx` file stays this file. The graph is a chain then: one part computes what these
    files read, and another takes what they give. `export` describes the files.

    Attributes:
        size: side of its square input in pixels.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Opens what `export` wrote.

        Args:
            path: the file that was given to `export`.
            threads: of one computation. With one, equal photos give equal bits in any number of calls at a time.

        Raises:
            ModelError: a file is missing, damaged or of another version, or what computes it is not installed.
        """
        links = files.read_json(_links(path)) if _links(path).is_file() else []
        parts = [path, *(path.with_name(name) for name in sorted({link["file"] for link in links}))]
        opened = {}
        for part in [*parts, _front(path)] if links else parts:
            file = exported(part)
            opened[part.name] = engines.open_engine(
                file, file.suffix, name=str(file), threads=threads, remedy="; train it again"
            )
        self._links = [(opened[link["file"]], link["outputs"]) for link in links]
        self._end, self._front = opened[path.name], opened[(_front(path) if links else path).name]
        self.size: int = self._front.inputs["pixels"][0][1]

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name, of shape (1, ...), for pixels (side, side, 3) in [0, 255]."""
        photo = {"pixels": pixels[None].astype(np.float32)}
        inputs = dict(photo)
        read = self._front(photo) if self._links else {}
        for i, (file, outputs) in enumerate(self._links):
            given = file({next(iter(file.inputs)): read[f"read_{i}"]})
            inputs |= {f"given_{i}_{j}": given[name] for j, name in enumerate(outputs)}
        return self._end({name: inputs[name] for name in self._end.inputs})


def export(outputs: Mapping[str, Any], pixels: Any, path: Path) -> None:
    """Writes a graph for one photo at a time: batches are no faster, and an unknown batch size leaves shapes undefined.

    It is written for LiteRT or, where that lacks an operation, for ONNX Runtime, with the suffix `.onnx`. Backbone
    files within it are written beside it, with their names in `..._files.json`; `..._front` computes what they read.

    Args:
        outputs: Keras tensors by name, of batch size 1.
        pixels: Keras' input tensor of batch size 1, named `pixels`.
        path: the file to write, with the suffix `.tflite`.

    Raises:
        ModelError: neither LiteRT nor ONNX has all its operations, or the packages for ONNX are not installed.
    """
    import keras

    model = keras.Model(pixels, dict(outputs))
    if not _has_files(model):
        _write(model, path)
        return
    cut = _cut(model)
    networks = list({id(network): network for network in cut.networks}.values())
    names = {id(network): f"{path.stem}_{i}{network.suffix}" for i, network in enumerate(networks)}
    for network in networks:
        path.with_name(names[id(network)]).write_bytes(network.file_bytes())
    links = [{"file": names[id(network)], "outputs": network.outputs} for network in cut.networks]
    files.write_json(_links(path), links)
    _write(cut.front, _front(path))
    _write(cut.end, path)


def exported(path: Path) -> Path:
    """Returns the file that `export` wrote for a path: itself, or the one for ONNX Runtime."""
    onnx = path.with_suffix(".onnx")
    return onnx if onnx.is_file() and not path.is_file() else path


def _links(path: Path) -> Path:
    return path.with_name(f"{path.stem}_files.json")


def _front(path: Path) -> Path:
    return path.with_name(f"{path.stem}_front{path.suffix}")


def _write(model: "keras.Model", path: Path) -> None:
    try:
        with suppress_stderr():
            model.export(path, format="litert", verbose=False)
    except Exception as error:  # TensorFlow's converter has no error of its own that can be imported
        _write_onnx(model, path.with_suffix(".onnx"), (str(error).splitlines() or [type(error).__name__])[0][:200])


def _write_onnx(model: "keras.Model", path: Path, reason: str) -> None:
    if not all(find_spec(package) for package in ("onnxruntime", "tf2onnx")):  # Keras prepares NumPy for tf2onnx
        raise ModelError(
            f"this model cannot be exported for LiteRT ({reason}); {engines.INSTALL} installs ONNX Runtime"
        )
    try:
        with suppress_stderr():
            model.export(path, format="onnx", verbose=False)
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"this model can be exported neither for LiteRT ({reason}) nor for ONNX ({line})") from None


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
    """Yields a model from pixels to one tensor as a graph, whose output is named `output`; its files are temporary."""
    import keras

    with tempfile.TemporaryDirectory() as scratch:
        pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
        export({"output": model(pixels)}, pixels, file := Path(scratch) / "model.tflite")
        yield Graph(file)
