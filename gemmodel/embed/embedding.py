"""The features of photos, computed by the extractor and written to feature files."""

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

EmbedFn = Callable[[Sequence[Path]], Iterator[np.ndarray]]

SHARD = 4096  # photos, a multiple of the batch: whole batches are the same with and without shards
GPU_BATCH = 64  # photos


def embed(
    parts: Mapping[Path, Path], model: keras.Model, *, classes: Sequence[str], shards: Path | None = None
) -> list[int]:
    """Writes the features of photos, part by part, by an extractor that is made ready once.

    Args:
        parts: what becomes an `.npz` of the arrays that Embedded names, by its folder of photos, a folder a class.
        model: the extractor.
        classes: the class names in the order of their indices.
        shards: a folder for the features so far, of these photos and this extractor alone; what a killed process left
            there is not computed again.

    Returns:
        The number of photos of each part.
    """
    engine = features_on_gpu if tf.config.get_visible_devices("GPU") else features_on_cpu
    with engine(model) as ask:
        return [_embed(photos, out, model, ask, classes=classes, shards=shards) for photos, out in parts.items()]


def _embed(
    photos: Path, out: Path, model: keras.Model, ask: EmbedFn, *, classes: Sequence[str], shards: Path | None
) -> int:
    paths, labels = samples.list_samples(photos, classes)
    known = np.empty((len(paths), model.output_shape[1]), np.float32)
    with tqdm(total=len(paths), desc=photos.name, unit="photo", disable=None) as progress:
        for start in range(0, len(paths), SHARD):
            some = slice(start, start + SHARD)
            shard = shards / f"{photos.name}-{start}.npy" if shards else None
            if shard and shard.exists():
                known[some] = np.load(shard)
                continue
            for place, photo in enumerate(ask(paths[some]), start):
                known[place] = photo
                progress.update()
            if shard:
                with files.atomic_write(shard) as new:
                    np.save(new, known[some])
    names = [path.relative_to(photos).as_posix() for path in paths]
    feature_set.write(out, FeatureSet(known, labels, np.array(names), list(classes), blocks(model)))
    return len(paths)


@contextmanager
def features_on_cpu(model: keras.Model) -> Iterator[EmbedFn]:
    """Yields what gives the features of photos, in their order, by the extractor's LiteRT graph.

    On CPUs it takes half of Keras' time, its bits do not depend on the number of threads, and it is what the model
    that is served will compute by.
    """
    with litert.as_litert(model) as graph:

        def ask(path: Path) -> np.ndarray:
            try:
                pixels = decode.load(path, graph.size)
            except DataError as error:
                raise DataError(f"{path}: {error}; `dvc checkout --force` brings back what clean made") from None
            return graph(pixels)["told"][0]

        with ThreadPoolExecutor(tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()) as pool:
            yield lambda paths: pool.map(ask, paths)


@contextmanager
def features_on_gpu(model: keras.Model) -> Iterator[EmbedFn]:
    """Yields the same by Keras, in batches."""

    def ask(paths: Sequence[Path]) -> Iterator[np.ndarray]:
        unlabelled = np.zeros(len(paths), int)
        size = model.input_shape[1]
        for pixels, _ in samples.batches(paths, unlabelled, classes=1, image_size=size, batch_size=GPU_BATCH):
            yield from model.predict_on_batch(pixels)

    yield ask
