"""Clean by the workers of a real Dask scheduler on loopback: the same bytes, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gemmodel.core import files

distributed = pytest.importorskip("distributed")

ROOT = Path(__file__).parents[2]
GEMS, PHOTOS = ("Beryl", "Ruby"), 100  # of each, a second or two of work
DEADLINE = 60  # seconds, far more than any wait here takes
Run = Callable[..., subprocess.CompletedProcess[str]]
Ask = Callable[[], Any]


def until(ask: Ask) -> Any:
    """Wait until a question has an answer that is true, and return it."""
    end = time.monotonic() + DEADLINE
    while not (answer := ask()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return answer


@contextmanager
def dask(*arguments: str, cwd: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with (cwd / "dask.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
            cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE)


@contextmanager
def scheduler(cwd: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    told = cwd / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told))
    with dask("scheduler", *options, cwd=cwd, **variables) as process:
        until(told.exists)
        yield until(lambda: told.read_text() and json.loads(told.read_text())["address"]), process


def worker(address: str, cwd: Path, threads: int = 1) -> Any:
    return dask("worker", address, "--nthreads", str(threads), "--host", "127.0.0.1", cwd=cwd)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, write_params: Callable[..., Path], draw: Any, run: Run) -> Path:
    """A folder with raw photos, a copy and a damaged file among them, and what clean makes of them without Dask."""
    folder = tmp_path_factory.mktemp("project")
    write_params(folder, {"clean.max_side": 300, "clean.corrections": "corrections.csv"})  # so each is written anew
    (folder / "corrections.csv").write_text((ROOT / "photos" / "corrections.csv").read_text())
    lines = []
    for place, gem in enumerate(GEMS):
        (folder / "raw" / gem).mkdir(parents=True)
        for number in range(PHOTOS):
            picture: Image.Image = draw(1000 * place + number, size=(640, 480))
            picture.save(folder / "raw" / gem / f"{number}.jpg")
            lines.append({"path": f"{gem}/{number}.jpg", "gem": gem, "number": number})
    files.copy(folder / "raw" / "Ruby" / "0.jpg", folder / "raw" / "Ruby" / "1.jpg")
    (folder / "raw" / "Ruby" / "2.jpg").write_bytes(b"no photo")
    files.write_jsonl(folder / "raw" / "manifest.jsonl", lines)
    ended = cleaned(run, folder, "alone")
    assert ended.returncode == 0, ended.stderr
    assert contents(folder / "alone")["report.json"].count(b'"exact copy"') == 2  # counted and listed
    return folder


def cleaned(run: Run, folder: Path, out: str, **variables: str) -> subprocess.CompletedProcess[str]:
    options = ("--raw", "raw", "--out", f"{out}/clean", "--report", f"{out}/report.json")
    return run("-m", "stages.clean", *options, cwd=folder, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="3s", **variables)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with ExitStack() as stack:
        address, _ = stack.enter_context(scheduler(project))
        for _ in range(2):
            stack.enter_context(worker(address, project))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=DEADLINE)
        yield address


def test_workers_make_the_same_bytes(run: Run, project: Path, address: str) -> None:
    ended = cleaned(run, project, "by_dask", DASK_SCHEDULER_ADDRESS=address)
    assert ended.returncode == 0, ended.stderr
    assert contents(project / "by_dask") == contents(project / "alone")
    with distributed.Client(address, set_as_default=False) as client:
        done = client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert min(done.values()) > 0, "both had a share of the work"


def test_a_worker_that_is_killed_at_work_leaves_no_gap(run: Run, project: Path, address: str) -> None:
    with distributed.Client(address, set_as_default=False) as client, ThreadPoolExecutor() as pool:
        pids = client.run(os.getpid)
        running = pool.submit(cleaned, run, project, "with_a_death", DASK_SCHEDULER_ADDRESS=address)
        busy = until(lambda: [name for name, work in client.processing().items() if work])
        os.kill(pids[busy[0]], signal.SIGKILL)
        ended = running.result(DEADLINE)
        assert ended.returncode == 0, ended.stderr
        assert contents(project / "with_a_death") == contents(project / "alone")
        client.wait_for_workers(2, timeout=DEADLINE)
        assert pids[busy[0]] not in client.run(os.getpid).values()


def test_no_scheduler_is_told_in_one_line(
    run: Run, project: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    with scheduler(tmp_path) as (address, _):
        pass  # so nobody listens on its port any more
    refused(cleaned(run, project, "none", DASK_SCHEDULER_ADDRESS=address), "clean", address, "no scheduler", "unset")
    refused(cleaned(run, project, "none", DASK_SCHEDULER_ADDRESS="gems"), "clean", "gems", "missing port")
    assert not (project / "none").exists()


def test_workers_that_do_not_fit_or_die_and_a_scheduler_that_dies(
    run: Run, project: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    with scheduler(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as (address, process):
        refused(cleaned(run, project, "none", DASK_SCHEDULER_ADDRESS=address), "clean", "no worker", "dask worker")
        with distributed.Client(address, set_as_default=False) as client:
            with worker(address, tmp_path):
                client.wait_for_workers(1, timeout=DEADLINE)
                ended = cleaned(run, project, "none", DASK_SCHEDULER_ADDRESS=address)
                refused(ended, "clean", "folder", str(tmp_path), "anew")
            # Two threads: where a cluster has but one, joblib does the work itself.
            with worker(address, project, threads=2), ThreadPoolExecutor() as pool:
                for dies, told in (("worker", "killed worker after worker"), ("scheduler", "scheduler is gone")):
                    until(lambda: list(client.run(os.getcwd).values()) == [str(project)])
                    [pid] = client.run(os.getpid).values()
                    running = pool.submit(cleaned, run, project, "none", DASK_SCHEDULER_ADDRESS=address)
                    until(lambda: any(client.processing().values()))
                    os.kill(pid if dies == "worker" else process.pid, signal.SIGKILL)
                    refused(running.result(DEADLINE), "clean", address, told)
    assert not (project / "none" / "clean").exists()
