"""Photos on their way through a graph: in their order, a few ahead; and files that are no graph of photos."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest

from gemmodel.core.errors import ModelError
from gemmodel.embed import litert


def test_photos_are_computed_in_their_order_and_only_a_few_ahead() -> None:
    taken = []

    def photos() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    def slow_at_first(photo: int) -> int:
        time.sleep(0.01 if photo % 8 == 0 else 0)
        return 10 * photo

    with ThreadPoolExecutor(4) as pool:
        batches = litert.batches(pool, slow_at_first, photos())
        assert next(batches) == [0, 10, 20, 30, 40, 50, 60, 70]
        assert len(taken) <= litert.AHEAD
        results = [result for batch in batches for result in batch]
    assert results == [10 * i for i in range(8, 1000)]


def test_an_error_of_a_photo_is_that_of_its_batch() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        list(litert.batches(pool, lambda photo: 1 // (photo - 20), range(100)))


def test_a_graph_that_reads_no_pixels_is_an_error_of_one_line(tmp_path: Path) -> None:
    features = keras.Input((3,))
    head = keras.Model([features], {"probabilities": keras.layers.Softmax()(features)})
    litert.export_head(head, tmp_path / "model.tflite", extractors=[])
    with pytest.raises(ModelError, match=r"model\.tflite: damaged: it does not read pixels; train it again"):
        litert.Graph(tmp_path / "model.tflite")


def test_a_head_reads_the_features_of_several_extractors_in_their_order(tmp_path: Path) -> None:
    files = []
    for name, scale in (("a", 1.0), ("b", 100.0)):
        pixels = keras.Input((4, 4, 3), name="pixels")
        mean = keras.layers.GlobalAveragePooling2D()(pixels)
        files.append(tmp_path / f"{name}.tflite")
        litert.export_model(keras.Model(pixels, keras.layers.Rescaling(scale)(mean)), files[-1])
    features = keras.Input((6,))
    head = keras.Model([features], {"probabilities": keras.layers.Rescaling(1.0)(features)})
    litert.export_head(head, tmp_path / "model.tflite", extractors=files)
    photos = np.random.default_rng(0).uniform(0, 255, (11, 4, 4, 3)).astype(np.float32)
    means = photos.mean(axis=(1, 2))
    expected = np.concatenate([means, 100 * means], axis=1)
    np.testing.assert_allclose(litert.Graph(tmp_path / "model.tflite").probabilities(photos), expected, rtol=1e-5)
