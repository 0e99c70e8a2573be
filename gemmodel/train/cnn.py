"""A plain convolutional network: blocks of convolution and pooling, then dense layers."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import CnnParams

POOLINGS = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}


def cnn(params: CnnParams, *, image_size: int, classes: int) -> keras.Model:
    """Returns an untrained network (the defaults are LSIND's for 87 gems: 2,792,855 parameters at 220 pixels).

    Args:
        params: `filters` has one entry per block; `kernel` and `pooling` have one for all blocks or one per block.
        image_size: side of the square input in pixels.
        classes: the number of classes.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to probabilities of shape
        (batch, classes), also with `output: sigmoid`.

    Raises:
        ParameterError: the blocks do not fit each other or the image, or `output: sigmoid` does not fit the number of
            classes.
    """
    blocks = len(params.filters)
    kernels, poolings = _per_block("kernel", params.kernel, blocks), _per_block("pooling", params.pooling, blocks)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 255, name="scaling")(pixels)
    for filters, kernel, pooling in zip(params.filters, kernels, poolings, strict=True):
        if min(x.shape[1:3]) < (2 if params.padding == "same" else kernel + 1):
            raise ParameterError(f"base.image_size of {image_size} pixels is too small for {blocks} blocks")
        x = layers.Conv2D(filters, kernel, padding=params.padding, activation="relu")(x)
        x = POOLINGS[pooling](2)(x)
    x = layers.Dropout(params.dropout)(layers.Flatten()(x))
    for units in params.dense:
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model(pixels, _class_probs(x, params.output, classes), name="cnn")


def _per_block(name: str, values: Sequence[Any], blocks: int) -> Sequence[Any]:
    if len(values) not in (1, blocks):
        raise ParameterError(
            f"model.cnn.{name} has {len(values)} entries and model.cnn.filters has {blocks}; give one, or one per block"
        )
    return values if len(values) == blocks else [*values] * blocks


def _class_probs(x: Any, output: str, classes: int) -> Any:
    if output == "softmax":
        return layers.Dense(classes, activation="softmax", dtype="float32", name="gem")(x)
    if classes != 2:
        raise ParameterError(f"model.cnn.output: sigmoid is for 2 classes, but there are {classes}; set it to softmax")
    # Both probabilities, as with softmax. Their categorical cross-entropy equals the binary one.
    second = layers.Dense(1, activation="sigmoid", dtype="float32", name="gem")(x)
    return ops.concatenate([1 - second, second], axis=-1)
