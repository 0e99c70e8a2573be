"""Two-level labels inside a network."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="gemmodel")
class JointProbability(layers.Layer):
    """p(mineral class) p(gem | mineral class): the second factor is a softmax over the gems of one mineral class.

    Input: probabilities of the mineral classes, shape (batch, mineral classes), and scores of the gems, shape
    (batch, gems). Output: probabilities of the gems, shape (batch, gems).
    """

    def __init__(self, *, parents: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parents = [int(parent) for parent in parents]  # the mineral class's index of each gem
        self.members = np.eye(max(self.parents) + 1, dtype=np.float32)[self.parents]

    def call(self, inputs: Sequence[Any]) -> Any:
        """Returns the gems' probabilities."""
        classes, scores = inputs
        lowered = ops.expand_dims(scores, 1) - 1e9 * (1 - self.members.T)  # (batch, mineral classes, gems)
        highest = ops.matmul(ops.max(lowered, axis=-1), self.members.T)
        shares = ops.exp(scores - highest)
        sums = ops.matmul(shares, self.members)
        return shares * ops.matmul(classes / sums, self.members.T)

    def get_config(self) -> dict[str, Any]:
        """Returns what makes the layer anew."""
        return {**super().get_config(), "parents": self.parents}
