"""Resuming a killed training from its last whole epoch, to the same bits."""

import hashlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from gemmodel.core import files


class TrainingCheckpoint(keras.callbacks.Callback):
    """Saves, after each epoch, all state that the rest of a training depends on, and restores it.

    `keras.callbacks.BackupAndRestore` saves weights and optimiser only. It loses the seeds of dropout, the state of
    early stopping and of the schedule, and the metrics so far, so the training would end with other weights.

    Args:
        path: of the file, a SHA-256 and what it is of; the training resumes from it where it exists and is whole.
        callbacks: the callbacks whose state is saved; each comes before this one in the fit's list.
        is_writer: whether this process writes the file; of several hosts one does.
        broadcast: from the content that this process read to the content that all processes restore.
    """

    SAVED_ATTRS = ("wait", "best", "best_epoch", "best_weights", "cooldown_counter", "epoch", "history")

    def __init__(
        self,
        path: Path,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        is_writer: bool = True,
        broadcast: Callable[[bytes], bytes] = bytes,
    ) -> None:
        super().__init__()
        self.path, self.callbacks, self.is_writer = path, callbacks, is_writer
        self.state: dict[str, Any] = {}
        if content := broadcast(_read(path) if is_writer and path.exists() else b""):
            self.state = pickle.loads(content)

    @property
    def initial_epoch(self) -> int:
        """The index of the first epoch that remains, from 0."""
        return int(self.state.get("initial_epoch", 0))

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores the state."""
        if self.state:
            self.model.optimizer.build(self.model.trainable_variables)
            for variable, value in zip(self._variables(), self.state["variables"], strict=True):
                variable.assign(value)
            for callback, attributes in zip(self.callbacks, self.state["callbacks"], strict=True):
                vars(callback).update(attributes)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves the state in place of the last epoch's."""
        state = {
            "initial_epoch": self.params["epochs"] if self.model.stop_training else epoch + 1,
            "variables": [variable.numpy() for variable in self._variables()],
            "callbacks": [
                {name: value for name, value in vars(callback).items() if name in self.SAVED_ATTRS}
                for callback in self.callbacks
            ],
        }
        if not self.is_writer:
            return
        with files.atomic_write(self.path) as new:
            content = pickle.dumps(state)
            with new.open("wb") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)


def _read(path: Path) -> bytes:
    """Returns the content of a checkpoint; of a damaged one nothing, and says so: pickle may not notice it."""
    content = path.read_bytes()
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() == content[:size]:
        return content[size:]
    print(f"train: {path}: damaged; this training begins again", flush=True)
    return b""
