"""Shards of features, written by the workers of Dask. Imports no TensorFlow before the worker is set up for it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from gemmodel.core import environment
from gemmodel.core.dask_client import ordered_map
from gemmodel.core.params import BaseParams, EmbedParams

if TYPE_CHECKING:
    from gemmodel.embed.embedding import EmbedFn

CURRENT: dict[Any, "EmbedFn"] = {}  # the extractor of this process, by its arguments
OPEN = ExitStack()  # what it holds
LOCK = Lock()  # a worker may have several threads


def embed_shards(
    client: Any, base: BaseParams, params: EmbedParams, exported: Path, shards: Sequence[tuple[Path, Sequence[Path]]]
) -> Iterator[int]:
    """Lets Dask's workers write shards, and yields the number of photos of each of them, in their order.

    Args:
        client: of Dask.
        base: of the device, and the image size.
        params: of the extractor.
        exported: what `litert.export_model` wrote of it, on a disk that all hosts share.
        shards: the file to write, and its photos, for each shard.
    """
    return ordered_map(client, embed_shard, [(base, params, exported, shard, paths) for shard, paths in shards])


def embed_shard(base: BaseParams, params: EmbedParams, exported: Path, shard: Path, paths: Sequence[Path]) -> int:
    """Computes and writes the features of some photos, as `embedding.write_shard` does; returns their number.

    Args:
        base: of the device, and the image size.
        params: of the extractor, which a worker makes once.
        exported: what `litert.export_model` wrote of it.
        shard: the file to write, on a disk that all hosts share.
        paths: the photos, on such a disk.
    """
    with LOCK:
        if (key := (base, params, exported)) not in CURRENT:  # of former photos or parameters
            CURRENT.clear()
            OPEN.close()
            CURRENT[key] = _embed_fn(*key)
        embed_fn = CURRENT[key]
    from gemmodel.embed import embedding

    return sum(embedding.write_shard(shard, paths, embed_fn))


def _embed_fn(base: BaseParams, params: EmbedParams, exported: Path) -> "EmbedFn":
    environment.apply_environment()  # before Keras is imported
    from gemmodel import devices
    from gemmodel.embed import embedding, extractor

    devices.prepare(base, device="cpu")  # a GPU would give other bits than the other workers
    model = extractor.extractor(params, image_size=base.image_size)
    return OPEN.enter_context(embedding.make_embed_fn(model, exported))
