"""MLflow's server as a team runs it, with PostgreSQL, an S3 store and users, as plain processes, to be tried out.

All listens on this machine alone, and what it keeps lies in one folder that git and DVC ignore. docs/team.md tells what
differs where a team works with it.
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
SECONDS = 180  # that a process may take to start; MLflow's takes 10 to 40
MIRRORED = 3.0  # seconds between two looks for new files in the trial's S3 store
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
    """The server was asked to end. No library that catches errors is to catch this."""


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="trial_server", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".server"), help="what it keeps (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="of the server, on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--artifacts", metavar="S3_URI", help="a bucket of your own, s3://BUCKET/PATH, reached by AWS' "
                        "variables and MLFLOW_S3_ENDPOINT_URL (default: a store of the trial's own)")  # fmt: skip
    arguments = parser.parse_args()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: Any) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # it is ending, and ends all others first
        raise Interrupted

    for number in signals:
        signal.signal(number, interrupt)
    with cli_errors(parser.prog):
        try:
            run(arguments.folder.absolute(), arguments.port, arguments.artifacts)
        except Interrupted:
            print(f"{parser.prog}: ended; {arguments.folder} keeps what was logged")


def run(folder: Path, port: int, artifacts: str | None) -> None:
    """Runs all processes until one ends or this one is told to end; ends them all.

    Args:
        folder: keeps the database, the files and the passwords.
        port: of the server.
        artifacts: a bucket; None: a store of its own.

    Raises:
        TrackingError: something that is needed is not installed, the port is taken, or a process ended.
    """
    needed = PACKAGES if artifacts else PACKAGES | {"moto": "moto[server]"}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise TrackingError(f"not installed: {', '.join(missing)}; pip install '.[dev]' brings them")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise TrackingError(f"port {port}: {error.strerror}; name another with --port") from None
    folder.mkdir(parents=True, exist_ok=True)
    password, key = (_secret(folder / name) for name in ("password", "session_key"))
    with ExitStack() as stack:
        running: dict[Path, subprocess.Popen] = {}
        sockets = stack.enter_context(postgres(folder, running))
        store: dict[str, str] = {}
        look = None
        if artifacts is None:
            store, look = stack.enter_context(s3(folder, running))
        (folder / "users.ini").write_text(USERS.format(uri=_database("users", sockets)))
        address = f"http://{HOST}:{port}"
        given = {
            "MLFLOW_BACKEND_STORE_URI": _database("runs", sockets),
            "MLFLOW_ARTIFACTS_DESTINATION": artifacts or f"s3://{BUCKET}",
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "users.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": key,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        options = ["--host", HOST, "--port", str(port), "--workers", "1", "--app-name", "basic-auth"]
        command = [sys.executable, "-m", "mlflow", "server", *options]
        stack.enter_context(process(command, folder / "mlflow.log", running, _environment() | store | given))
        wait_for(lambda: _answers(f"{address}/health"), running)
        print(READY.format(address=address, password=folder / "password"), flush=True)
        while not _ended(running):
            if look:
                look()
            time.sleep(MIRRORED)


@contextmanager
def process(
    command: list[str],
    log: Path,
    running: dict[Path, subprocess.Popen],
    environment: Mapping[str, str],
    *,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[None]:
    """Runs a process while the context lasts, in a group of its own: so Ctrl+C does not reach all of them at once."""
    with log.open("ab") as file:
        options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
        started = subprocess.Popen(command, env=environment, stdout=file, stderr=file, **options)
    running[log] = started
    try:
        yield
    finally:
        started.send_signal(stop)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@contextmanager
def postgres(folder: Path, running: dict[Path, subprocess.Popen]) -> Iterator[str]:
    """Runs PostgreSQL on a socket that this user alone may open, so that it needs no password and no port.

    Yields:
        The folder of its socket.

    Raises:
        TrackingError: it is not installed, or the user `postgres`, which root's must run as, cannot reach the folder.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))  # of Debian, which puts it on no PATH
    server = shutil.which("postgres") or (str(found[-1]) if found else None)
    if server is None:
        raise TrackingError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    data, place = folder / "postgres", Path(tempfile.mkdtemp(prefix="gemmodel-"))  # a socket's path must be short
    user: dict[str, Any] = {}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(place, "postgres", "postgres")
        if subprocess.run(["test", "-x", folder], **user).returncode:
            raise TrackingError(
                f"{folder}: PostgreSQL does not run as root, and the user postgres cannot reach this folder; "
                "name another with --folder"
            )
    try:
        if not data.is_dir():
            with files.scratch_dir(folder / "postgres.new") as new:
                if user:
                    shutil.chown(new, "postgres", "postgres")
                options = ["-U", "mlflow", "-E", "UTF8", "--no-locale", "-A", "trust"]
                command = [str(Path(server).with_name("initdb")), "-D", str(new), *options]
                done = subprocess.run(command, capture_output=True, text=True, cwd=place, **user)
                if done.returncode:
                    raise TrackingError(f"{data}: initdb failed: {done.stderr.strip().splitlines()[-1]}")
                new.rename(data)
        settings = ["listen_addresses=", f"unix_socket_directories={place}", "unix_socket_permissions=0700"]
        command = [server, "-D", str(data), *(part for value in settings for part in ("-c", value))]
        with process(command, folder / "postgres.log", running, os.environ, stop=signal.SIGINT, cwd=place, **user):
            wait_for(lambda: _connects(str(place)), running)
            yield str(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def s3(folder: Path, running: dict[Path, subprocess.Popen]) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """Runs moto's S3 server, which keeps all in memory, and mirrors the bucket in a folder.

    Yields:
        The variables by which MLflow reaches it, and what mirrors files that are new.
    """
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    address, kept = f"http://{HOST}:{port}", folder / "artifacts"
    keys = {"AWS_ACCESS_KEY_ID": "trial", "AWS_SECRET_ACCESS_KEY": "trial", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with process(command, folder / "moto.log", running, _environment() | keys):
        wait_for(lambda: _answers(f"{address}/moto-api/"), running)
        client = boto3.client(
            "s3", endpoint_url=address, config=Config(proxies={}), region_name=keys["AWS_DEFAULT_REGION"],
            aws_access_key_id="trial", aws_secret_access_key="trial",
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        for path in sorted(kept.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), BUCKET, path.relative_to(kept).as_posix())

        def listed() -> dict[str, str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", ())}

        seen = listed()

        def look() -> None:
            now = listed()
            for name in [name for name, tag in now.items() if seen.get(name) != tag]:
                with files.atomic_write(kept / name) as new:
                    client.download_file(BUCKET, name, str(new))
            for name in seen.keys() - now.keys():
                (kept / name).unlink(missing_ok=True)
            seen.clear()
            seen.update(now)

        try:
            yield keys | {"MLFLOW_S3_ENDPOINT_URL": address}, look
        finally:
            if running[folder / "moto.log"].poll() is None:
                look()


def wait_for(ready: Callable[[], bool], running: Mapping[Path, subprocess.Popen]) -> None:
    """Returns once something is ready.

    Raises:
        TrackingError: a process ended, or it took too long.
    """
    end = time.monotonic() + SECONDS
    while not ready():
        _ended(running)
        if time.monotonic() > end:
            raise TrackingError(f"not ready after {SECONDS} s; see {list(running)[-1]}")
        time.sleep(0.2)


def _ended(running: Mapping[Path, subprocess.Popen]) -> bool:
    for log, started in running.items():
        if started.poll() is not None:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise TrackingError(f"{log.stem} ended ({started.returncode}): {lines[-1] if lines else 'it said nothing'}")
    return False


def _connects(sockets: str) -> bool:
    """Tells whether PostgreSQL answers; makes the databases where they are not there yet."""
    import psycopg2  # type: ignore[import-untyped]

    try:
        connection = psycopg2.connect(host=sockets, user="mlflow", dbname="postgres")
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("select datname from pg_database")
        there = {name for (name,) in cursor.fetchall()}
        for name in sorted({"runs", "users"} - there):
            cursor.execute(f"create database {name}")
    connection.close()
    return True


def _database(name: str, sockets: str) -> str:
    return f"postgresql+psycopg2://mlflow@/{name}?host={sockets}"


def _answers(url: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except OSError:
        return False
    return True


def _secret(path: Path) -> str:
    """Returns a random word that a file keeps, which this user alone may read."""
    if not path.exists():
        with files.atomic_write(path) as new:
            new.touch(0o600)
            new.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def _environment() -> dict[str, str]:
    """Returns this process's variables without what would lead the server to another store, or by way of a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") or "_S3_" in name}
    return kept | {"no_proxy": HOST, "NO_PROXY": HOST}


if __name__ == "__main__":
    main()
