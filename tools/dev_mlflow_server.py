"""Runs MLflow's server as a team would, with PostgreSQL, an S3 store and users, to try it out on one machine.

All servers listen on this machine only. Their data is in one folder, which git and DVC ignore. docs/team.md says what
is different on a team's own server.
"""

import argparse
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gemmodel.core import files
from gemmodel.core.errors import TrackingError, cli_errors

HOST = "127.0.0.1"
BUCKET = "mlflow"
START_TIMEOUT_S = 180  # MLflow's server takes 10 to 40
MIRROR_INTERVAL_S = 3.0  # between two copies of the local S3 store to disk
PACKAGES = {"psycopg2": "psycopg2-binary", "boto3": "boto3", "flask_wtf": "mlflow[auth]"}
USERS = """[mlflow]
default_permission = READ
database_uri = {uri}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
READY = """
MLflow's server is ready; Ctrl+C ends it. In the shell that runs the pipeline:

export MLFLOW_TRACKING_URI={address}
export MLFLOW_TRACKING_USERNAME=admin
export MLFLOW_TRACKING_PASSWORD="$(cat '{password}')"
"""


class Interrupted(BaseException):
    """A signal to end the server. Not an Exception, so that no library catches it."""


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="dev_mlflow_server", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".server"), help="of all data (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="of the server, on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--artifacts", metavar="S3_URI", help="your own bucket, s3://BUCKET/PATH, with AWS' variables "
                        "and MLFLOW_S3_ENDPOINT_URL set (default: a local S3 store)")  # fmt: skip
    arguments = parser.parse_args()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: Any) -> None:
        for name in signals:
            signal.signal(name, signal.SIG_IGN)  # while it ends all other processes
        raise Interrupted

    for name in signals:
        signal.signal(name, interrupt)
    with cli_errors(parser.prog):
        try:
            run(arguments.folder.absolute(), arguments.port, arguments.artifacts)
        except Interrupted:
            print(f"{parser.prog}: stopped; {arguments.folder} keeps the logged runs")


def run(folder: Path, port: int, artifacts: str | None) -> None:
    """Runs all processes until one of them ends or a signal comes, and then ends them all.

    Args:
        folder: of the database, the artefacts and the passwords.
        port: of the server.
        artifacts: URI of a bucket; None is a local S3 store.

    Raises:
        TrackingError: a package or program is not installed, the port is in use, or a process ended.
    """
    packages = PACKAGES if artifacts else PACKAGES | {"moto": "moto[server]"}
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise TrackingError(f"not installed: {', '.join(missing)}; pip install -e '.[dev]' installs them")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TrackingError(f"port {port}: {error.strerror}; choose another with --port") from None
    folder.mkdir(parents=True, exist_ok=True)
    password, key = (_secret(folder / name) for name in ("password", "session_key"))
    with ExitStack() as stack:
        processes: dict[Path, subprocess.Popen] = {}
        socket_folder = stack.enter_context(postgres(folder, processes))
        s3_variables: dict[str, str] = {}
        mirror = None
        if artifacts is None:
            s3_variables, mirror = stack.enter_context(s3(folder, processes))
        (folder / "users.ini").write_text(USERS.format(uri=_database_uri("users", socket_folder)))
        address = f"http://{HOST}:{port}"
        mlflow_variables = {
            "MLFLOW_BACKEND_STORE_URI": _database_uri("runs", socket_folder),
            "MLFLOW_ARTIFACTS_DESTINATION": artifacts or f"s3://{BUCKET}",
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "users.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": key,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        options = ["--host", HOST, "--port", str(port), "--workers", "1", "--app-name", "basic-auth"]
        command = [sys.executable, "-m", "mlflow", "server", *options]
        variables = _environment() | s3_variables | mlflow_variables
        stack.enter_context(process(command, folder / "mlflow.log", processes, variables))
        wait_for(lambda: is_reachable(f"{address}/health"), processes)
        print(READY.format(address=address, password=folder / "password"), flush=True)
        while True:
            check_running(processes)
            if mirror:
                mirror()
            time.sleep(MIRROR_INTERVAL_S)


@contextmanager
def process(
    command: list[str],
    log: Path,
    processes: dict[Path, subprocess.Popen],
    environment: Mapping[str, str],
    *,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[None]:
    """Runs a process while the context lasts, in its own process group, which Ctrl+C does not reach.

    Args:
        command: of the process.
        log: file that its output is appended to.
        processes: all processes by their logs; the new one is added.
        environment: its variables.
        stop: the signal that ends it.
        options: of `subprocess.Popen`.
    """
    with log.open("ab") as file:
        options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=file, **options)
    processes[log] = child
    try:
        yield
    finally:
        child.send_signal(stop)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextmanager
def postgres(folder: Path, processes: dict[Path, subprocess.Popen]) -> Iterator[str]:
    """Runs PostgreSQL on a socket that only this user may open, so that it needs no password and no port.

    Args:
        folder: its data is in `postgres` below it, and its log is `postgres.log`.
        processes: all processes by their logs; the new one is added.

    Yields:
        The folder of its socket.

    Raises:
        TrackingError: it is not installed or fails; or this user is root, as which PostgreSQL does not run, and the
            user `postgres` cannot access the folder.
    """
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))  # which is not on Debian's PATH
    server = shutil.which("postgres") or (str(debian[-1]) if debian else None)
    if server is None:
        raise TrackingError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    data, socket_folder = folder / "postgres", Path(tempfile.mkdtemp(prefix="gemmodel-"))  # sockets need short paths
    run_as: dict[str, Any] = {"cwd": socket_folder}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        run_as |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(socket_folder, "postgres", "postgres")
        if subprocess.run(["test", "-x", folder], **run_as).returncode:
            raise TrackingError(
                f"{folder}: PostgreSQL does not run as root, and the user postgres cannot access this folder; "
                "choose another with --folder"
            )
    try:
        if not data.is_dir():
            with files.scratch_dir(folder / "postgres.new") as new:
                if "user" in run_as:
                    shutil.chown(new, "postgres", "postgres")
                options = ["-U", "mlflow", "-E", "UTF8", "--no-locale", "-A", "trust"]
                command = [str(Path(server).with_name("initdb")), "-D", str(new), *options]
                initdb = subprocess.run(command, capture_output=True, text=True, **run_as)
                if initdb.returncode:
                    raise TrackingError(f"{data}: initdb failed: {initdb.stderr.strip().splitlines()[-1]}")
                new.rename(data)
        settings = ["listen_addresses=", f"unix_socket_directories={socket_folder}", "unix_socket_permissions=0700"]
        command = [server, "-D", str(data), *(option for setting in settings for option in ("-c", setting))]
        with process(command, folder / "postgres.log", processes, os.environ, stop=signal.SIGINT, **run_as):
            wait_for(lambda: create_databases(str(socket_folder)), processes)
            yield str(socket_folder)
    finally:
        shutil.rmtree(socket_folder, ignore_errors=True)


@contextmanager
def s3(folder: Path, processes: dict[Path, subprocess.Popen]) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """Runs moto's S3 server, which keeps its files in memory only, and mirrors them in `artifacts` below a folder.

    Args:
        folder: of the mirror and the log, `moto.log`.
        processes: all processes by their logs; the new one is added.

    Yields:
        The variables that MLflow needs for it, and a function that updates the mirror.
    """
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    address, local, log = f"http://{HOST}:{port}", folder / "artifacts", folder / "moto.log"
    keys = {"AWS_ACCESS_KEY_ID": "dev", "AWS_SECRET_ACCESS_KEY": "dev", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with process(command, log, processes, _environment() | keys):
        wait_for(lambda: is_reachable(f"{address}/moto-api/"), processes)
        client = boto3.client(
            "s3", endpoint_url=address, config=Config(proxies={}), region_name=keys["AWS_DEFAULT_REGION"],
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"], aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        for path in sorted(local.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), BUCKET, path.relative_to(local).as_posix())

        def etags() -> dict[str, str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", ())}

        mirrored = etags()

        def mirror() -> None:
            current = etags()
            for name in [name for name, tag in current.items() if mirrored.get(name) != tag]:
                with files.atomic_write(local / name) as new:
                    client.download_file(BUCKET, name, str(new))
            for name in mirrored.keys() - current.keys():
                (local / name).unlink(missing_ok=True)
            mirrored.clear()
            mirrored.update(current)

        try:
            yield keys | {"MLFLOW_S3_ENDPOINT_URL": address}, mirror
        finally:
            if processes[log].poll() is None:
                mirror()


def wait_for(is_ready: Callable[[], bool], processes: Mapping[Path, subprocess.Popen]) -> None:
    """Waits until a condition is true.

    Raises:
        TrackingError: a process ended, or it takes more than START_TIMEOUT_S.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        check_running(processes)
        if time.monotonic() > deadline:
            raise TrackingError(f"not ready after {START_TIMEOUT_S} s; see {list(processes)[-1]}")
        time.sleep(0.2)


def check_running(processes: Mapping[Path, subprocess.Popen]) -> None:
    """Checks that all processes run.

    Raises:
        TrackingError: one ended; with the last line of its log.
    """
    for log, child in processes.items():
        if child.poll() is not None:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise TrackingError(f"{log.stem} ended ({child.returncode}): {lines[-1] if lines else 'its log is empty'}")


def create_databases(socket_folder: str) -> bool:
    """Creates the databases that do not exist yet. Returns False while PostgreSQL does not accept connections."""
    import psycopg2  # type: ignore[import-untyped]

    try:
        connection = psycopg2.connect(host=socket_folder, user="mlflow", dbname="postgres")
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("select datname from pg_database")
        existing = {name for (name,) in cursor.fetchall()}
        for name in sorted({"runs", "users"} - existing):
            cursor.execute(f"create database {name}")
    connection.close()
    return True


def is_reachable(url: str) -> bool:
    """Returns whether a server responds with success."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except OSError:
        return False
    return True


def _database_uri(name: str, socket_folder: str) -> str:
    return f"postgresql+psycopg2://mlflow@/{name}?host={socket_folder}"


def _secret(path: Path) -> str:
    """Returns the random password in a file, which only this user may read; creates it the first time."""
    if not path.exists():
        with files.atomic_write(path) as new:
            new.touch(0o600)
            new.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def _environment() -> dict[str, str]:
    """Returns this process's variables, without a proxy for this machine and without MLflow's, but for those of S3."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") or "_S3_" in name}
    return kept | {"no_proxy": HOST, "NO_PROXY": HOST}


if __name__ == "__main__":
    main()
