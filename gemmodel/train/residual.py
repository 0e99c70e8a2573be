"""A convolutional network of residual blocks with batch norm and ELU before each convolution."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import ResidualParams


def residual(params: ResidualParams, *, image_size: int, classes: int) -> keras.Model:
    """Returns an untrained network (the defaults are loremendez' for 87 gems: 2,184,663 parameters).

    Every convolution and dense layer has a bias. The shortcut of a block is the identity, never a 1 x 1 convolution,
    because the number of filters changes between the blocks.

    Args:
        params: `filters` of the stem and then of each block, and the units of the dense layers.
        image_size: side of the square input in pixels.
        classes: the number of classes.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to probabilities.

    Raises:
        ParameterError: the image is too small for the blocks.
    """
    stem, *blocks = params.filters
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 255, name="scaling")(pixels)
    x = _block(layers.Conv2D(stem, 3, strides=2)(x), _convolution)
    for filters in blocks:
        if min(x.shape[1:3]) < 2:
            raise ParameterError(f"base.image_size of {image_size} pixels is too small for {len(blocks)} blocks")
        x = layers.MaxPooling2D(2)(_norm_elu(x))
        x = _block(_convolution(filters)(x), _convolution)
    x = layers.GlobalAveragePooling2D()(_norm_elu(x))
    x = _norm_elu(_block(layers.Dense(params.dense)(x), layers.Dense))
    return keras.Model(
        pixels, layers.Dense(classes, activation="softmax", dtype="float32", name="gem")(x), name="residual"
    )


def _convolution(filters: int) -> keras.Layer:
    return layers.Conv2D(filters, 3, padding="same")


def _norm_elu(x: Any) -> Any:
    # synchronized: on several devices, too, its statistics are those of the whole batch
    return layers.ELU()(layers.BatchNormalization(synchronized=tf.distribute.has_strategy())(x))


def _block(x: Any, layer: Callable[[int], keras.Layer]) -> Any:
    inputs = x
    for _ in range(2):
        x = layer(x.shape[-1])(_norm_elu(x))
    return layers.Add()([inputs, x])
