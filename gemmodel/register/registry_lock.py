"""Taking turns at MLflow's registry, which has no compare-and-set: whoever changes a title waits for its turn first."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import mlflow
from mlflow.exceptions import MlflowException

from gemmodel.core.errors import TrackingError
from gemmodel.tracking import runs

HEARTBEAT_S = 5.0  # seconds after which the holder of a ticket shows again that it lives
LOCK_TIMEOUT_S = 60.0  # seconds of silence after which it counts as dead


@contextmanager
def registry_lock(name: str, run_id: str | None) -> Iterator[Callable[[], None]]:
    """Waits until nobody else registers or promotes, on this machine or another.

    A ticket is a version of an empty model `<name>-queue`: the store numbers versions in one transaction and never
    gives a number twice. The lowest ticket has its turn. It beats, and after a silence those who wait remove it, so
    that a killed process holds up nobody for ever; they go by their own clocks and by what changes, not by dates.
    (Hunt and others, ZooKeeper, USENIX ATC 2010: locks without herd effect.)

    Args:
        name: of the registered model.
        run_id: the run that the ticket stems from, as the server wants of a version.

    Yields:
        A check that it is still one's turn, to be asked right before a title changes; else it raises TrackingError.

    Raises:
        TrackingError: there is no run.
    """
    if not run_id:
        raise TrackingError(
            f"{name}: that version stems from no run; give it the alias `champion` in MLflow's own page"
        )
    client, queue = mlflow.MlflowClient(), f"{name}-queue"
    with runs.ignoring("RESOURCE_ALREADY_EXISTS"):
        client.create_registered_model(queue, description=f"Whose turn it is to register {name}; empty at rest")
    ticket = client.create_model_version(queue, f"runs:/{run_id}/turn", run_id).version
    over = threading.Event()

    def beat() -> None:
        for number in itertools.count():
            with suppress(Exception):  # the server may be back at the next one
                client.set_model_version_tag(queue, ticket, "beat", str(number))
            if over.wait(HEARTBEAT_S):
                return

    def confirm() -> None:
        if not any(found.version == ticket for found in client.search_model_versions(f"name = '{queue}'")):
            raise TrackingError(
                f"{name}: lost its turn to register after {LOCK_TIMEOUT_S:g} s of silence; run this again"
            )

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        _wait(client, queue, int(ticket))
        yield confirm
    finally:
        over.set()
        beating.join()
        with suppress(MlflowException):
            client.delete_model_version(queue, ticket)


def _wait(client: mlflow.MlflowClient, queue: str, ticket: int) -> None:
    last, since = None, time.monotonic()
    while True:
        waiting = {int(found.version): found for found in client.search_model_versions(f"name = '{queue}'")}
        first = min(waiting, default=ticket)
        if first >= ticket:
            return
        state = (first, waiting[first].tags.get("beat"))
        if state != last:
            if last is None:
                print(f"{queue}: waits for another process that registers or promotes")
            last, since = state, time.monotonic()
        elif time.monotonic() - since > LOCK_TIMEOUT_S:
            with runs.ignoring("RESOURCE_DOES_NOT_EXIST"):
                client.delete_model_version(queue, str(first))
        time.sleep(HEARTBEAT_S / 10)
