"""The inputs of a training: parameters, data and folders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from gemmodel.core.params import Params

OnEpoch = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TrainingContext:
    """The inputs of a training, the same for every architecture.

    Attributes:
        params: of which `base`, `model`, `train`, `augment` and `embed` are used.
        split: holds `train` and `val`, one folder per class each.
        augmented: holds the copies on disk, one folder per class.
        features: holds the features of `train` and `val`, from which `fusion` is trained.
        hierarchy: the mineral class of each gem.
        checkpoints: a folder for the state of unfinished trainings, and for what does not fit into memory.
        logs: a folder for TensorBoard's event files.
        on_epoch: called after each epoch with its index, from 0, and its metrics.
        strategy: distributes networks over devices; None: one device.
        client: of Dask, whose workers share the work of fitting `fusion` to many photos; None: this process does it.
    """

    params: Params
    split: Path
    augmented: Path
    features: Path
    hierarchy: Mapping[str, str]
    checkpoints: Path
    logs: Path = Path("logs")
    on_epoch: OnEpoch | None = None
    strategy: tf.distribute.Strategy | None = None
    client: Any = None
