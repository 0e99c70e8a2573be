"""Training on several devices or hosts at once through `tf.distribute`; docs/decisions/0018-several-devices.md."""

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
START_WITHIN = 300  # seconds from a worker's start to the last one's; TensorFlow itself would wait for ever
CONFIG = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
AGAIN = "start all workers again: with train.resume the training goes on from its last whole epoch"
LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,  # NCCL's
)


def workers() -> tuple[list[str], int]:
    """Returns the addresses of all workers in TF_CONFIG, and the number of this one; none where it is not set.

    Raises:
        ParameterError: TF_CONFIG is not of the form that it has to be.
    """
    if not (config := os.environ.get("TF_CONFIG")):
        return [], 0
    try:
        told = json.loads(config)
        addresses, place = told["cluster"]["worker"], int(told["task"]["index"])
        if len(told["cluster"]) > 1 or told["task"]["type"] != "worker" or not 0 <= place < len(addresses):
            raise ValueError
        return addresses, place
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ParameterError(f"TF_CONFIG is {config}; it must be as {CONFIG}, the index each worker's own") from None


def make_strategy(wanted: str, *, model: str) -> tf.distribute.Strategy:
    """Returns how a training is spread over devices; waits for the other workers, so before any tensor is made.

    Args:
        wanted: `one`; `mirrored`: all GPUs of this host; `multiworker`: all hosts in TF_CONFIG; `auto`: multiworker
            where TF_CONFIG names several, mirrored where TensorFlow sees several GPUs, else one.
        model: its's name; fusion is fitted on one device.

    Raises:
        DeviceError: there are no two devices, or another worker does not start.
        ParameterError: TF_CONFIG is not of the form that it has to be, names no two workers, or this one is run by DVC
            and not the chief; or fusion is to be spread.
    """
    addresses, place = workers()
    gpus = tf.config.get_visible_devices("GPU")
    if model == "fusion":
        if place or wanted not in ("auto", "one"):
            raise ParameterError("train.strategy: fusion is fitted on one device; set it to one, without TF_CONFIG")
        wanted = "one"
    if wanted == "auto":
        wanted = "multiworker" if len(addresses) > 1 else "mirrored" if len(gpus) > 1 else "one"
    if wanted == "multiworker":
        if place and "DVC_STAGE" in os.environ:
            raise ParameterError(f"{_named([place])} writes no output for DVC: run `gemmodel worker` on this host")
        if len(addresses) < 2:
            raise ParameterError(f"train.strategy is multiworker, but TF_CONFIG names no two workers; e.g. {CONFIG}")
        wait_for_workers(place)
        faulthandler.dump_traceback_later(START_WITHIN, exit=True)  # where a worker ended just now
        spread = tf.distribute.MultiWorkerMirroredStrategy()  # on CPUs by RING, on GPUs by NCCL
        faulthandler.cancel_dump_traceback_later()
        return spread
    if wanted == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        if len(devices) < 2:
            raise DeviceError("train.strategy is mirrored, but TensorFlow sees one device; set it to auto or one")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def wait_for_workers(place: int) -> None:
    """Waits until each other worker answers at its address: TensorFlow would wait for ever, and heed no signal.

    This one's own address answers as well meanwhile, and after that TensorFlow does there.
    """
    addresses, _ = workers()
    missing = set(range(len(addresses))) - {place}
    latest = time.monotonic() + START_WITHIN
    try:
        with socket.create_server(("", int(addresses[place].rsplit(":", 1)[-1]))):
            while missing := {other for other in missing if not is_reachable(other)}:
                if time.monotonic() > latest:
                    raise DeviceError(f"{_named(sorted(missing))} did not start within {START_WITHIN} seconds")
                time.sleep(0.2)
    except OSError as error:
        raise DeviceError(f"TF_CONFIG: {addresses[place]}: {error.strerror or error}") from None


def is_reachable(place: int) -> bool:
    host, port = workers()[0][place].rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True


def _named(places: list[int]) -> str:
    addresses, _ = workers()
    return ", ".join(f"worker {place} ({addresses[place]})" for place in places) or "another worker"


def hosts(spread: tf.distribute.Strategy) -> int:
    """Returns the number of workers that train together."""
    return len(workers()[0]) if isinstance(spread, tf.distribute.MultiWorkerMirroredStrategy) else 1


def is_chief(spread: tf.distribute.Strategy) -> bool:
    """Tells whether this process is the one that logs and saves."""
    return hosts(spread) == 1 or workers()[1] == 0


def describe(spread: tf.distribute.Strategy) -> str:
    """Returns what a training is spread over, in words: nothing for one device."""
    if hosts(spread) > 1:
        return f", worker {workers()[1]} of {hosts(spread)}, {spread.num_replicas_in_sync} devices together"
    return f", {spread.num_replicas_in_sync} devices together" if spread.num_replicas_in_sync > 1 else ""


@contextmanager
def chief_run(spread: tf.distribute.Strategy, run: AbstractContextManager[Run]) -> Iterator[Run | None]:
    """Opens the run of a training on the chief alone, and turns the loss of a worker into one line.

    TensorFlow's heartbeats tell of a loss after some ten seconds.

    Args:
        spread: over which devices.
        run: what the chief logs to.

    Yields:
        What the run gives to the chief; None to others.

    Raises:
        DeviceError: a worker was lost.
    """
    try:
        with run if is_chief(spread) else nullcontext() as opened:
            yield opened
    except LOST as error:
        if hosts(spread) == 1:
            raise
        others = set(range(hosts(spread))) - {workers()[1]}
        told = {int(place) for place in re.findall(r"task:(\d+)", str(error))} & others
        if not told and "Heartbeat" in str(error):
            told = {0} & others  # heartbeats go to the chief
        lost = sorted(told | {place for place in others if not is_reachable(place)})
        raise DeviceError(f"{_named(lost)} was lost; {AGAIN}") from None


def check_same_key(spread: tf.distribute.Strategy, key: str) -> None:
    """Compares what names the settings, photos and code of each worker.

    Args:
        spread: over which devices.
        key: hexadecimal.

    Raises:
        DataError: some worker's key is not the chief's; on every worker.
    """
    if hosts(spread) == 1:
        return
    number = tf.constant([int(key, 16) % 2**63], tf.int64)
    told = _gathered(spread, number).reshape(hosts(spread), -1)[:, 0]
    if others := np.flatnonzero(told != told[0]).tolist():
        raise DataError(
            f"{_named(others)}: other settings, photos, code or TensorFlow than the chief's; "
            "bring all hosts to one commit with `git pull` and `dvc pull`"
        )


def broadcast(spread: tf.distribute.Strategy, content: bytes) -> bytes:
    """Returns on every worker what the chief gave."""
    if hosts(spread) == 1:
        return content
    mine = content if is_chief(spread) else b""
    length = 4 * (len(mine) // 4 + 1)  # in int32, which every way of gathering takes
    size = _gathered(spread, tf.constant([len(mine)]))[0]  # the chief's first device comes first
    words = _gathered(spread, tf.constant(np.frombuffer(mine.ljust(length, b"\0"), np.int32)))
    return words.tobytes()[:size]


def _gathered(spread: tf.distribute.Strategy, values: tf.Tensor) -> np.ndarray:
    """Returns the values of all devices in one row."""
    each = tf.function(lambda: spread.run(tf.identity, (values,)), autograph=False)  # eagerly, TensorFlow would warn
    gathered: np.ndarray = spread.gather(each(), axis=0).numpy()
    return gathered


def build(spread: tf.distribute.Strategy, make: Callable[[], keras.Model]) -> keras.Model:
    """Returns a model whose variables are on every device."""
    with spread.scope():
        model = make()
        return model if spread.num_replicas_in_sync == 1 else DistributedModel(model.inputs, model.outputs)


class DistributedModel(keras.Model):
    """A model that Keras 3.15 can fit on several devices.

    Keras itself fails in two places (keras-team/keras issue 20585). It builds the model on a batch that it averages
    over the devices, which must then have equally many photos each, and it cannot on several hosts. And on several
    hosts it averages each step's figures along an axis that they have not.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        with self.distribute_strategy.scope():
            x, y = (tf.zeros((2, *kept.shape[1:])) for kept in (self.inputs[0], self.outputs[0]))
            self._symbolic_build(data_batch=(x, y))

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns the figures so far."""
        return self._with_an_axis(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns the figures so far."""
        return self._with_an_axis(super().test_step(data))

    def _with_an_axis(self, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if hosts(self.distribute_strategy) == 1:
            return logs
        return {name: value[tf.newaxis] for name, value in logs.items()}


def even_batches(
    spread: tf.distribute.Strategy, data: tf.data.Dataset, photos: int, batch_size: int
) -> tf.data.Dataset:
    """Returns batches that all devices can share equally: each one's mean then counts alike, and the sum is as of one.

    Of the last batch up to one photo less than there are devices is left out; shuffled, others in each epoch.

    Args:
        spread: over which devices.
        data: batches.
        photos: their number in all.
        batch_size: of the whole, over all devices.

    Raises:
        DataError: there are fewer photos than devices.
    """
    devices = spread.num_replicas_in_sync
    if devices == 1:
        return data
    if batch_size < devices or photos < devices:
        raise DataError(f"batches of {min(batch_size, photos)} photos for {devices} devices; raise train.batch_size")

    def even(*parts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        size = tf.shape(parts[0])[0] // devices * devices
        return tuple(part[:size] for part in parts)

    full, left = divmod(photos, batch_size)
    return data.map(even).take(full + (left >= devices))
