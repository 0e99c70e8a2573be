"""Max pooling for training: TensorFlow's numbers, forwards and backwards."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from gemmodel.models import pooling
from gemmodel.models.cnn import cnn
from gemmodel.params import Params


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_tensorflows(side: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = tf.cast(tf.constant(rng.integers(-3, 3, (4, side, side, 5))), dtype)  # few values: most windows have ties
    weights = tf.cast(tf.constant(rng.normal(size=(4, 3, 3, 5))), dtype)
    told = []
    for layer in (pooling.MaxPooling(2, dtype=dtype), keras.layers.MaxPooling2D(2, dtype=dtype)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            pooled = layer(x)
            loss = tf.reduce_sum(pooled * weights)
        told.append((pooled.numpy().tobytes(), tape.gradient(loss, x).numpy().tobytes()))
    assert told[0] == told[1]


def test_a_network_keeps_its_weights_and_its_answers(settings: Callable[..., Params]) -> None:
    model = cnn(settings().model.cnn, image_size=64, classes=3)
    copy = pooling.for_training(model)
    kinds = [type(layer).__name__ for layer in copy.layers if "pool" in layer.name]
    assert kinds == ["MaxPooling"] * 3 + ["AveragePooling2D", "MaxPooling"]
    photos = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    assert np.asarray(model(photos)).tobytes() == np.asarray(copy(photos)).tobytes()


def test_a_network_without_such_pooling_is_itself(settings: Callable[..., Params]) -> None:
    model = cnn(settings({"model.cnn.pooling": "average"}).model.cnn, image_size=64, classes=3)
    assert pooling.for_training(model) is model
