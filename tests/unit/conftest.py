"""What several unit tests need."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def cloud() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Draw features of photos around the centres of three classes, and the class indices of these photos."""

    def draw(seed: int, photos: int = 60) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(photos) % 3
        features = np.random.default_rng(seed).normal(size=(photos, 5)) + 3 * np.eye(3, 5)[labels]
        return features.astype(np.float32), labels

    return draw
