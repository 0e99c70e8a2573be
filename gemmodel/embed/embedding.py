"""The features of photos: computed by the extractor and written in shards."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from gemmodel.core import files, hashing, image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.params import EmbedParams
from gemmodel.embed import feature_set, litert, samples
from gemmodel.embed.extractor import blocks, extractor
from gemmodel.embed.feature_set import SHARD_SIZE, FeatureSet, ShardedArray

EmbedFn = Callable[[Sequence[Path]], Iterator[np.ndarray]]  # photos to their features, in the same order
# Writes shards of photos, in their order; yields numbers of photos that are done.
ShardsFn = Callable[[Sequence[tuple[Path, Sequence[Path]]]], Iterator[int]]

GPU_BATCH = 64  # photos


def embed(
    parts: Mapping[Path, Path],
    model: keras.Model,
    *,
    classes: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    exported: Path | None = None,
    on_workers: ShardsFn | None = None,
    resume: bool = False,
    shard_size: int = SHARD_SIZE,
) -> list[int]:
    """Writes the features of photos, part by part: a folder of shards each, which `feature_set.read` opens.

    Args:
        parts: the folder to write, by the part's folder of photos, which holds one folder per class.
        model: the extractor.
        classes: the class names in the order of their indices.
        settings: the parameters that the features depend on, which are written beside them.
        exported: what `litert.export_model` wrote of the extractor; None: it is exported for this call.
        on_workers: lets Dask's workers write shards; None: this process does.
        resume: the folder has shards of an interrupted call for the same photos and extractor. Whole ones are not
            computed again.
        shard_size: photos per shard.

    Returns:
        The number of photos of each part.
    """
    counts = []
    with own_shards(model, exported) if on_workers is None else nullcontext(on_workers) as write_shards:
        for photos, out in parts.items():
            if not resume:
                shutil.rmtree(out, ignore_errors=True)
            paths, labels = image_folder.list_samples(photos, classes)
            rows = list(feature_set.shard_slices(len(paths), shard_size))
            shards = [out / feature_set.shard_name(i) for i in range(len(rows))]
            missing = [i for i, shard in enumerate(shards) if not is_whole(shard)]
            done = len(paths) - sum(rows[i].stop - rows[i].start for i in missing)
            with tqdm(total=len(paths), initial=done, desc=photos.name, unit="photo", disable=None) as progress:
                for count in write_shards([(shards[i], paths[rows[i]]) for i in missing]):
                    progress.update(count)
            sizes = tuple(row.stop - row.start for row in rows)
            features = ShardedArray(tuple(shards), sizes, model.output_shape[1])
            names = np.array([path.relative_to(photos).as_posix() for path in paths])
            table = FeatureSet(features, labels, names, list(classes), blocks(model), settings or {})
            feature_set.write_table(out, table, [feature_set.digest_file(shard).read_text("ascii") for shard in shards])
            for shard in shards:
                feature_set.digest_file(shard).unlink()
            counts.append(len(paths))
    return counts


@contextmanager
def own_shards(model: keras.Model, exported: Path | None = None) -> Iterator[ShardsFn]:
    """Yields a function by which this process writes shards of photos, one after the other."""
    with make_embed_fn(model, exported) as embed_fn:
        yield lambda shards: chain.from_iterable(write_shard(shard, paths, embed_fn) for shard, paths in shards)


def write_shard(shard: Path, paths: Sequence[Path], embed_fn: EmbedFn) -> Iterator[int]:
    """Computes the features of photos and writes them, and beside them their digest, which says that they are whole.

    Args:
        shard: the file to write.
        paths: the photos.
        embed_fn: computes the features.

    Yields:
        1, after each photo.
    """
    features = []
    for photo in embed_fn(paths):
        features.append(photo)
        yield 1
    files.write_text(feature_set.digest_file(shard), feature_set.write_shard(shard, np.stack(features)))


def is_complete(folder: Path) -> bool:
    """Returns whether an earlier call of `embed` wrote a part to its end; a damaged one is named and removed."""
    if not (folder / feature_set.TABLE).is_file():
        return False
    try:
        feature_set.read(folder)
    except DataError as error:
        print(f"embed: {error}; computed again")
        shutil.rmtree(folder)
        return False
    return True


def first_extractor(params: EmbedParams, *, image_size: int) -> keras.Model:
    """Returns an extractor as a new process makes it: Keras numbers layers, and an export has their numbers."""
    keras.utils.clear_session()
    return extractor(params, image_size=image_size)


def export(model: keras.Model, path: Path) -> None:
    """Writes an extractor's LiteRT graph, and beside it its digest, unless an earlier call did."""
    if not is_whole(path):
        with files.atomic_write(path) as new:
            litert.export_model(model, new)
        files.write_text(feature_set.digest_file(path), hashing.sha256(path))


def is_whole(file: Path) -> bool:
    """Returns whether an earlier call wrote this shard or extractor to its end; a damaged one is named."""
    if not file.is_file() or not feature_set.digest_file(file).is_file():
        return False
    if feature_set.is_intact(file):
        return True
    print(f"embed: {file}: damaged; computed again")
    return False


def make_embed_fn(model: keras.Model, exported: Path | None = None) -> AbstractContextManager[EmbedFn]:
    """Yields a function that computes photos' features on the device that TensorFlow sees."""
    return features_on_gpu(model) if tf.config.get_visible_devices("GPU") else features_on_cpu(model, exported)


@contextmanager
def features_on_cpu(model: keras.Model, exported: Path | None = None) -> Iterator[EmbedFn]:
    """Yields a function that computes photos' features by the extractor's LiteRT graph.

    On CPUs it takes half of Keras' time, its bits do not depend on the number of threads, and it is what serves.
    """
    with nullcontext(litert.Graph(exported)) if exported else litert.as_litert(model) as graph:
        with ThreadPoolExecutor(tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()) as pool:
            yield lambda paths: pool.map(lambda path: graph(graph.read(path))["output"][0], paths)


@contextmanager
def features_on_gpu(model: keras.Model) -> Iterator[EmbedFn]:
    """Yields a function that computes photos' features by Keras, in batches."""

    def embed_photos(paths: Sequence[Path]) -> Iterator[np.ndarray]:
        unlabelled = np.zeros(len(paths), int)
        size = model.input_shape[1]
        for pixels, _ in samples.batches(paths, unlabelled, classes=1, image_size=size, batch_size=GPU_BATCH):
            yield from model.predict_on_batch(pixels)

    yield embed_photos
