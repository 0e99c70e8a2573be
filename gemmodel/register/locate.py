"""Finds the registry's champion within milliseconds, without importing MLflow, which takes 3.5 s.

A SQLite store is read directly, a server by MLflow's REST API. Where neither works, MLflow itself is used. It also
downloads models that are not on this machine; downloads are cached by the model's id.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError, ModelError, without_secrets
from gemmodel.tracking import store

REMEDY = "`gemmodel register` uploads it if models/ is that model, else `gemmodel promote` names another champion"
TIMEOUT_S = 5.0  # of the REST request; MLflow, which is used after it, waits longer
CHAMPION_QUERY = """
    select source, coalesce(storage_location, source) from model_versions
    join registered_model_aliases using (workspace, name, version) where name = ? and alias = 'champion'
"""


def champion_path(name: str) -> Path:
    """Returns the champion's model folder, as `saving.save` wrote it; see `mlflow_model`."""
    return next((mlflow_model(name) / "artifacts").iterdir())  # the only one, which `registration.register` logged


def mlflow_model(name: str) -> Path:
    """Returns the champion's folder, as MLflow wrote it.

    Args:
        name: of the registered model.

    Raises:
        DataError: there is no champion, or its files are not there.
        TrackingError: the registry cannot be reached.
    """
    store.check_exists()
    uri, file = store.tracking_uri(), store.sqlite_file()
    try:
        champion = _query_sqlite(file, name) if file else _query_server(uri, name)
    except (
        sqlite3.Error,
        OSError,
        ValueError,
        KeyError,
        http.client.HTTPException,
    ):  # another schema, or a server with another kind of login
        from gemmodel.register import versions

        champion = versions.champion_source(name)
    if champion is None:
        raise DataError(
            f"{without_secrets(uri)}: {name} has no champion; `{store.registering_command()}` makes one, or name a "
            "folder by --model"
        )
    source, location = champion
    local = location.startswith(("file:", "/"))
    folder = store.artifact_path(location) if local else _cached_download(uri, source)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: the champion's files are not there; copy {store.ARTIFACTS}/ from where the project was, "
            f"or {REMEDY}"
        )
    if not list(folder.glob("artifacts/*")):
        raise DataError(f"{folder}: the champion's model is not there; {REMEDY}")
    return folder


def _query_sqlite(file: Path, name: str) -> tuple[str, str] | None:
    """Returns the champion's source and the location of its files; None without a champion."""
    with contextlib.suppress(sqlite3.Error):  # of a store that cannot be written
        store.relocate()
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(CHAMPION_QUERY, (name,)).fetchone()


def _query_server(uri: str, name: str) -> tuple[str, str]:
    """Returns the champion's source twice, since a server does not say where its files are."""
    query = urllib.parse.urlencode({"name": name, "alias": "champion"})
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/registered-models/alias?{query}")
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{key}") for key in ("USERNAME", "PASSWORD"))
    if user and password:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        source = json.load(response)["model_version"]["source"]
    return source, source


def _cached_download(uri: str, source: str) -> Path:
    """Returns a model's folder in the user's cache, which is filled again where a file of it is damaged.

    The source contains a unique id, so the cache is never stale.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gemmodel"
    except RuntimeError:  # a user without a name, as in a container
        raise DataError("no home folder to keep a server's model in; set HOME or XDG_CACHE_HOME") from None
    folder = cache / hashlib.sha256(f"{uri} {source}".encode()).hexdigest()[:16]
    if not _is_whole(folder):
        import mlflow
        from filelock import FileLock

        from gemmodel.tracking import runs

        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"), runs.mlflow_store(create=False):
            if not _is_whole(folder):  # another process may have downloaded it just now
                with files.atomic_write(folder) as new:
                    mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(new))
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        hashing.check(folder)
    except ModelError:
        return False
    return folder.is_dir()
