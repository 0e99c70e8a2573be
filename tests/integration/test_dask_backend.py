"""Cleaning on the workers of a real Dask scheduler on loopback: the same bytes, even if a worker dies."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gemmodel.core import files
from tests.integration import dask_cluster
from tests.integration.dask_cluster import DEADLINE, ROOT, scheduler, wait_for, worker

distributed = pytest.importorskip("distributed")

GEMS, PHOTOS = ("Beryl", "Ruby"), 100  # per gem; one or two seconds of work
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, write_params: Callable[..., Path], draw: Any, forked: Run
) -> Path:
    """A folder with raw photos, among them a copy and a damaged file, and the output of clean without Dask."""
    folder = tmp_path_factory.mktemp("project")
    write_params(folder, {"clean.max_side": 300, "clean.corrections": "corrections.csv"})  # so each is written again
    (folder / "corrections.csv").write_text((ROOT / "photos" / "corrections.csv").read_text())
    lines = []
    for i, gem in enumerate(GEMS):
        (folder / "raw" / gem).mkdir(parents=True)
        for number in range(PHOTOS):
            picture: Image.Image = draw(1000 * i + number, size=(640, 480))
            picture.save(folder / "raw" / gem / f"{number}.jpg")
            lines.append({"path": f"{gem}/{number}.jpg", "gem": gem, "number": number})
    files.copy(folder / "raw" / "Ruby" / "0.jpg", folder / "raw" / "Ruby" / "1.jpg")
    (folder / "raw" / "Ruby" / "2.jpg").write_bytes(b"not an image")
    files.write_jsonl(folder / "raw" / "manifest.jsonl", lines)
    ended = clean(forked, folder, "without_dask")
    assert ended.returncode == 0, ended.stderr
    assert contents(folder / "without_dask")["report.json"].count(b'"exact copy"') == 2  # counted and listed
    return folder


def clean(run: Run, folder: Path, out: str, **variables: str) -> Any:
    options = ("--raw", "raw", "--out", f"{out}/clean", "--report", f"{out}/report.json")
    return run("-m", "stages.clean", *options, cwd=folder, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="3s", **variables)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with dask_cluster.cluster(project) as (address, _):
        yield address


def test_workers_write_the_same_bytes(forked: Run, project: Path, address: str) -> None:
    ended = clean(forked, project, "by_dask", DASK_SCHEDULER_ADDRESS=address)
    assert ended.returncode == 0, ended.stderr
    assert contents(project / "by_dask") == contents(project / "without_dask")
    with distributed.Client(address, set_as_default=False) as client:
        done = client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert min(done.values()) > 0, "both did some of the work"


def test_the_output_is_complete_after_a_worker_is_killed(forked: Run, project: Path, address: str) -> None:
    with distributed.Client(address, set_as_default=False) as client, ThreadPoolExecutor() as pool:
        pids = client.run(os.getpid)
        running = pool.submit(clean, forked, project, "with_a_killed_worker", DASK_SCHEDULER_ADDRESS=address)
        busy = wait_for(lambda: [name for name, work in client.processing().items() if work])
        os.kill(pids[busy[0]], signal.SIGKILL)
        ended = running.result(DEADLINE)
        assert ended.returncode == 0, ended.stderr
        assert contents(project / "with_a_killed_worker") == contents(project / "without_dask")
        client.wait_for_workers(2, timeout=DEADLINE)
        assert pids[busy[0]] not in client.run(os.getpid).values()


def test_a_worker_with_other_code_that_comes_later_is_an_error(
    forked: Run, project: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    shutil.copytree(ROOT / "gemmodel", tmp_path / "gemmodel", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "gemmodel" / "clean" / "cleaning.py").open("a") as code:
        code.write("# edited\n")
    with dask_cluster.cluster(project) as (address, _), ThreadPoolExecutor() as pool:
        with distributed.Client(address, set_as_default=False) as client:
            pids = client.run(os.getpid).values()
            running = pool.submit(clean, forked, project, "with_other_code", DASK_SCHEDULER_ADDRESS=address)
            wait_for(lambda: any(client.processing().values()))
            for pid in pids:  # they have more to do when it comes
                os.kill(pid, signal.SIGSTOP)
            options = ("--nthreads", "1", "--host", "127.0.0.1")
            with dask_cluster.dask("worker", address, *options, cwd=project, PYTHONPATH=str(tmp_path)):
                client.wait_for_workers(3, timeout=DEADLINE)
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                refused(running.result(DEADLINE), "clean", "its code is", "restart it")


def test_a_missing_scheduler_is_an_error_of_one_line(
    forked: Run, project: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    with scheduler(tmp_path) as (address, _):
        pass  # stopped, so nothing listens on its port
    refused(clean(forked, project, "none", DASK_SCHEDULER_ADDRESS=address), "clean", address, "no scheduler", "unset")
    refused(clean(forked, project, "none", DASK_SCHEDULER_ADDRESS="gems"), "clean", "gems", "missing port")
    assert not (project / "none").exists()


def test_missing_unsuitable_and_killed_workers_and_a_killed_scheduler_are_errors_of_one_line(
    forked: Run, project: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    with scheduler(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as (address, process):
        refused(clean(forked, project, "none", DASK_SCHEDULER_ADDRESS=address), "clean", "no worker", "dask worker")
        with distributed.Client(address, set_as_default=False) as client:
            with worker(address, tmp_path):
                client.wait_for_workers(1, timeout=DEADLINE)
                ended = clean(forked, project, "none", DASK_SCHEDULER_ADDRESS=address)
                refused(ended, "clean", "folder", str(tmp_path), "restart it")
            # Two threads: with only one in the cluster, joblib does the work itself.
            with worker(address, project, threads=2), ThreadPoolExecutor() as pool:
                for killed, message in (
                    ("worker", "one task killed several workers"),
                    ("scheduler", "scheduler is gone"),
                ):
                    wait_for(lambda: list(client.run(os.getcwd).values()) == [str(project)])
                    [pid] = client.run(os.getpid).values()
                    running = pool.submit(clean, forked, project, "none", DASK_SCHEDULER_ADDRESS=address)
                    wait_for(lambda: any(client.processing().values()))
                    os.kill(pid if killed == "worker" else process.pid, signal.SIGKILL)
                    refused(running.result(DEADLINE), "clean", address, message)
    assert not (project / "none" / "clean").exists()
