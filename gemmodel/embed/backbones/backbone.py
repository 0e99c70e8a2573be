"""One interface for every kind of backbone: pixels in [0, 255] to feature maps and vectors, scaled inside.

So no caller can scale twice or forget it, and none has to know what kind a backbone is.
"""

from collections.abc import Iterator, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from gemmodel.core.errors import ModelError, did_you_mean
from gemmodel.core.params import BACKBONE_FILES, split_side
from gemmodel.embed.backbones import backbone_file, hub
from gemmodel.embed.backbones.applications import APPLICATIONS, application
from gemmodel.embed.backbones.lite import LITES, lite

MAX_PREFIX = 16  # class and register tokens before the patches: DINOv2 and DINOv3 have at most 5


class Spec(NamedTuple):
    """What an entry of `embed.backbone` names.

    Attributes:
        name: of a network, a preset or a file.
        side: of its input in pixels; None: that of the file or preset, or else the model's.
    """

    name: str
    side: int | None

    @property
    def label(self) -> str:
        """The name by which blocks of features are called: without folders and suffix."""
        stem = Path(self.name).stem if self.is_file else Path(self.name).name
        return backbone_file.layer_name(stem if self.side is None else f"{stem}_{self.side}")

    @property
    def is_file(self) -> bool:
        """Whether it is a file with a description beside it."""
        return Path(self.name).suffix in BACKBONE_FILES


def parse(text: str) -> Spec:
    """Reads an entry of `embed.backbone`, such as `efficientnet_lite2` or `efficientnet_lite2@260`."""
    name, side = split_side(text)
    return Spec({function: key for key, function in APPLICATIONS.items()}.get(name, name), side)


def backbone(text: str, *, weights: str, image_size: int) -> keras.Model:
    """Returns the feature maps of a backbone, from fine to coarse, then its vectors.

    Args:
        text: `efficientnet_lite0` to `efficientnet_lite2`; a model of keras.applications, such as `resnet50`,
            `mobilenet_v3_small` or `efficientnet_v2_b0`, also in Keras' spelling: `MobileNetV3Small`; a preset of
            keras-hub, such as `dinov2_small`, or a folder of one; or a `.keras`, `.tflite` or `.onnx` file with a
            description beside it (`backbone_file.Description`). `@260` after it is the side of its input.
        weights: `imagenet`: those of the name; `none` for random weights, the same ones each time; or the path of a
            weights file without the classifier: Keras' `.weights.h5`, or for a Lite torch's legacy `.pth`. A backbone
            file has its own weights, whatever this is.
        image_size: side of the square input in pixels.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255], which it scales to its own side, to
        a list of maps of shape (batch, height, width, channels) and of vectors of shape (batch, channels). The tokens
        of a transformer are a map of the patches and a vector, the class token.

    Raises:
        ModelError: the name or the weights are unknown, do not fit each other, or are not available here; or the
            backbone reads larger photos than `image_size`.
    """
    spec = parse(text)
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise ModelError(f"backbone weights: {weights!r} is neither 'imagenet' nor 'none' nor a file")
    if spec.is_file:
        model = backbone_file.load(Path(spec.name), side=spec.side)
    elif spec.name in LITES:
        model = lite(spec.name, weights=weights, image_size=spec.side or image_size)
    elif spec.name in APPLICATIONS:
        model = application(spec.name, weights=weights, image_size=spec.side or image_size)
    elif hub.is_preset(spec.name):
        model = hub.preset(spec.name, weights=weights, side=spec.side)
    else:
        known = [*LITES, *APPLICATIONS]
        raise ModelError(
            f"no backbone {spec.name!r}; choose from {', '.join(known)}, a preset of keras-hub, or a "
            f"{', '.join(BACKBONE_FILES)} file{did_you_mean(spec.name, known)}"
        )
    if weights == "none" and not spec.is_file:  # the same each time, since embed and train build it in two processes
        for i, variable in enumerate(model.trainable_variables):
            if len(variable.shape) > 1:
                variable.assign(keras.initializers.HeNormal(seed=i)(variable.shape))
    return _with_pixels(model, spec.name, image_size)


def input_files(names: Sequence[str], weights: str) -> list[Path]:
    """Returns the files that backbones are read from: their own, the descriptions beside them, presets, weights."""
    paths = [Path(parse(name).name) for name in names]
    inputs = [file for path in paths if path.suffix in BACKBONE_FILES for file in (path, path.with_suffix(".yaml"))]
    inputs += [file for path in paths if (path / "config.json").is_file() for file in sorted(path.rglob("*"))]
    return [file for file in [*inputs, Path(weights)] if file.is_file()]


def last_map(model: keras.Model) -> Any:
    """Returns the coarsest feature map of a backbone, shape (batch, height, width, channels).

    Raises:
        ModelError: it gives vectors only.
    """
    maps = [x for x in model.outputs if len(x.shape) == 4]
    if not maps:
        raise ModelError(f"{model.name}: it has no feature map, only vectors; choose another backbone")
    return maps[-1]


def _with_pixels(model: keras.Model, name: str, image_size: int) -> keras.Model:
    """Returns a backbone whose input has the model's side, and whose outputs are maps and vectors only."""
    side = model.input_shape[1]
    if side > image_size:
        raise ModelError(
            f"{name} reads photos of {side} pixels, base.image_size is {image_size}; set base.image_size to {side}, "
            f"or a smaller side after the name, as in {name}@{image_size}"
        )
    if side == image_size and all(len(x.shape) != 3 for x in model.outputs):
        return model
    if side == image_size:
        pixels, outputs = model.inputs[0], model.outputs
    else:
        pixels = keras.Input((image_size, image_size, 3), name="pixels")
        outputs = keras.tree.flatten(model(Downscale(side=side, name="downscale")(pixels)))
    split = [part for i, x in enumerate(outputs) for part in _without_tokens(x, f"{name}: output {i}", i)]
    ordered = [x for rank in (4, 2) for x in split if len(x.shape) == rank]
    return keras.Model(pixels, ordered, name=model.name)


def _without_tokens(x: Any, name: str, index: int) -> Iterator[Any]:
    """Yields maps and vectors as they are, and tokens as the map of the patches and the first of the tokens before."""
    if len(x.shape) != 3:
        yield x
        return
    tokens, channels = x.shape[1:]
    side = isqrt(tokens)
    prefix = tokens - side**2
    if prefix > MAX_PREFIX or side < 2:
        raise ModelError(f"{name} has {tokens} tokens, which are no square of patches; name other outputs")
    yield layers.Reshape((side, side, channels), name=f"patches_{index}")(x[:, prefix:])
    if prefix:
        yield x[:, 0]


@keras.saving.register_keras_serializable(package="gemmodel")
class Downscale(layers.Layer):
    """Scales square photos down with a triangle filter as wide as the ratio, as Pillow does: two matrix products.

    Keras' own resizing skips pixels, or uses an operation that LiteRT lacks. Input: (batch, height, height, channels).
    Output: (batch, side, side, channels).
    """

    def __init__(self, *, side: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.side = side

    def call(self, pixels: Any) -> Any:
        """Returns the scaled photos."""
        size = pixels.shape[1]
        ratio = size / self.side
        centres = (np.arange(self.side) + 0.5) * ratio
        weights = np.maximum(1 - np.abs(np.arange(size) + 0.5 - centres[:, None]) / ratio, 0)
        matrix = ops.convert_to_tensor((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
        rows = ops.matmul(matrix, ops.reshape(pixels, (-1, size, size * pixels.shape[3])))
        rows = ops.reshape(rows, (-1, self.side, size, pixels.shape[3]))
        return ops.matmul(matrix, rows)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the scaled photos."""
        return (shape[0], self.side, self.side, shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "side": self.side}
