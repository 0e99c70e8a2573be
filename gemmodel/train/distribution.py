"""Training on several devices or hosts through `tf.distribute`; see docs/decisions/0018-several-devices.md."""

import faulthandler
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from gemmodel.core.errors import DataError, DeviceError, ParameterError

Run = TypeVar("Run")
START_TIMEOUT_S = 300  # from this worker's start to the start of the last one; TensorFlow itself waits for ever
EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,  # NCCL's
)


def workers() -> tuple[list[str], int]:
    """Returns the addresses of all workers in TF_CONFIG and the index of this one; ([], 0) where it is not set.

    Raises:
        ParameterError: TF_CONFIG has another form.
    """
    if not (text := os.environ.get("TF_CONFIG")):
        return [], 0
    try:
        config = json.loads(text)
        addresses, index = config["cluster"]["worker"], int(config["task"]["index"])
        if len(config["cluster"]) > 1 or config["task"]["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError
        return addresses, index
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ParameterError(
            f"TF_CONFIG is {text}; it must look like {EXAMPLE}, with each worker's own index"
        ) from None


def make_strategy(requested: str, *, model: str, timeout: float = START_TIMEOUT_S) -> tf.distribute.Strategy:
    """Returns how a training is distributed over devices.

    It must be called before any tensor is made: on several hosts it waits for the other workers.

    Args:
        requested: `one`; `mirrored`: all GPUs of this host; `multiworker`: all hosts in TF_CONFIG; `auto`: multiworker
            where TF_CONFIG names several hosts, mirrored where TensorFlow sees several GPUs, else one.
        model: the name of the architecture; fusion is fitted on one device.
        timeout: seconds within which the other workers must start.

    Raises:
        DeviceError: there is only one device, or another worker does not start.
        ParameterError: TF_CONFIG has another form or names fewer than two workers, DVC runs a worker that is not the
            chief, or fusion is to be distributed.
    """
    addresses, index = workers()
    gpus = tf.config.get_visible_devices("GPU")
    if model == "fusion":
        if index or requested not in ("auto", "one"):
            raise ParameterError("train.strategy: fusion is fitted on one device; set it to one, without TF_CONFIG")
        requested = "one"
    if requested == "auto":
        requested = "multiworker" if len(addresses) > 1 else "mirrored" if len(gpus) > 1 else "one"
    if requested == "multiworker":
        if index and "DVC_STAGE" in os.environ:
            raise ParameterError(f"{_named([index])} writes no output for DVC: run `gemmodel worker` on this host")
        if len(addresses) < 2:
            raise ParameterError(f"train.strategy is multiworker, but TF_CONFIG names no two workers; e.g. {EXAMPLE}")
        wait_for_workers(timeout)
        faulthandler.dump_traceback_later(timeout, exit=True)  # if a worker has ended since
        strategy = tf.distribute.MultiWorkerMirroredStrategy()  # on CPUs by RING, on GPUs by NCCL
        faulthandler.cancel_dump_traceback_later()
        return strategy
    if requested == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        if len(devices) < 2:
            raise DeviceError("train.strategy is mirrored, but TensorFlow sees one device; set it to auto or one")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def wait_for_workers(timeout: float) -> None:
    """Waits until all other workers in TF_CONFIG listen at their addresses, and listens at this one's own meanwhile.

    TensorFlow would wait for ever, and ignore signals.

    Args:
        timeout: in seconds.

    Raises:
        DeviceError: a worker did not start in time, or this one's port cannot be opened.
    """
    addresses, index = workers()
    missing = set(range(len(addresses))) - {index}
    deadline = time.monotonic() + timeout
    try:
        with socket.create_server(("", int(addresses[index].rsplit(":", 1)[-1]))):
            while missing := {other for other in missing if not is_reachable(addresses[other])}:
                if time.monotonic() > deadline:
                    raise DeviceError(f"{_named(sorted(missing))} did not start within {timeout:g} seconds")
                time.sleep(0.2)
    except OSError as error:
        raise DeviceError(f"TF_CONFIG: {addresses[index]}: {error.strerror or error}") from None


def is_reachable(address: str) -> bool:
    """Returns whether something listens at an address, `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True


def _named(indices: list[int]) -> str:
    addresses, _ = workers()
    return ", ".join(f"worker {i} ({addresses[i]})" for i in indices) or "another worker"


def hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of hosts that train together."""
    return len(workers()[0]) if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else 1


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that logs and saves."""
    return hosts(strategy) == 1 or workers()[1] == 0


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns the worker and the number of devices as the end of a sentence, empty for one device."""
    devices = strategy.num_replicas_in_sync
    if hosts(strategy) > 1:
        return f", worker {workers()[1]} of {hosts(strategy)}, {devices} devices together"
    return f", {devices} devices together" if devices > 1 else ""


@contextmanager
def chief_run(strategy: tf.distribute.Strategy, run: AbstractContextManager[Run]) -> Iterator[Run | None]:
    """Opens the run of a training on the chief only, and reports the loss of a worker as one error.

    TensorFlow's heartbeats notice a loss after some ten seconds.

    Args:
        strategy: distributes the training.
        run: the run that the chief logs to.

    Yields:
        The opened run on the chief, None on other workers.

    Raises:
        DeviceError: a worker was lost.
    """
    try:
        with run if is_chief(strategy) else nullcontext() as opened:
            yield opened
    except LOST_WORKER_ERRORS as error:
        if hosts(strategy) == 1:
            raise
        addresses, index = workers()
        others = set(range(len(addresses))) - {index}
        lost = {int(i) for i in re.findall(r"task:(\d+)", str(error))} & others
        if not lost and "Heartbeat" in str(error):
            lost = {0} & others  # heartbeats go to the chief
        lost |= {i for i in others if not is_reachable(addresses[i])}
        raise DeviceError(
            f"{_named(sorted(lost))} was lost; start all workers again: "
            "with train.resume the training continues after its last whole epoch"
        ) from None


def check_same_key(strategy: tf.distribute.Strategy, key: str) -> None:
    """Compares the key of the training, which settings, photos and code determine, on all workers.

    Args:
        strategy: distributes the training.
        key: hexadecimal.

    Raises:
        DataError: the key of some worker is not the chief's; on every worker.
    """
    if hosts(strategy) == 1:
        return
    own = tf.constant([int(key, 16) % 2**63], tf.int64)
    keys = _gathered(strategy, own).reshape(hosts(strategy), -1)[:, 0]
    if others := np.flatnonzero(keys != keys[0]).tolist():
        raise DataError(
            f"{_named(others)}: other settings, photos, code or TensorFlow than the chief's; "
            "bring all hosts to one commit with `git pull` and `dvc pull`"
        )


def broadcast(strategy: tf.distribute.Strategy, content: bytes) -> bytes:
    """Returns the chief's content on every worker."""
    if hosts(strategy) == 1:
        return content
    own = content if is_chief(strategy) else b""
    padded = own.ljust(4 * (len(own) // 4 + 1), b"\0")
    size = _gathered(strategy, tf.constant([len(own)]))[0]  # the chief's first device comes first
    # As int32, which every implementation of gathering supports.
    words = _gathered(strategy, tf.constant(np.frombuffer(padded, np.int32)))
    return words.tobytes()[:size]


def _gathered(strategy: tf.distribute.Strategy, values: tf.Tensor) -> np.ndarray:
    """Returns the values of all devices, concatenated."""
    run = tf.function(lambda: strategy.run(tf.identity, (values,)), autograph=False)  # eagerly, TensorFlow would warn
    gathered: np.ndarray = strategy.gather(run(), axis=0).numpy()
    return gathered


def build(strategy: tf.distribute.Strategy, make: Callable[[], keras.Model]) -> keras.Model:
    """Returns a model whose variables are on every device.

    Args:
        strategy: distributes the training.
        make: returns the model.
    """
    with strategy.scope():
        model = make()
        return model if strategy.num_replicas_in_sync == 1 else DistributedModel(model.inputs, model.outputs)


class DistributedModel(keras.Model):
    """A model that Keras 3.15 can fit on several devices.

    Keras itself fails in two places (keras-team/keras issue 20585). To build the model, it averages a batch over the
    devices, so they must have equally many photos each; on several hosts it cannot average at all. And on several hosts
    it averages the metrics of each step along an axis that scalars do not have.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        with self.distribute_strategy.scope():
            x, y = (tf.zeros((2, *tensor.shape[1:])) for tensor in (self.inputs[0], self.outputs[0]))
            self._symbolic_build(data_batch=(x, y))

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns the metrics of the epoch so far."""
        return self._with_axis(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns the metrics of the epoch so far."""
        return self._with_axis(super().test_step(data))

    def _with_axis(self, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if hosts(self.distribute_strategy) == 1:
            return logs
        return {name: value[tf.newaxis] for name, value in logs.items()}


def even_batches(
    strategy: tf.distribute.Strategy, data: tf.data.Dataset, photos: int, batch_size: int
) -> tf.data.Dataset:
    """Returns batches that split evenly over all devices, so that each photo has the same weight as on one device.

    At most (devices - 1) photos of the last batch are left out. Where the photos are shuffled, each epoch leaves out
    others.

    Args:
        strategy: distributes the training.
        data: batches.
        photos: the number of photos in all batches together.
        batch_size: over all devices.

    Raises:
        DataError: there are fewer photos than devices.
    """
    devices = strategy.num_replicas_in_sync
    if devices == 1:
        return data
    if batch_size < devices or photos < devices:
        raise DataError(f"batches of {min(batch_size, photos)} photos for {devices} devices; raise train.batch_size")

    def cut(*arrays: tf.Tensor) -> tuple[tf.Tensor, ...]:
        size = tf.shape(arrays[0])[0] // devices * devices
        return tuple(array[:size] for array in arrays)

    full, remainder = divmod(photos, batch_size)
    return data.map(cut).take(full + (remainder >= devices))
