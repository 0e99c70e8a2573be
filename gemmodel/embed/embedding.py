"""The features of photos: computed by the extractor and written to feature files."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.embed import feature_set, litert, samples
from gemmodel.embed.extractor import blocks
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.images import decode

EmbedFn = Callable[[Sequence[Path]], Iterator[np.ndarray]]  # photos to their features, in the same order

SHARD_SIZE = 4096  # photos, a multiple of the batch: then whole batches are the same with and without shards
GPU_BATCH = 64  # photos


def embed(
    parts: Mapping[Path, Path],
    model: keras.Model,
    *,
    classes: Sequence[str],
    shards: Path | None = None,
    shard_size: int = SHARD_SIZE,
) -> list[int]:
    """Writes the features of photos, part by part.

    Args:
        parts: the feature file to write, by the part's folder of photos, which holds one folder per class.
        model: the extractor.
        classes: the class names in the order of their indices.
        shards: a folder for unfinished features, only of these photos and this extractor. Features that an interrupted
            process left there are not computed again.
        shard_size: photos per file in that folder.

    Returns:
        The number of photos of each part.
    """
    engine = features_on_gpu if tf.config.get_visible_devices("GPU") else features_on_cpu
    with engine(model) as embed_fn:
        return [
            _embed(photos, out, model, embed_fn, classes=classes, shards=shards, shard_size=shard_size)
            for photos, out in parts.items()
        ]


def _embed(
    photos: Path,
    out: Path,
    model: keras.Model,
    embed_fn: EmbedFn,
    *,
    classes: Sequence[str],
    shards: Path | None,
    shard_size: int,
) -> int:
    paths, labels = samples.list_samples(photos, classes)
    features = np.empty((len(paths), model.output_shape[1]), np.float32)
    with tqdm(total=len(paths), desc=photos.name, unit="photo", disable=None) as progress:
        for start in range(0, len(paths), shard_size):
            rows = slice(start, start + shard_size)
            shard = shards / f"{photos.name}-{start}.npy" if shards else None
            if shard and shard.exists():
                features[rows] = np.load(shard)
                continue
            for i, photo in enumerate(embed_fn(paths[rows]), start):
                features[i] = photo
                progress.update()
            if shard:
                with files.atomic_write(shard) as new:
                    np.save(new, features[rows])
    names = [path.relative_to(photos).as_posix() for path in paths]
    feature_set.write(out, FeatureSet(features, labels, np.array(names), list(classes), blocks(model)))
    return len(paths)


@contextmanager
def features_on_cpu(model: keras.Model) -> Iterator[EmbedFn]:
    """Yields a function that computes photos' features by the extractor's LiteRT graph.

    On CPUs it takes half of Keras' time, its bits do not depend on the number of threads, and serving uses the same
    kind of graph.
    """
    with litert.as_litert(model) as graph:

        def embed_photo(path: Path) -> np.ndarray:
            try:
                pixels = decode.load(path, graph.size)
            except DataError as error:
                raise DataError(f"{path}: {error}; `dvc checkout --force` restores the clean photos") from None
            return graph(pixels)["output"][0]

        with ThreadPoolExecutor(tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()) as pool:
            yield lambda paths: pool.map(embed_photo, paths)


@contextmanager
def features_on_gpu(model: keras.Model) -> Iterator[EmbedFn]:
    """Yields a function that computes photos' features by Keras, in batches."""

    def embed_photos(paths: Sequence[Path]) -> Iterator[np.ndarray]:
        unlabelled = np.zeros(len(paths), int)
        size = model.input_shape[1]
        for pixels, _ in samples.batches(paths, unlabelled, classes=1, image_size=size, batch_size=GPU_BATCH):
            yield from model.predict_on_batch(pixels)

    yield embed_photos
