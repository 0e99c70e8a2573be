"""A lock on MLflow's registry, which has no compare-and-set: whoever changes an alias acquires it first."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import mlflow
from mlflow.exceptions import MlflowException

from gemmodel.core.errors import TrackingError
from gemmodel.tracking import runs

HEARTBEAT_S = 5.0  # seconds between two heartbeats of a ticket's owner
HEARTBEAT_TAG = "beat"  # as in version 0.1, which may share the registry
PROMPT_TAG = "mlflow.prompt.is_prompt"  # MLflow lists no model with it among the registered models
LOCK_TIMEOUT_S = 60.0  # seconds without a heartbeat after which the owner counts as dead


@contextmanager
def registry_lock(name: str, run_id: str | None) -> Iterator[Callable[[], None]]:
    """Waits until no other process registers or promotes, on this machine or another.

    A ticket is a version of an empty model `<name>-queue`, which is tagged as a prompt, so that MLflow's list of
    registered models does not show it. The store numbers versions in one transaction and never uses a number twice. The
    lowest ticket holds the lock. Its owner sends heartbeats. After a timeout the waiting processes remove the ticket,
    so a killed process does not block others for ever. They measure the timeout by their own clocks and by changes of
    the heartbeat, not by dates. (Hunt and others, ZooKeeper, USENIX ATC 2010: locks without herd effect.)

    Args:
        name: of the registered model.
        run_id: the run that the ticket belongs to; the server requires one of a version.

    Yields:
        A check that the lock is still held, to be called right before an alias changes; else it raises TrackingError.

    Raises:
        TrackingError: there is no run.
    """
    if not run_id:
        raise TrackingError(f"{name}: that version has no run; give it the alias `champion` in MLflow's own page")
    client, queue = mlflow.MlflowClient(), f"{name}-queue"
    with runs.ignoring("RESOURCE_ALREADY_EXISTS"):
        client.create_registered_model(queue, description=f"Processes that wait to register {name}; empty at rest")
    client.set_registered_model_tag(queue, PROMPT_TAG, "true")  # also for a queue of an older version
    ticket = client.create_model_version(queue, f"runs:/{run_id}/ticket", run_id).version
    done = threading.Event()

    def send_heartbeats() -> None:
        for beat in itertools.count():
            with suppress(Exception):  # the server may answer the next one
                client.set_model_version_tag(queue, ticket, HEARTBEAT_TAG, str(beat))
            if done.wait(HEARTBEAT_S):
                return

    def check_held() -> None:
        if not any(version.version == ticket for version in client.search_model_versions(f"name = '{queue}'")):
            raise TrackingError(
                f"{name}: lost the registry's lock after {LOCK_TIMEOUT_S:g} s without a heartbeat; run this again"
            )

    heartbeats = threading.Thread(target=send_heartbeats, daemon=True)
    heartbeats.start()
    try:
        _wait(client, queue, int(ticket))
        yield check_held
    finally:
        done.set()
        heartbeats.join()
        with suppress(MlflowException):
            client.delete_model_version(queue, ticket)


def _wait(client: mlflow.MlflowClient, queue: str, ticket: int) -> None:
    last, since = None, time.monotonic()
    while True:
        tickets = {int(version.version): version for version in client.search_model_versions(f"name = '{queue}'")}
        first = min(tickets, default=ticket)
        if first >= ticket:
            return
        state = (first, tickets[first].tags.get(HEARTBEAT_TAG))
        if state != last:
            if last is None:
                print(f"{queue}: waits for another process that registers or promotes")
            last, since = state, time.monotonic()
        elif time.monotonic() - since > LOCK_TIMEOUT_S:
            with runs.ignoring("RESOURCE_DOES_NOT_EXIST"):
                client.delete_model_version(queue, str(first))
        time.sleep(HEARTBEAT_S / 10)
