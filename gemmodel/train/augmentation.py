"""The augmentation of `images/augment.py` on the fly, as a Keras preprocessing layer."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from joblib import cpu_count
from keras import layers, ops

from gemmodel.core.params import AugmentParams
from gemmodel.images import augment


def augmenter(params: AugmentParams, *, seed: int) -> keras.Sequential:
    """Returns the augmentation as a model that acts in training only.

    Args:
        params: see `augment.warp`.
        seed: of the random transformations.

    Returns:
        A model on pixels of shape (batch, height, width, 3) in [0, 255] that keeps shape and range.
    """
    return keras.Sequential([RandomAffine(params, seed=seed)], name="augmenter")


class RandomAffine(layers.Layer):
    """Transforms images by `augment.warp` with random values, whose seed Keras has."""

    def __init__(self, params: AugmentParams, *, seed: int) -> None:
        super().__init__(dtype="float32")
        self.warp = partial(augment.warp, params=params)
        self.generator = keras.random.SeedGenerator(seed)
        self.pool = ThreadPoolExecutor(cpu_count())  # tf.data makes one batch at a time under `base.deterministic`

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Returns square images of shape (batch, side, side, 3); they change in training only."""
        if not training:
            return pixels
        draws = keras.random.uniform((ops.shape(pixels)[0], augment.DRAWS), -1, 1, seed=self.generator)
        warped = tf.numpy_function(self._warp_all, [pixels, draws], tf.float32, stateful=False)
        return tf.ensure_shape(warped, pixels.shape)

    def _warp_all(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        return np.stack(list(self.pool.map(self.warp, pixels, draws)))


def reseed_layers(steps: Sequence[keras.Layer], text: str) -> None:
    """Seeds the random layers of an augmentation with a text, whatever they have done before."""
    random = [layer for layer in steps if hasattr(layer, "generator")]
    for i, layer in enumerate(random):
        digest = hashlib.sha256(f"{text}/{i}".encode()).digest()
        layer.generator.state.assign(np.frombuffer(digest[:8], np.uint32))
