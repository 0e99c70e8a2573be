"""Max pooling whose gradient does not search a second time, for training on CPUs."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers


class MaxPooling(layers.MaxPooling2D):
    """2x2 max pooling with the numbers of TensorFlow's, its gradient compiled by XLA into one pass.

    On CPUs TensorFlow's MaxPoolGrad takes four to six times as long: a third of a plain network's training step.
    """

    def call(self, inputs: Any) -> Any:
        """Returns the maxima, (batch, height / 2, width / 2, channels); each one's gradient is its first pixel's."""

        def pooled(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
            maxima = tf.nn.max_pool2d(x, 2, 2, "VALID")
            return maxima, lambda gradient: _compiled(x, maxima, gradient)

        return tf.custom_gradient(pooled)(inputs)


def _gradient(x: tf.Tensor, maxima: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    height, width = 2 * maxima.shape[1], 2 * maxima.shape[2]
    none, taken, corners = tf.zeros_like(gradient), tf.zeros_like(maxima, tf.bool), []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        found = tf.equal(x[:, row:height:2, column:width:2], maxima) & ~taken
        corners.append(tf.where(found, gradient, none))
        taken |= found
    rows = [tf.stack(corners[:2], axis=3), tf.stack(corners[2:], axis=3)]
    whole = tf.reshape(tf.stack(rows, axis=2), (-1, height, width, x.shape[3]))
    return tf.pad(whole, ((0, 0), (0, x.shape[1] - height), (0, x.shape[2] - width), (0, 0)))


_compiled = tf.function(_gradient, jit_compile=True)


def for_training(model: keras.Model) -> keras.Model:
    """Returns a copy of the model, with its weights, whose 2x2 max pooling layers are `MaxPooling`.

    Without such a layer, or on a GPU, whose own gradient is fast, it is the model itself.
    """
    if tf.config.get_visible_devices("GPU") or not any(_fits(layer) for layer in model.layers):
        return model

    def copied(layer: keras.Layer) -> keras.Layer:
        return (MaxPooling if _fits(layer) else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    return copy


def _fits(layer: keras.Layer) -> bool:
    return (
        type(layer) is layers.MaxPooling2D
        and (layer.pool_size, layer.strides, layer.padding) == ((2, 2), (2, 2), "valid")
    )  # fmt: skip
