"""The joint probability of two levels of labels, as a layer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="gemmodel")
class JointProbability(layers.Layer):
    """Returns p(mineral class) * p(gem | mineral class), the second factor a softmax over the gems of a mineral class.

    Input: probabilities of the mineral classes, shape (batch, mineral classes), and scores of the gems, shape
    (batch, gems). Output: probabilities of the gems, shape (batch, gems).

    Args:
        parents: the index of the mineral class of each gem.
    """

    def __init__(self, *, parents: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parents = [int(parent) for parent in parents]
        self.members = np.eye(max(self.parents) + 1, dtype=np.float32)[self.parents]  # (gems, mineral classes)

    def call(self, inputs: Sequence[Any]) -> Any:
        """Returns the probabilities of the gems."""
        parent_probs, scores = inputs
        masked = ops.expand_dims(scores, 1) - 1e9 * (1 - self.members.T)  # (batch, mineral classes, gems)
        highest = ops.matmul(ops.max(masked, axis=-1), self.members.T)  # subtracted so that no exp overflows
        exponentials = ops.exp(scores - highest)
        sums = ops.matmul(exponentials, self.members)
        return exponentials * ops.matmul(parent_probs / sums, self.members.T)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "parents": self.parents}
