"""A training that was killed goes on from its last whole epoch, and ends with the same bits."""

import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras

from gemmodel.core import files


class TrainingCheckpoint(keras.callbacks.Callback):
    """Keeps, after each epoch, all that the rest of a training depends on, and takes it up again.

    `keras.callbacks.BackupAndRestore` keeps weights and optimiser only: the seeds of dropout, what early stopping and
    the schedule remember, and the figures so far would be lost, and the training would end otherwise.

    Args:
        path: of the file; gone on with where it exists.
        callbacks: the others of the fit whose memory is kept, all before this one in the fit's list.
        keeps: whether this process keeps the state; of several hosts one does.
        agreed: from what this process has kept to what all take up.
    """

    REMEMBERED = ("wait", "best", "best_epoch", "best_weights", "cooldown_counter", "epoch", "history")

    def __init__(
        self,
        path: Path,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        keeps: bool = True,
        agreed: Callable[[bytes], bytes] = bytes,
    ) -> None:
        super().__init__()
        self.path, self.callbacks, self.keeps = path, callbacks, keeps
        self.kept: dict[str, Any] = {}
        content = agreed(path.read_bytes() if keeps and path.exists() else b"")
        with suppress(EOFError, pickle.UnpicklingError):  # damaged: the training starts anew
            self.kept = pickle.loads(content)

    @property
    def initial_epoch(self) -> int:
        """The first epoch that is still to come, from 0."""
        return int(self.kept.get("initial_epoch", 0))

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes up what was kept."""
        if self.kept:
            self.model.optimizer.build(self.model.trainable_variables)
            for variable, value in zip(self._variables(), self.kept["variables"], strict=True):
                variable.assign(value)
            for callback, memory in zip(self.callbacks, self.kept["callbacks"], strict=True):
                vars(callback).update(memory)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the state, in place of the last epoch's."""
        state = {
            "initial_epoch": self.params["epochs"] if self.model.stop_training else epoch + 1,
            "variables": [variable.numpy() for variable in self._variables()],
            "callbacks": [
                {name: value for name, value in vars(callback).items() if name in self.REMEMBERED}
                for callback in self.callbacks
            ],
        }
        if not self.keeps:
            return
        with files.atomic_write(self.path) as new:
            new.write_bytes(pickle.dumps(state))
