"""A real Dask scheduler and workers on loopback."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE = 60  # seconds; every wait here is far shorter
NO_PROFILE = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}  # of a worker's threads, 100 times a second


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
    return value


@contextmanager
def dask(*arguments: str, cwd: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with (cwd / "dask.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
            cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | NO_PROFILE | variables, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE / 4)
        except subprocess.TimeoutExpired:  # a worker waits for its scheduler, which a test has killed
            process.kill()
            process.wait(DEADLINE)


@contextmanager
def scheduler(cwd: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    info = cwd / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(info))
    with dask("scheduler", *options, cwd=cwd, **variables) as process:
        wait_for(info.exists)
        yield wait_for(lambda: info.read_text() and json.loads(info.read_text())["address"]), process


def worker(address: str, cwd: Path, *options: str, threads: int = 1) -> Any:
    return dask("worker", address, "--nthreads", str(threads), "--host", "127.0.0.1", *options, cwd=cwd)


@contextmanager
def cluster(cwd: Path, *options: str, workers: int = 2) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield the address and the process of a scheduler with some workers, of further options."""
    import distributed  # here, so that a test file without it can skip itself

    with ExitStack() as stack:
        address, process = stack.enter_context(scheduler(cwd))
        for _ in range(workers):
            stack.enter_context(worker(address, cwd, *options))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=DEADLINE)
        yield address, process
