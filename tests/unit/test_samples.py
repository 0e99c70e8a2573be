"""Batches of labelled photos."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from gemmodel.embed import samples


def test_the_order_of_photos_depends_on_the_seed_and_not_on_the_cache(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(path)
    seed = tf.Variable(5, dtype=tf.int64)
    orders: dict[bool, list[list[int]]] = {}
    for cache in (True, False):
        data = samples.batches(
            paths, np.arange(20) % 3, classes=3, image_size=8, batch_size=4, shuffle_seed=seed, cache=cache
        )
        orders[cache] = []
        for value in (5, 6):
            seed.assign(value)
            pixels, labels = (np.concatenate(arrays) for arrays in zip(*data.as_numpy_iterator(), strict=True))
            order = (pixels[:, 0, 0, 0] // 10).astype(int)
            np.testing.assert_array_equal(labels.argmax(axis=1), order % 3)
            orders[cache].append(order.tolist())
    assert orders[True] == orders[False]
    assert orders[True][0] != orders[True][1]
    assert sorted(orders[True][0]) == sorted(orders[True][1]) == list(range(20))
