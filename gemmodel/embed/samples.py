"""Labelled photos as tf.data batches."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from gemmodel.images import decode


def batches(
    paths: Sequence[Path],
    labels: np.ndarray,
    *,
    classes: int,
    image_size: int,
    batch_size: int,
    augmenter: keras.Model | None = None,
    shuffle_seed: tf.Variable | None = None,
    cache: bool = False,
) -> tf.data.Dataset:
    """Returns batches of pixels and of the probabilities to fit: one-hot labels, or others.

    Args:
        paths: the photos.
        labels: class indices of shape (photos,), or probabilities of shape (photos, classes).
        classes: the number of classes.
        image_size: side of the square in pixels.
        batch_size: photos per batch.
        augmenter: applied to each batch, with new random values in every epoch.
        shuffle_seed: int64, read at the start of each epoch; it alone determines the order. None: no shuffling.
        cache: decodes each photo once and keeps it in memory, for several epochs.

    Returns:
        Batches of float32 pixels (batch, image_size, image_size, 3) in [0, 255], and of these probabilities, float32
        (batch, classes).
    """

    def read(name: bytes) -> np.ndarray:
        return decode.load(Path(name.decode()), image_size)

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.numpy_function(read, [path], tf.uint8, stateful=False)  # a stateful one runs one at a time
        return tf.ensure_shape(pixels, (image_size, image_size, 3)), label

    data = tf.data.Dataset.from_tensor_slices(([str(path) for path in paths], one_hot(labels, classes)))
    if cache:
        data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE).cache()
    if shuffle_seed is not None:
        data = shuffled(data, len(paths), shuffle_seed)
    if not cache:  # after shuffling, so that the buffer holds paths instead of all pixels
        data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(batch_size).map(lambda x, y: (tf.cast(x, tf.float32), y), num_parallel_calls=tf.data.AUTOTUNE)
    if augmenter is not None:
        data = data.map(lambda x, y: (augmenter(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return without_autotune(data.prefetch(tf.data.AUTOTUNE))


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns class indices (photos,) as float32 probabilities (photos, classes), which may be given, too."""
    return labels.astype(np.float32) if labels.ndim == 2 else np.eye(classes, dtype=np.float32)[labels]


def shuffled(data: tf.data.Dataset, size: int, seed: tf.Variable) -> tf.data.Dataset:
    """Returns a data set of `size` elements in an order that the seed alone determines, read as each epoch starts.

    Keras' and TensorFlow's own reshuffling counts the epochs of this process, not of a resumed training.
    """

    def shuffle(_: tf.Tensor) -> tf.data.Dataset:
        # The seed of this graph: with a global seed of 0 TensorFlow rejects a tensor as seed.
        tf.compat.v1.set_random_seed(1)
        return data.shuffle(size, seed=seed.read_value())

    return tf.data.Dataset.range(1).flat_map(shuffle).apply(tf.data.experimental.assert_cardinality(size))


def without_autotune(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the data set without TensorFlow's autotuning: all its steps get all threads from the start.

    An epoch of an autotuned data set often ends only when the tuning thread wakes up, which happens after 0.01, 0.02,
    0.04 ... 60 s. So an epoch takes up to twice its time (docs/decisions/0022-autotune.md).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
