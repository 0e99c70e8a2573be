"""Where the registry's champion lies: asked in milliseconds, without importing MLflow (3.5 s).

The SQLite store is read as it is, a server by MLflow's REST interface. MLflow itself is asked where neither answers as
expected, and to fetch a model that does not lie on this machine; what it fetched is kept, by the model's own id.
"""

import base64
import contextlib
import hashlib
import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from gemmodel.core import files
from gemmodel.core.errors import DataError

SECONDS = 5.0  # that a server has to answer in, before MLflow tries with its own patience
PLACE = """
    select source, coalesce(storage_location, source) from model_versions
    join registered_model_aliases using (workspace, name, version) where name = ? and alias = 'champion'
"""


def champion_path(name: str) -> Path:
    """Returns the champion's model folder, as `archive.save` wrote it.

    Args:
        name: of the registered model.

    Raises:
        DataError: there is no champion.
        TrackingError: the registry does not answer.
    """
    uri = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    try:
        found = _in_sqlite(uri, name) if uri.startswith("sqlite:///") else _at_server(uri, name)
    except (sqlite3.Error, OSError, ValueError, KeyError):  # another schema, a server that wants more than a password
        from gemmodel.register import versions

        found = versions.champion_source(name)
    if found is None:
        raise DataError(f"{uri}: no champion of the name {name}; `dvc repro` registers one, --model names a folder")
    source, place = found
    if place.startswith("file:"):
        kept = Path(urllib.request.url2pathname(urllib.parse.urlparse(place).path))
    else:
        kept = _fetched(uri, source)
    if not (kept / "artifacts").is_dir():
        raise DataError(f"{kept}: the champion is of an older version of this project; `dvc repro` registers a new one")
    return next((kept / "artifacts").iterdir())  # the one that `tracking.register` gave


def _in_sqlite(uri: str, name: str) -> tuple[str, str] | None:
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    if not path.is_file():
        raise DataError(f"{path}: no such registry; `dvc repro` makes one, MLFLOW_TRACKING_URI names another")
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
        return store.execute(PLACE, (name,)).fetchone()


def _at_server(uri: str, name: str) -> tuple[str, str] | None:
    query = urllib.parse.urlencode({"name": name, "alias": "champion"})
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/registered-models/alias?{query}")
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{key}") for key in ("USERNAME", "PASSWORD"))
    if user and password:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        source = json.load(answer)["model_version"]["source"]
    return source, source


def _fetched(uri: str, source: str) -> Path:
    """Returns a model's folder in the user's cache. The source names the model by an id that no other one has."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gemmodel"
    kept = cache / hashlib.sha256(f"{uri} {source}".encode()).hexdigest()[:16]
    if not kept.is_dir():
        from gemmodel.register import versions

        with files.atomic_write(kept) as new:
            versions.fetch(source, new)
    return kept
