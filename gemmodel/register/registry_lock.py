"""A lock on MLflow's registry, which has no compare-and-set: whoever changes an alias acquires it first."""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from gemmodel.core.errors import TrackingError
from gemmodel.tracking import runs

HEARTBEAT_S = 5.0  # seconds between two heartbeats of a ticket's owner
HEARTBEAT_TAG = "beat"  # as in version 0.1, which may share the registry
OWNER_TAG = "owner"  # unique to a ticket
LOCK_TIMEOUT_S = 60.0  # seconds without a heartbeat after which the owner counts as dead


@contextmanager
def registry_lock(name: str, run_id: str | None) -> Iterator[Callable[[], None]]:
    """Waits until no other process registers or promotes, on this machine or another.

    A ticket is a version of an empty model `<name>-queue`, which exists only while somebody holds or awaits the lock.
    The store numbers versions in one transaction. The lowest ticket holds the lock. Its owner sends heartbeats. After a
    timeout the waiting processes remove the ticket, so a killed process does not block others for ever. They measure
    the timeout by their own clocks and by changes of the heartbeat, not by dates. (Hunt and others, ZooKeeper, USENIX
    ATC 2010: locks without herd effect.)

    The last one deletes the queue. A ticket that was taken at that moment is deleted too, and its owner, who still
    waits, takes another one. A new queue numbers from 1 again, so a ticket is known by its owner as well.

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
    client, queue, owner = mlflow.MlflowClient(), f"{name}-queue", uuid.uuid4().hex
    ticket = _take_ticket(client, queue, run_id, owner)
    done = threading.Event()

    def send_heartbeats() -> None:
        for beat in itertools.count():
            with suppress(Exception):  # the server may answer the next one
                client.set_model_version_tag(queue, str(ticket), HEARTBEAT_TAG, str(beat))
            if done.wait(HEARTBEAT_S):
                return

    def check_held() -> None:
        if not _is_owner(_tickets(client, queue), ticket, owner):
            raise TrackingError(
                f"{name}: lost the registry's lock after {LOCK_TIMEOUT_S:g} s without a heartbeat; run this again"
            )

    heartbeats = threading.Thread(target=send_heartbeats, daemon=True)
    heartbeats.start()
    try:
        while not _wait(client, queue, ticket, owner):
            ticket = _take_ticket(client, queue, run_id, owner)
        yield check_held
    finally:
        done.set()
        heartbeats.join()
        with suppress(MlflowException):  # of a user who may not delete the queue, which then remains, empty
            if _is_owner(_tickets(client, queue), ticket, owner):
                client.delete_model_version(queue, str(ticket))
            if not _tickets(client, queue):
                client.delete_registered_model(queue)


def _take_ticket(client: mlflow.MlflowClient, queue: str, run_id: str, owner: str) -> int:
    while True:
        with runs.ignoring("RESOURCE_ALREADY_EXISTS"):
            client.create_registered_model(queue, description="Processes that wait to register; deleted after the last")
        with runs.ignoring("RESOURCE_DOES_NOT_EXIST"):  # the last one has deleted it just now
            return int(client.create_model_version(queue, f"runs:/{run_id}/ticket", run_id, {OWNER_TAG: owner}).version)


def _tickets(client: mlflow.MlflowClient, queue: str) -> dict[int, ModelVersion]:
    return {int(version.version): version for version in client.search_model_versions(f"name = '{queue}'")}


def _is_owner(tickets: Mapping[int, ModelVersion], ticket: int, owner: str) -> bool:
    return ticket in tickets and tickets[ticket].tags.get(OWNER_TAG) == owner


def _wait(client: mlflow.MlflowClient, queue: str, ticket: int, owner: str) -> bool:
    """Returns True when the ticket is the lowest, and False when it is no longer there."""
    last, since = None, time.monotonic()
    while True:
        tickets = _tickets(client, queue)
        if not _is_owner(tickets, ticket, owner):
            return False
        first = min(tickets)
        if first == ticket:
            return True
        state = (first, tickets[first].tags.get(OWNER_TAG), tickets[first].tags.get(HEARTBEAT_TAG))
        if state != last:
            if last is None:
                print(f"{queue}: waits for another process that registers or promotes")
            last, since = state, time.monotonic()
        elif time.monotonic() - since > LOCK_TIMEOUT_S:
            with runs.ignoring("RESOURCE_DOES_NOT_EXIST"):
                client.delete_model_version(queue, str(first))
        time.sleep(HEARTBEAT_S / 10)
