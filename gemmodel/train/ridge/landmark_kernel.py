"""The kernel between photos and landmarks, from standardised features in which each block has the same weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gemmodel.embed.feature_set import ShardedArray

CHUNK = 1_024  # photos whose features are in memory
# The smallest std that a feature is divided by, and the smallest squared length of a block, as in Keras.
MIN_STD, MIN_SQUARED_LENGTH = np.float32(1e-7), np.float32(1e-12)


@dataclass(frozen=True)
class LandmarkKernel:
    """The kernel of degree 1: (1 + s) / 2, s the mean over the blocks of the cosine of the standardised features.

    Attributes:
        mean: of the landmarks' features, float32 (features,).
        variance: of the landmarks' features, float32 (features,).
        clip: in standard deviations.
        blocks: the number of features in each block.
        components: from standardised features to principal components, float32 (features, components).
        support: the landmarks in these components, float32 (landmarks, components).
    """

    mean: np.ndarray
    variance: np.ndarray
    clip: float
    blocks: Sequence[int]
    components: np.ndarray
    support: np.ndarray

    def similarity(self, features: np.ndarray) -> np.ndarray:
        """Returns the kernel between photos and the landmarks, float32 (photos, landmarks).

        Args:
            features: float32 (photos, features).
        """
        x = normalised(features, self.mean, self.variance, clip=self.clip, blocks=self.blocks)
        return (1 + (x @ self.components) @ self.support.T) / 2

    def rows(self, features: np.ndarray | ShardedArray, start: int, stop: int) -> np.ndarray:
        """Returns the same for some rows of the features, which are read some at a time."""
        kernel = np.empty((stop - start, len(self.support)), np.float32)
        for i in range(start, stop, CHUNK):
            end = min(i + CHUNK, stop)
            kernel[i - start : end - start] = self.similarity(features[i:end])
        return kernel

    def between_landmarks(self, some: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the kernel between landmarks, those of some indices or all, float64 (landmarks, landmarks)."""
        support = self.support[some]
        kernel = (support @ support.T).astype(np.float64)
        kernel += 1
        kernel /= 2
        return kernel


def normalised(
    features: np.ndarray, mean: np.ndarray, variance: np.ndarray, *, clip: float, blocks: Sequence[int]
) -> np.ndarray:
    """Returns standardised and clipped features, each block of length 1 / sqrt(blocks), float32."""
    x = features - mean
    x /= np.maximum(np.sqrt(variance), MIN_STD)
    np.clip(x, -clip, clip, out=x)
    for start, end in pairwise(np.cumsum([0, *blocks])):
        block = x[:, start:end]
        squared_length = np.maximum(np.vecdot(block, block)[:, np.newaxis], MIN_SQUARED_LENGTH)
        block /= np.sqrt(squared_length * np.float32(len(blocks)))
    return x
