"""The only augmentation, for copies on disk and on the fly: a Keras preprocessing layer."""

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import tensorflow as tf
from joblib import cpu_count
from keras import layers, ops
from PIL import Image
from tqdm import tqdm

from gemmodel.core import files, image_folder
from gemmodel.core.params import AugmentParams
from gemmodel.images import decode

BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}


def augmenter(params: AugmentParams, *, seed: int) -> keras.Sequential:
    """Returns the augmentation as a model that acts in training only.

    It does not change colours, since gems differ by hue and saturation.

    Args:
        params: `rotation` in degrees, the others as fractions of the image's side.
        seed: of the random transformations.

    Returns:
        A model on pixels of shape (batch, height, width, 3) in [0, 255] that keeps shape and range.
    """
    return keras.Sequential([RandomAffine(params, seed=seed)], name="augmenter")


class RandomAffine(layers.Layer):
    """Flips, rotates, shears, zooms and shifts images about their centre, in one resampling.

    Keras' own five layers resample four times, which blurs. OpenCV resamples in 0.4 times the time of Keras.
    """

    def __init__(self, params: AugmentParams, *, seed: int) -> None:
        super().__init__(dtype="float32")
        self.params = params
        self.generator = keras.random.SeedGenerator(seed)
        self.pool = ThreadPoolExecutor(cpu_count())  # tf.data makes one batch at a time under `base.deterministic`

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Returns square images of shape (batch, side, side, 3); they change in training only."""
        if not training:
            return pixels
        centre = (pixels.shape[1] - 1) / 2
        # One row per image, so that one image more does not change the transformations of the others.
        draws = ops.transpose(keras.random.uniform((ops.shape(pixels)[0], 9), -1, 1, seed=self.generator))
        angle = draws[0] * math.radians(self.params.rotation)
        sine, cosine = ops.sin(angle), ops.cos(angle)
        shear_x, shear_y = draws[1] * self.params.shear, draws[2] * self.params.shear
        zoom_x, zoom_y = 1 + draws[3] * self.params.zoom, 1 + draws[4] * self.params.zoom
        if self.params.horizontal_flip:
            zoom_x = ops.where(draws[7] < 0, -zoom_x, zoom_x)
        if self.params.vertical_flip:
            zoom_y = ops.where(draws[8] < 0, -zoom_y, zoom_y)
        # From the position of a new pixel to that of an old one: zoom @ rotation @ shear.
        rows = (
            (zoom_x * (cosine - sine * shear_y), zoom_x * (cosine * shear_x - sine), draws[5]),
            (zoom_y * (sine + cosine * shear_y), zoom_y * (sine * shear_x + cosine), draws[6]),
        )
        matrix = []
        for x, y, shift in rows:
            matrix += [x, y, centre * (1 - x - y) + shift * self.params.shift * pixels.shape[1]]
        matrices = ops.reshape(ops.stack(matrix, axis=1), (-1, 2, 3))
        warped = tf.numpy_function(self._warp, [pixels, matrices], tf.float32, stateful=False)
        return tf.ensure_shape(warped, pixels.shape)

    def _warp(self, pixels: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        """Resamples images by matrices of shape (batch, 2, 3) from positions (x, y, 1) of new pixels to old ones."""
        size, border = pixels.shape[2:0:-1], BORDERS[self.params.fill]

        def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
            return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=border)

        return np.stack(list(self.pool.map(warp, pixels, matrices)))


def write_copies(
    train: Path, out: Path, params: AugmentParams, *, image_size: int, seed: int, workers: int = 0
) -> dict[str, int]:
    """Writes augmented copies of training photos as JPEGs of one size.

    The copies of a class are distributed evenly over its photos. A copy depends only on the seed, the photo's name and
    its own number. So a new photo changes how many copies the others get, not the copies, and the bytes are the same
    for any number of workers.

    Args:
        train: one folder per class.
        out: the output, one folder per class of `<photo>_<number>.jpg`; a class without copies has none.
        params: the transformations, and how many copies: `images_per_class`, or as many as a class lacks of
            `target_per_class`.
        image_size: side of the copies in pixels.
        seed: of the transformations.
        workers: photos at a time; 0: one per core.

    Returns:
        The number of copies by class.
    """
    augment = _seeded(augmenter(params, seed=seed), image_size)
    copies_by_class = {}
    with files.atomic_write(out) as new:
        new.mkdir()
        tasks = []
        for name, paths in image_folder.list_images(train).items():
            count = max(0, params.target_per_class - len(paths)) if params.target_per_class else params.images_per_class
            copies_by_class[name] = count
            for i, path in enumerate(paths[:count]):
                (new / name).mkdir(exist_ok=True)
                tasks.append((path, new / name, len(range(i, count, len(paths)))))

        def write(path: Path, folder: Path, copies: int) -> None:
            pixels = np.repeat(decode.load(path, image_size)[np.newaxis], copies, axis=0)
            for i, copy in enumerate(augment(pixels, f"{seed}/{folder.name}/{path.name}")):
                Image.fromarray(copy).save(folder / f"{path.stem}_{i}.jpg", **decode.JPEG)

        # Threads: Pillow and TensorFlow release the GIL, and a process would spend seconds on importing TensorFlow.
        with ThreadPoolExecutor(workers or cpu_count()) as pool:
            done = pool.map(write, *zip(*tasks, strict=True)) if tasks else ()
            for _ in tqdm(done, "augment", total=len(tasks), unit=" photos", disable=None):
                pass
    return copies_by_class


def write_examples(
    train: Path, out: Path, params: AugmentParams, *, image_size: int, seed: int, gems: int = 5, copies: int = 7
) -> None:
    """Writes examples for a report: of some gems their first photo and copies of it, as used in training.

    Args:
        train: one folder per class.
        out: the output, one folder per gem of `0.png`, the photo, and its copies `1.png`, `2.png` ...
        params: the transformations.
        image_size: side of the pictures in pixels.
        seed: of the transformations.
        gems: how many, evenly spaced in alphabetical order.
        copies: of each photo.
    """
    augment = _seeded(augmenter(params, seed=seed), image_size)
    photos = image_folder.list_images(train)
    with files.atomic_write(out) as new:
        for gem in list(photos)[:: max(1, len(photos) // gems)][:gems]:
            (new / gem).mkdir(parents=True)
            pixels = decode.load(photos[gem][0], image_size)[np.newaxis]
            for i, image in enumerate([*pixels, *augment(np.repeat(pixels, copies, axis=0), photos[gem][0].name)]):
                Image.fromarray(image).save(new / gem / f"{i}.png")


def reseed_layers(steps: Sequence[keras.Layer], text: str) -> None:
    """Seeds the random layers of an augmentation with a text, whatever they have done before."""
    random = [layer for layer in steps if hasattr(layer, "generator")]
    for layer, state in zip(random, _states(text, len(random)), strict=True):
        layer.generator.state.assign(state)


def _states(text: str, count: int) -> np.ndarray:
    digests = [hashlib.sha256(f"{text}/{i}".encode()).digest()[:8] for i in range(count)]
    return np.frombuffer(b"".join(digests), np.uint32).reshape(count, 2)


def _seeded(model: keras.Sequential, image_size: int) -> Callable[[np.ndarray, str], np.ndarray]:
    """Returns the augmentation as a function of pixels and a text that seeds it.

    The function has no state, so many threads can share its graph.
    """
    model.build((None, image_size, image_size, 3))
    generators = len(model.non_trainable_variables)

    def graph(pixels: tf.Tensor, states: tf.Tensor) -> tf.Tensor:
        augmented, _ = model.stateless_call([], tf.unstack(states), tf.cast(pixels, tf.float32), training=True)
        return tf.cast(tf.clip_by_value(tf.round(augmented), 0, 255), tf.uint8)

    pixels_spec = tf.TensorSpec((None, image_size, image_size, 3), tf.uint8)
    compiled = tf.function(graph, input_signature=(pixels_spec, tf.TensorSpec((generators, 2), tf.int64)))

    def augment(pixels: np.ndarray, text: str) -> np.ndarray:
        return compiled(pixels, _states(text, generators).astype(np.int64)).numpy()

    return augment
