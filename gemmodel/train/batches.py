"""Batches of photos for training, the same in an uninterrupted training and in a resumed one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gemmodel.core import image_folder
from gemmodel.core.params import AugmentParams, BaseParams, TrainParams
from gemmodel.embed import samples
from gemmodel.train import augmentation
from gemmodel.train.pixel_file import PixelFile

# 8 GiB of pixels in memory are 57,000 photos at 224 pixels; those of more photos are kept in a file.
MAX_CACHED_BYTES = 8 * 2**30


@dataclass(frozen=True)
class TrainingData:
    """Batches of pixels and one-hot labels for training and validation.

    Attributes:
        train: training photos, augmented differently in each epoch.
        val: validation photos.
        train_plain: the training photos without augmentation and copies, in the order of `files`.
        labels: class indices of all photos in `train`, shape (photos,).
        val_labels: class indices of `val`, shape (photos,).
        train_plain_labels: class indices of `train_plain`, shape (photos,).
        files: paths of `train_plain` below the training part, shape (photos,).
        classes: the class names in the order of their indices.
        paths: of all photos, training and validation.
        mixup: blends the photos of each batch, or feature maps of them, and their labels.
        reseed: makes the order, augmentation and mixup of an epoch depend on the epoch's index alone.
    """

    train: tf.data.Dataset
    val: tf.data.Dataset
    train_plain: tf.data.Dataset
    labels: np.ndarray
    val_labels: np.ndarray
    train_plain_labels: np.ndarray
    files: np.ndarray
    classes: list[str]
    paths: list[Path]
    mixup: Callable[[tf.data.Dataset], tf.data.Dataset]
    reseed: keras.callbacks.Callback


def load_training_data(
    params: TrainParams,
    augment: AugmentParams,
    *,
    base: BaseParams,
    split: Path,
    augmentation_source: str,
    augmented: Path | None = None,
    targets: np.ndarray | None = None,
    scratch: Path = Path(),
) -> TrainingData:
    """Returns the batches of pixels and one-hot labels that a network is fitted to.

    Each photo is decoded once. The pixels stay in memory, or in a file where they take more than `MAX_CACHED_BYTES`;
    the batches are the same.

    Args:
        params: batch size and mixup.
        augment: the augmentation on the fly.
        base: seed and image size.
        split: holds `train` and `val`, one folder per class each.
        augmentation_source: `none`, `disk` or `on_the_fly`.
        augmented: holds the copies on disk, one folder per class.
        targets: probabilities (photos, classes) of the training photos without copies, in place of one-hot labels.
        scratch: the folder on whose disk that file is.
    """
    classes = list(image_folder.list_images(split / "train"))
    plain_paths, plain_labels = image_folder.list_samples(split / "train", classes)
    paths, labels = plain_paths, plain_labels
    if augmented and augmentation_source == "disk" and any(augmented.iterdir()):  # target_per_class may add none
        copies, copy_labels = image_folder.list_samples(augmented, classes)
        paths, labels = paths + copies, np.concatenate([labels, copy_labels])
    val_paths, val_labels = image_folder.list_samples(split / "val", classes)

    augmenter = augmentation.augmenter(augment, seed=base.seed)
    blend = keras.layers.MixUp(params.mixup, seed=base.seed, dtype="float32") if params.mixup else None
    with tf.device("CPU:0"):  # where the batches are made
        shuffle_seed = tf.Variable(base.seed, dtype=tf.int64)

    def reseed(epoch: int, _: Any = None) -> None:
        shuffle_seed.assign(base.seed + epoch)
        augmentation.reseed_layers(augmenter.layers + ([blend] if blend else []), f"{base.seed}/{epoch}")

    def mixup(data: tf.data.Dataset) -> tf.data.Dataset:
        if blend is None:
            return data
        data = data.map(lambda x, y: blend({"images": x, "labels": y}), num_parallel_calls=tf.data.AUTOTUNE)
        return data.map(lambda batch: (batch["images"], batch["labels"])).prefetch(tf.data.AUTOTUNE)

    options: dict[str, Any] = {
        "classes": len(classes),
        "image_size": base.image_size,
        "batch_size": params.batch_size,
    }
    fitted = labels if targets is None else targets
    on_the_fly = augmenter if augmentation_source == "on_the_fly" else None
    if 3 * base.image_size**2 * len(paths) <= MAX_CACHED_BYTES:
        train = samples.batches(paths, fitted, **options, augmenter=on_the_fly, shuffle_seed=shuffle_seed, cache=True)
        val = samples.batches(val_paths, val_labels, **options, cache=True)
    else:
        pixels = PixelFile([*paths, *val_paths], image_size=base.image_size, folder=scratch)
        train = batches_from_file(pixels, fitted, **options, augmenter=on_the_fly, shuffle_seed=shuffle_seed)
        val = batches_from_file(pixels, val_labels, **options, first=len(paths))
    return TrainingData(
        train=train,
        val=val,
        train_plain=samples.batches(plain_paths, plain_labels, **options),  # read only once
        labels=labels,
        val_labels=val_labels,
        train_plain_labels=plain_labels,
        files=np.array([path.relative_to(split / "train").as_posix() for path in plain_paths]),
        classes=classes,
        paths=[*paths, *val_paths],
        mixup=mixup,
        reseed=keras.callbacks.LambdaCallback(on_epoch_begin=reseed),
    )


def batches_from_file(
    pixels: PixelFile,
    labels: np.ndarray,
    *,
    classes: int,
    image_size: int,
    batch_size: int,
    first: int = 0,
    augmenter: keras.Model | None = None,
    shuffle_seed: tf.Variable | None = None,
) -> tf.data.Dataset:
    """Returns the batches of `samples.batches`, in the same order, of photos whose pixels do not fit into memory.

    Photos are read and decoded by several threads while the device computes.

    Args:
        pixels: of all photos.
        labels: class indices of the photos from `first` on, shape (photos,), or probabilities, (photos, classes).
        classes: the number of classes.
        image_size: side of the square in pixels.
        batch_size: photos per batch.
        first: the index of the first photo in `pixels`.
        augmenter: applied to each batch, with new random values in every epoch.
        shuffle_seed: int64, read at the start of each epoch; it alone determines the order. None: no shuffling.
    """

    def load(index: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        photo = tf.numpy_function(pixels.read, [index], tf.uint8, stateful=False)  # a stateful one runs one at a time
        return tf.cast(tf.ensure_shape(photo, (image_size, image_size, 3)), tf.float32), label

    indices = np.arange(first, first + len(labels))
    data = tf.data.Dataset.from_tensor_slices((indices, samples.one_hot(labels, classes)))
    if shuffle_seed is not None:
        data = samples.shuffled(data, len(labels), shuffle_seed)
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    if augmenter is not None:
        data = data.map(lambda x, y: (augmenter(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return samples.without_autotune(data.prefetch(tf.data.AUTOTUNE))
