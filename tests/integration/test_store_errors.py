"""A store that cannot be used: one line of at most 300 characters with the reason and the remedy, and no password."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from gemmodel.core.errors import cli_errors
from gemmodel.tracking import runs, store
from tests.integration.conftest import MARK

SECRET = "marked/s3cret"
LARGEST = 300


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with the default store, which is not there yet."""
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    yield tmp_path
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A SQLite store of MLflow with a run."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(empty_store, file)
    client = mlflow.MlflowClient(f"sqlite:///{file}")
    experiment = client.create_experiment("gemstones", artifact_location=file.with_name("mlruns").as_uri())
    client.create_run(experiment)
    return file


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("begin exclusive")
        yield


@contextmanager
def truncated(file: Path) -> Iterator[None]:
    os.truncate(file, file.stat().st_size // 3)
    yield


@contextmanager
def overwritten(file: Path) -> Iterator[None]:
    file.write_bytes(b"not a database" * 5000)
    yield


@contextmanager
def unreadable(file: Path) -> Iterator[None]:
    file.unlink()
    file.mkdir()
    yield


@contextmanager
def on_small_disk(file: Path, then: Callable[[Path], None]) -> Iterator[None]:
    """Mount a disk with only the store on it."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a tmpfs")
    content, disk = file.read_bytes(), file.parent
    size = f"size={len(content) + 64 * 1024}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs here")
    try:
        file.write_bytes(content)
        file.with_name(f"{file.name}.lock").touch()
        then(disk)
        yield
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@contextmanager
def full(file: Path) -> Iterator[None]:
    def fill(disk: Path) -> None:
        with pytest.raises(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    with on_small_disk(file, fill):
        yield


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    def remount(disk: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

    with on_small_disk(file, remount):
        yield


def refused(call: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> str:
    """Return the line with which a command ends, after which nothing else is printed."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended, cli_errors("stage"):
        call()
    printed, line = capfd.readouterr(), str(ended.value.code)
    assert (printed.out, printed.err) == ("", ""), printed
    assert line.startswith("stage: ") and len(line.splitlines()) == 1 and len(line) <= LARGEST, line
    assert SECRET not in line, line
    return line


def train() -> None:
    with runs.training_run("cnn", {"base": {"seed": 1}}, {}, device="CPU"):
        raise AssertionError("a training began")


def evaluate() -> None:
    with runs.model_run("abc"):
        runs.log_metrics({"test/accuracy": 1.0})


def use() -> None:
    from gemmodel.register import locate

    locate.champion_path("gemstones")


def promote() -> None:
    from gemmodel.commands import registry

    registry.set_champion("1")


WRITERS, READERS = (train, evaluate), (promote, use)


@pytest.mark.parametrize("command", [*WRITERS, *READERS])
@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        (full, "full", "free some space"),
        (read_only, "", "writable"),
        (locked, "locked", "another program"),
        (truncated, "malformed", "damaged"),
        (overwritten, "not a database", "damaged"),
    ],
)
def test_a_sqlite_file_that_cannot_be_used_is_named_with_the_remedy(
    project: Path, whole_store: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any,
    state: Any, reason: str, remedy: str, command: Callable[[], None],
) -> None:  # fmt: skip
    if command in READERS and state in (full, read_only):
        pytest.skip("it only reads, and may succeed")
    (project / "store").mkdir()
    file = project / "store" / "mlflow.db"
    file.write_bytes(whole_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with state(file):
        line = refused(command, capfd)
    assert str(file) in line and reason in line and remedy in line, line


def test_no_secret_of_the_environment_is_in_any_file_or_output_of_the_pipeline(finished_project: Any) -> None:
    files = [path for path in finished_project.root.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"runs.db", "MLmodel", "model_card.md", "registration.json", "index.html"} <= names
    assert "is ignored: MLFLOW_TRACKING_URI" in (finished_project.root / "log" / "output.txt").read_text()
    assert [path for path in files if MARK.encode() in path.read_bytes()] == []


def test_a_run_that_fails_in_the_middle_tells_the_databases_reason(
    project: Path, empty_store: Path, capfd: Any
) -> None:
    shutil.copy(empty_store, project / "mlflow.db")
    with runs.model_run("abc"):
        pass

    def logs() -> None:
        with runs.model_run("abc"), locked(project / "mlflow.db"):
            runs.log_metrics({"test/accuracy": 1.0})

    assert "is locked; another program" in refused(logs, capfd)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")  # libpq's least
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with pytest.raises(OSError):
                while True:
                    accepted.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in accepted:
            connection.close()


@pytest.mark.parametrize("command", [train, promote, use])
@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "http"])
def test_a_server_that_never_answers_is_named_after_one_try(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, silent: int, scheme: str, command: Any
) -> None:
    if scheme != "http":
        pytest.importorskip("psycopg2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:{SECRET.replace('/', '%2F')}@127.0.0.1:{silent}/runs")
    monkeypatch.setattr("gemmodel.register.locate.TIMEOUT_S", 0.5)
    line = refused(command, capfd)
    assert f"127.0.0.1:{silent}" in line and "start it, or name another store in MLFLOW_TRACKING_URI" in line
    assert "timeout expired" in line or "timed out" in line


@pytest.mark.parametrize("command", [train, promote, use])
@pytest.mark.parametrize("uri", ["postgresql+psycopg2://me:{}@127.0.0.1:1/runs", "http://me:{}@127.0.0.1:1"])
def test_a_server_that_refuses_is_named_without_the_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, uri: str, command: Any
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(SECRET if "postgres" in uri else SECRET.replace("/", "%2F")))
    line = refused(command, capfd)
    assert "127.0.0.1:1" in line and "Connection refused; start it" in line


@pytest.mark.parametrize("command", [train, promote, use])
def test_a_variable_of_mlflow_that_is_no_number_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, command: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30s")
    line = refused(command, capfd)
    assert "'30s' for MLFLOW_HTTP_REQUEST_TIMEOUT" in line and line.endswith("; correct or unset it")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("oracle://me:{}@127.0.0.1/runs", "not a store"),
        ("mssql+pyodbc://me:{}@127.0.0.1/runs", "No module named 'pyodbc'"),
        ("postgresql+none://me:{}@127.0.0.1/runs", "not a URI of a database"),
        ("postgresql+psycopg2://me:{}@127.0.0.1:port/runs", "not a URI of a database"),
        ("postgresql+psycopg2://me:{}@x@127.0.0.1/runs", "write it as %40"),
        ("sqlite+pysqlcipher://:{}@/runs.db", "without driver and options"),
        ("http://[me:{}@127.0.0.1", "not a URI"),
    ],
)
def test_a_uri_that_no_driver_takes_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, uri: str, expected: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(SECRET))
    line = refused(promote, capfd)
    assert "MLFLOW_TRACKING_URI" in line and expected in line, line


def test_the_login_of_a_servers_uri_becomes_mlflows_variables(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss%2Fword@mlflow.example:5000/path")
    assert store.tracking_uri() == store.tracking_uri() == "https://mlflow.example:5000/path"
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow.example:5000/path"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss/word")
