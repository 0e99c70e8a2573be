"""Runs of killed processes: the next process of the same project and host ends them as KILLED.

A process that opens runs holds a lock on a file in `logs/running` and tags the runs with the file's name. The lock is
its heartbeat. The kernel ends it with the process, however that ends, so no clock and no time limit is involved.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import psutil
from filelock import FileLock, Timeout

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.tracking import store

PROCESS_TAG = "mlflow.gemmodel.process"  # MLflow's UI hides tags that begin with `mlflow.`
PARENT_TAG = "mlflow.parentRunId"


@contextmanager
def live_process(folder: Path) -> Iterator[dict[str, str]]:
    """Ends the runs of killed processes, then yields the tag for those that this process opens.

    An exception leaves the file there: whether MLflow has ended the run then is not known, so the next process looks.

    Args:
        folder: of the project's files, one per process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    own, lock = folder / f"{name}.json", FileLock(folder / f"{name}.lock")
    with FileLock(folder / "lock"):  # else another process could find the file before it is locked
        _end_killed(folder)
        lock.acquire()
        files.write_json(own, {"store": store.without_login(mlflow.get_tracking_uri())})
    try:
        yield {PROCESS_TAG: name}
        own.unlink(missing_ok=True)
        _remove(lock)
    finally:
        lock.release()


def _end_killed(folder: Path) -> None:
    for file in sorted(folder.glob("*.json")):
        lock = FileLock(file.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:  # of a process that lives
            continue
        try:
            here = store.without_login(mlflow.get_tracking_uri())
            try:
                uri = files.read_json(file)["store"]
            except (DataError, KeyError, TypeError):  # by a power cut; the file's name is enough
                uri = here
            if uri == here:
                if not _end_runs(file.stem):
                    continue
                file.unlink()
                _remove(lock)
        finally:
            lock.release()


def _remove(lock: FileLock) -> None:
    with suppress(PermissionError):  # on Windows, where filelock itself removes the file
        Path(lock.lock_file).unlink(missing_ok=True)


def _end_runs(process: str) -> bool:
    """Ends the open runs with a process's tag; returns whether none is left, such as a study with others' trials."""
    left = False
    for run in _running(f"tags.`{PROCESS_TAG}` = '{process}'"):  # the latest first, so trials before their study
        if _running(f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"):
            left = True
            continue
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
        print(f"MLflow: {run.info.run_name}: its process was killed; the run is ended as KILLED", flush=True)
    return not left


def open_before_boot(client: mlflow.MlflowClient, experiment: str) -> list[mlflow.entities.Run]:
    """Returns an experiment's open runs that began before this machine did: `logs/` was deleted, or the project moved.

    Args:
        client: of a store that only this machine's processes write to.
        experiment: its id.
    """
    query = f"attributes.status = 'RUNNING' and attributes.start_time < {psutil.boot_time() * 1000:.0f}"
    return list(client.search_runs([experiment], query))


def _running(query: str) -> list[mlflow.entities.Run]:
    return list(mlflow.search_runs(filter_string=f"attributes.status = 'RUNNING' and {query}", output_format="list"))
