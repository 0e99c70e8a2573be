"""What several unit tests need."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gemmodel.core.params import Params

if TYPE_CHECKING:
    import keras


@pytest.fixture(scope="session")
def cloud() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Draw features of photos around the centres of three classes, and the class indices of these photos."""

    def draw(seed: int, photos: int = 60) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(photos) % 3
        features = np.random.default_rng(seed).normal(size=(photos, 5)) + 3 * np.eye(3, 5)[labels]
        return features.astype(np.float32), labels

    return draw


@pytest.fixture(scope="session")
def embed_split() -> "Callable[[Path, Path, Params], keras.Model]":
    """Write the features of a split's photos by Keras, since a LiteRT export takes longer; return the extractor."""
    from gemmodel.core import image_folder
    from gemmodel.embed import extractor, feature_set
    from gemmodel.images import decode

    def embed(split: Path, out: Path, params: Params) -> "keras.Model":
        side = params.base.image_size
        model = extractor.extractor(params.embed, image_size=side)
        classes = sorted(folder.name for folder in (split / "train").iterdir())
        for part in ("train", "val"):
            paths, labels = image_folder.list_samples(split / part, classes)
            pixels = np.stack([decode.load(path, side) for path in paths]).astype(np.float32)
            files = np.array([path.relative_to(split / part).as_posix() for path in paths])
            features = model.predict(pixels, verbose=0)
            photos = feature_set.FeatureSet(features, labels, files, classes, extractor.blocks(model))
            feature_set.write(out / part, photos)
        return model

    return embed
