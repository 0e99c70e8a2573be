"""The commands serve and ui: the registered model over HTTP, and MLflow's UI."""

import argparse
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from gemmodel.commands.arguments import add_command, add_server_arguments, check_port, check_server
from gemmodel.commands.registry import registered_name
from gemmodel.core.errors import TrackingError, without_secrets
from gemmodel.tracking import store

# Options of `mlflow server` that would show another store than the project's.
SERVER_VARIABLES = ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
QUIET = {  # MLflow's own messages at the start are for its developers
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def add(commands: Any) -> None:
    """Adds the commands to the subcommands of `gemmodel`."""
    serve = add_command(
        commands,
        "serve",
        "Serve the registry's champion over HTTP, as MLflow's scoring server does",
        "gemmodel serve --port 5002  # docs/serving.md has a request",
    )
    add_server_arguments(serve, port=5002)
    serve.set_defaults(run=serve_champion)
    ui = add_command(
        commands, "ui", "Serve MLflow's UI: runs, metrics and registered models", "gemmodel ui --port 5001"
    )
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    ui.set_defaults(run=lambda arguments: serve_ui(arguments.host, arguments.port))


def serve_champion(arguments: argparse.Namespace) -> None:
    """Serves the champion over HTTP until it is interrupted.

    Raises:
        ParameterError: an option is out of range.
        DataError: there is no champion.
        ModelError: a file of it is damaged.
    """
    check_server(arguments)
    from gemmodel.register import locate

    name = registered_name()
    model = locate.champion_path(name)
    from gemmodel.serve import server

    with server.listen(arguments.host, arguments.port) as listening:
        from gemmodel.register import scoring

        print(f"gemmodel: champion of {name} at /invocations; Ctrl+C ends it", flush=True)
        server.serve(
            scoring.create_app(model),
            listening,
            allowed_hosts=arguments.allowed_hosts,
            per_address=arguments.per_address,
        )


def serve_ui(host: str, port: int) -> None:
    """Runs MLflow's UI on the store, and exits with its status; of a store that is a server, prints its address.

    Raises:
        ParameterError: the port is none.
        DataError: there is no store.
        TrackingError: the store is no SQLite file, or cannot be written.
    """
    check_port(port)
    uri = store.tracking_uri()
    if uri.startswith("http"):
        print(f"the runs are on a server: open {without_secrets(uri)}")
        return
    if store.sqlite_file() is None:
        from gemmodel.tracking import runs

        runs.check_store()  # here, since the server itself answers a missing driver with a traceback
    store.check_exists()
    try:
        store.relocate()
    except sqlite3.Error as error:
        raise TrackingError(store.explain(uri, error)) from None
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    variables = {name: value for name, value in os.environ.items() if name not in SERVER_VARIABLES}
    address = f"http://{host}:{port}/#{runs_route()}"
    print(f"gemmodel: the runs are at {address}; ready in about 15 seconds; Ctrl+C ends it", flush=True)
    command += ["--uvicorn-opts", "--log-level warning"]
    # The URI may hold a password, and arguments show in `ps`.
    sys.exit(run_server(command, variables | QUIET | {"MLFLOW_BACKEND_STORE_URI": uri}))


def runs_route() -> str:
    """Returns the route of MLflow's UI to the runs of this project; of a store without any, to all experiments.

    MLflow's own first page is for language models, unless the address names another.
    """
    file, found = store.sqlite_file(), None
    if file is not None:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database, suppress(sqlite3.Error):
            query = "select experiment_id from experiments where name = ?"
            found = database.execute(query, (store.experiment_name(),)).fetchone()
    return (f"/experiments/{found[0]}/runs" if found else "/experiments") + "?workflowType=machine_learning"


def run_server(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Runs a server until it ends or Ctrl+C ends it, which it gets too; returns its exit status."""
    with subprocess.Popen(command, env=variables) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.wait()
            return 0
