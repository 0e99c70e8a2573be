"""Backbones in files of any origin: `.keras`, `.tflite` or `.onnx`, described by a YAML file of the same name."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from gemmodel.core import params
from gemmodel.core.errors import ModelError, ParameterError, first_line
from gemmodel.core.params import Range
from gemmodel.embed.backbones import engines


@dataclass(frozen=True)
class Description:
    """What the YAML file beside a backbone file says.

    Attributes:
        image_size: side of its square input in pixels.
        channels: whether the channels are the last axis of its input and of its maps, or the first after the batch.
        mean: is subtracted from the pixels in [0, 255]; one number, or one per channel: red, green, blue.
        std: what they are divided by then.
        maps: outputs that are feature maps, from fine to coarse: names of layers in a `.keras` file, else of tensors.
        tokens: outputs of a transformer (batch, tokens, channels): class token, registers, then a square of patches.
        vectors: outputs that are one vector per photo.
        licence: of the weights; the model card names it.
    """

    image_size: Annotated[int, Range(32, 1024)]
    channels: Literal["last", "first"]
    mean: Annotated[tuple[float, ...], Range(1, 3)]
    std: Annotated[tuple[Annotated[float, Range(1e-6)], ...], Range(1, 3)]
    maps: tuple[str, ...]
    tokens: tuple[str, ...]
    vectors: tuple[str, ...]
    licence: str

    @property
    def outputs(self) -> list[str]:
        """The names of all outputs in use."""
        return [*self.maps, *self.tokens, *self.vectors]


def describe(path: Path) -> Description:
    """Reads the description of a backbone file.

    Raises:
        ModelError: the file or its description is missing.
        ParameterError: the description is not YAML, or has a wrong key or value.
    """
    yaml = path.with_suffix(".yaml")
    if not path.is_file():
        raise ModelError(f"backbone {path}: no such file")
    if not yaml.is_file():
        raise ModelError(f"backbone {path}: {yaml} is missing, which describes it; docs/models.md has an example")
    description = params.check_section(params.read(yaml), Description, f"{yaml}: ")
    if not description.outputs:
        raise ParameterError(f"{yaml}: name at least one output in maps, tokens or vectors")
    if 2 in (len(description.mean), len(description.std)):
        raise ParameterError(f"{yaml}: mean and std are one number or three, for red, green and blue")
    return description


def layer_name(text: str) -> str:
    """Returns a text as a name that TensorFlow takes for a layer."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def load(path: Path, *, side: int | None) -> keras.Model:
    """Returns the maps, tokens and vectors of a backbone file, from pixels in [0, 255].

    Raises:
        ModelError: the file is damaged, has no such outputs, or does not fit its description.
        ParameterError: the description has a wrong value.
    """
    description = describe(path)
    size = description.image_size
    if side not in (None, size):
        raise ModelError(f"backbone {path}: its input has {size} pixels; remove @{side}")
    pixels = keras.Input((size, size, 3), name="pixels")
    mean, std = (np.broadcast_to(values, 3) for values in (description.mean, description.std))
    x = layers.Rescaling(
        (1 / std).tolist(), offset=(-mean / std).tolist(), dtype="float32", name=f"{layer_name(path.stem)}_scaling"
    )(pixels)
    if path.suffix == ".keras":
        outputs = _keras_outputs(path, description, pixels, x)
    else:
        first = description.channels == "first"
        if first:
            x = layers.Permute((3, 1, 2), name="channels_first")(x)
        network = FileNetwork.read(path, description.outputs, x.shape[1:])
        outputs = [  # each map as the output of a layer of its own, which explanations look for
            (layers.Permute((2, 3, 1)) if first else layers.Identity())(y) if len(y.shape) == 4 else y
            for y in keras.tree.flatten(network(x))
        ]
    ranks = {4: description.maps, 3: description.tokens, 2: description.vectors}
    for name, output in zip(description.outputs, outputs, strict=True):
        if name not in ranks.get(len(output.shape), ()) or None in output.shape[1:]:
            raise ModelError(
                f"backbone {path}: output {name} has the shape {tuple(output.shape)}; maps have 4 axes, tokens 3 and "
                "vectors 2, all of fixed length but the first"
            )
    return keras.Model(pixels, outputs, name=layer_name(path.stem))


def _keras_outputs(path: Path, description: Description, pixels: Any, x: Any) -> list[Any]:
    """Returns what a network in a file gives for scaled pixels `x`, in layers of its own that `unfreeze` can name."""
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        by_name = {layer.name: layer for layer in model.layers}
        outputs = [by_name[name].output for name in description.outputs if name in by_name]
    except Exception as error:  # of Keras, or of the file's layers
        raise ModelError(f"backbone {path}: Keras cannot read it: {first_line(error)}") from None
    if unknown := [name for name in description.outputs if name not in by_name]:
        some = ", ".join(list(by_name)[-12:])
        raise ModelError(f"backbone {path}: no layer {unknown[0]!r}; its last ones are {some}")
    inner = keras.Model(model.inputs, outputs, name=layer_name(path.stem))

    def call(layer: keras.Layer, *inputs: Any, **options: Any) -> Any:
        return layer(*keras.tree.map_structure(lambda y: x if y is pixels else y, inputs), **options)

    try:
        inner(x)  # checks the size
        spliced = keras.models.clone_model(inner, [pixels], call_function=call)
    except ValueError as error:
        raise ModelError(
            f"backbone {path}: not for {description.image_size} pixels: {str(error).splitlines()[0]}"
        ) from None
    for layer in inner.layers[1:]:
        spliced.get_layer(layer.name).set_weights(layer.get_weights())
    return list(spliced.outputs)


@keras.saving.register_keras_serializable(package="gemmodel")
class FileNetwork(layers.Layer):
    """A network in a `.tflite` or `.onnx` file, as a layer: LiteRT or ONNX Runtime computes it, photo by photo.

    The file's bytes are the layer's weight, so that a saved model is whole. No gradient passes through it, and an
    export leaves it as the file that it is (`litert.export`).

    Input: scaled photos in the file's layout. Output: the tensors of the given names.
    """

    substitute: ClassVar[Callable[["FileNetwork", Any], list[Any]] | None] = None  # see `substituted`

    def __init__(self, *, suffix: str, size: int, outputs: list[str], shapes: list[list[int]], **kwargs: Any) -> None:
        """Makes a layer without its file.

        Args:
            suffix: of the file, which says what computes it.
            size: of the file in bytes.
            outputs: names of its outputs.
            shapes: of these without the batch.
            kwargs: of any layer.
        """
        super().__init__(**{**kwargs, "dtype": "float32", "trainable": False})
        self.suffix, self.size, self.outputs, self.shapes = suffix, size, list(outputs), [list(x) for x in shapes]
        self.content = self.add_weight(shape=(size,), dtype="uint8", initializer="zeros", trainable=False, name="file")
        self._engine: engines.Engine | None = None
        self.built = True

    @classmethod
    def read(cls, path: Path, outputs: list[str], shape: tuple[int, ...]) -> "FileNetwork":
        """Returns the layer of a file.

        Args:
            path: the file.
            outputs: names of the outputs to give.
            shape: of one photo in the file's layout.

        Raises:
            ModelError: the file is damaged, or has another input or other outputs.
        """
        content = path.read_bytes()
        engine = engines.open_engine(content, path.suffix, name=f"backbone {path}")
        if [kind for _, kind in engine.inputs.values()] != ["float32"]:
            raise ModelError(f"backbone {path}: it must have one input, of float32; it has {engine.inputs}")
        if missing := [name for name in outputs if name not in engine.outputs]:
            raise ModelError(f"backbone {path}: no output {missing[0]!r}; it has {', '.join(engine.outputs[:20])}")
        try:
            values = engines.compute(engine, np.zeros((1, *shape), np.float32), outputs)
        except Exception as error:  # neither LiteRT nor ONNX Runtime has an error of its own
            raise ModelError(
                f"backbone {path}: it takes no photo of shape {(1, *shape)}: {first_line(error)}"
            ) from None
        layer = cls(
            suffix=path.suffix, size=len(content), outputs=outputs, shapes=[list(x.shape[1:]) for x in values],
            name="file_network",
        )  # fmt: skip
        layer.content.assign(np.frombuffer(content, np.uint8))
        return layer

    def call(self, x: Any) -> Any:
        """Returns the outputs for a batch."""
        if FileNetwork.substitute:
            return FileNetwork.substitute(self, x)
        values = tf.numpy_function(self._compute, [x], [tf.float32] * len(self.outputs), stateful=False)
        values = keras.tree.flatten(values)  # eagerly, TensorFlow returns a single one without its list
        return [tf.ensure_shape(value, (x.shape[0], *shape)) for value, shape in zip(values, self.shapes, strict=True)]

    def compute_output_spec(self, x: Any) -> Any:
        """Returns the outputs' shapes."""
        return [keras.KerasTensor((x.shape[0], *shape), "float32") for shape in self.shapes]

    def _compute(self, photos: np.ndarray) -> list[np.ndarray]:
        if self._engine is None:
            self._engine = engines.open_engine(self.file_bytes(), self.suffix, name=self.name)
        rows = [engines.compute(self._engine, photo[None], self.outputs) for photo in photos]
        empty = [np.zeros((0, *shape), np.float32) for shape in self.shapes]
        return [np.concatenate(column) for column in zip(*rows, strict=True)] if rows else empty

    def file_bytes(self) -> bytes:
        """Returns the file's content."""
        return np.asarray(ops.convert_to_numpy(self.content), np.uint8).tobytes()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {"suffix": self.suffix, "size": self.size, "outputs": self.outputs, "shapes": self.shapes}
        return {**super().get_config(), **config}


@contextmanager
def substituted(compute: Callable[[FileNetwork, Any], list[Any]]) -> Iterator[None]:
    """Lets a function compute what backbone files give, while an export traces the graph around them.

    Args:
        compute: from a file and a batch that it reads to its outputs.
    """
    FileNetwork.substitute = staticmethod(compute)
    try:
        yield
    finally:
        FileNetwork.substitute = None


def has_files(model: Any) -> bool:
    """Returns whether a backbone file is among the layers of a model, or of the models in it."""
    return isinstance(model, FileNetwork) or any(has_files(layer) for layer in getattr(model, "layers", ()))
