"""Which MLflow store is in use, and where its artefacts are. Does not import MLflow.

MLflow writes artefacts' locations as absolute paths. Those of a SQLite file are in `mlruns` beside it, so that both can
be moved or copied together: `relocate` corrects the locations then (decision 27).
"""

import os
import re
import sqlite3
import sys
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

from gemmodel.core.errors import DataError, TrackingError, shortened, without_secrets

SQLITE, DEFAULT_URI = "sqlite:///", "sqlite:///mlflow.db"
EXPERIMENT = "gemstones"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "uc")  # of MLflow's own stores
ARTIFACTS = "mlruns"  # beside a SQLite file, as MLflow's own default
ROOT = re.compile(rf"((?:file:|/).*/{ARTIFACTS})(?:/.*)?", re.DOTALL)  # of a location
NO_SPACE = "No space left on device"  # the system's words, somewhere in MLflow's list of failed downloads
REMEDIES = {  # by what a database or the system says
    NO_SPACE: "free some on its disk and on that of temporary files (TMPDIR), and run this again",
    "disk is full": "free some space on its disk and run this again",
    "readonly database": "make it and its folder writable (chmod u+w), or name another store in MLFLOW_TRACKING_URI",
    "unable to open": "make it and its folder readable (chmod u+rw), or name another store in MLFLOW_TRACKING_URI",
    "is locked": "another program is using it; run this again when that has ended",
    "malformed": "it is damaged: restore a copy, or move it away, and `dvc repro -f train` begins a new one",
    "not a database": "it is damaged: restore a copy, or move it away, and `dvc repro -f train` begins a new one",
    "disk I/O error": "its disk fails or is full; see the system's log",
    "not authenticated": "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "authentication failed": "correct the user and the password in MLFLOW_TRACKING_URI",
}
LOCATIONS = {  # columns of MLflow's tables
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
    "trace_tags": ("value",),
}


def project_root() -> Path:
    """Returns the project's root, also from the copy in which `dvc exp run --temp` or `--queue` works."""
    working_directory = Path.cwd()
    for folder in (working_directory, *working_directory.parents):
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return working_directory


def tracking_uri() -> str:
    """Returns the store's URI as MLflow takes it: MLFLOW_TRACKING_URI, or a SQLite file in the project's root.

    The user and the password of a server's URI move to MLflow's variables for them, since MLflow prints its URI.

    Raises:
        TrackingError: a variable names a store that cannot be used.
    """
    uri = _configured()
    if (file := sqlite_file()) is None:
        try:
            parts = urllib.parse.urlsplit(uri)
        except ValueError as error:
            raise TrackingError(f"MLFLOW_TRACKING_URI: not a URI: {error}; it is like https://mlflow.example") from None
        login, at, host = parts.netloc.rpartition("@")
        if parts.scheme not in ("http", "https") or not at:
            return uri
        for name, value in zip(("USERNAME", "PASSWORD"), login.split(":", 1), strict=False):
            os.environ[f"MLFLOW_TRACKING_{name}"] = urllib.parse.unquote(value)
        os.environ["MLFLOW_TRACKING_URI"] = parts._replace(netloc=host).geturl()
        return os.environ["MLFLOW_TRACKING_URI"]
    path = file.as_posix()
    # MLflow would decode a `%`, or create a folder of the encoded name, and take a `?` for the beginning of a query.
    if {"%", "?"} & set(path):
        path = os.path.relpath(file)
        if {"%", "?"} & set(path):
            raise TrackingError(f"{file}: MLflow cannot open a store with % or ? in its path; move or rename it")
    return SQLITE + path


def experiment_name() -> str:
    """Returns the experiment's name: MLFLOW_EXPERIMENT_NAME, or the project's own."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or EXPERIMENT


def without_login(uri: str) -> str:
    """Returns a store's URI without user and password: what may be kept in a file to know the store again."""
    return uri if uri.startswith(SQLITE) else re.sub(r"://\S*@", "://", uri)


def sqlite_file() -> Path | None:
    """Returns the path of the store's SQLite file; None of another store. A relative one starts at the project's root.

    Raises:
        TrackingError: a variable names a store that cannot be used.
    """
    database = _configured().removeprefix(SQLITE)
    if database == _configured():
        return None
    return (project_root() / urllib.parse.unquote(database)).resolve()


def check_exists() -> None:
    """Checks that there is a store, for commands that only read one: MLflow would create an empty one.

    Raises:
        DataError: there is no SQLite file.
        TrackingError: a variable names a store that cannot be used.
    """
    file = sqlite_file()
    if file is not None and not file.is_file():
        remedy = f"`{registering_command()}` creates one, MLFLOW_TRACKING_URI names another"
        for folder in Path.cwd().parents:
            if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
                remedy = f"run this in the project's root, {folder}"
        raise DataError(f"{file}: no such registry; {remedy}")


def registering_command() -> str:
    """Returns the command that registers a model: DVC runs nothing where its outputs are there."""
    return "gemmodel register" if Path("models").is_dir() else "dvc repro"


def relocate() -> None:
    """Corrects the locations in a SQLite store that was moved or copied together with its artefacts, and says so.

    A location is of a former place if its artefacts are beside the store now; that of the experiment in use also if
    nothing is there any more. Of another experiment the disk may be away.

    Raises:
        sqlite3.Error: the store is not MLflow's, or cannot be written.
    """
    file = sqlite_file()
    if file is None or not file.is_file():
        return
    here = file.with_name(ARTIFACTS)
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        columns = [(table, column) for table in LOCATIONS if table in tables for column in LOCATIONS[table]]
        if "experiments" not in tables:
            return
        roots = {match[1] for (location,) in database.execute("select artifact_location from experiments")
                 if (match := ROOT.fullmatch(location or ""))}  # fmt: skip
        moved = [root for root in sorted(roots) if to_path(root) != here and _was_moved(database, root, here)]
        reported = {to_path(root) for root in moved if _run_paths(database, root)}  # an empty one is not missed
        for root in moved:
            new = here.as_uri() if root.startswith("file:") else here.as_posix()
            with database:
                for table, column in columns:
                    database.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "
                        f"where {column} = ? or substr({column}, 1, ?) = ?",
                        (new, len(root) + 1, root, len(root) + 1, f"{root}/"),
                    )
    for former in sorted(reported):
        print(f"{file}: moved or copied: its artefacts were in {former}, and are looked up in {here}", file=sys.stderr)


def explain(uri: str, error: BaseException) -> str:
    """Returns in one line why a store fails, and the remedy; MLflow's own message is often about something else.

    Args:
        uri: of the store.
        error: as MLflow or a database's driver raised it. The reason is the driver's or the system's error behind it.
    """
    reason, answers = str(error), True
    while True:
        if isinstance(cause := getattr(error, "orig", None), Exception) or isinstance(error, sqlite3.Error):
            reason = str(cause or error)  # SQLAlchemy's error of a driver
            answers = "connect" not in reason
            break
        if isinstance(error, OSError) and error.strerror:
            reason, answers = error.strerror, False
        elif "timed out" in str(error).lower():
            reason, answers = "timed out", False
        following = error.__cause__ or error.__context__
        if following is None:
            break
        error = following
    reason = reason.rpartition("Response body: ")[2].strip() or type(error).__name__
    if NO_SPACE in reason:
        reason = NO_SPACE
    line = shortened(reason.splitlines()[0], 140)
    remedy = next((remedy for text, remedy in REMEDIES.items() if text in reason), "")
    if not remedy and not answers:
        remedy = "start it, or name another store in MLFLOW_TRACKING_URI"
    return without_secrets(f"{uri}: {line}{'; ' if remedy else ''}{remedy}")


def artifact_path(location: str) -> Path:
    """Returns the path of artefacts of a SQLite store: beside the store where they are there, else their location.

    Args:
        location: a path or `file:` URI in the store.
    """
    path, file, match = to_path(location), sqlite_file(), ROOT.fullmatch(location)
    if file is not None and match is not None:  # a moved store that cannot be written
        beside = file.with_name(ARTIFACTS) / path.relative_to(to_path(match[1]))
        return beside if beside.exists() else path
    return path


def to_path(location: str) -> Path:
    """Returns the path that a `file:` URI or a path names."""
    if not location.startswith("file:"):
        return Path(location)
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))


def _was_moved(database: sqlite3.Connection, root: str, here: Path) -> bool:
    former = to_path(root)
    if former.exists() and here.exists() and here.samefile(former):
        return False
    if any((here / path.relative_to(former)).parent.exists() for path in _run_paths(database, root)):
        return True
    query = "select artifact_location from experiments where name = ?"
    in_use = database.execute(query, (experiment_name(),)).fetchone()
    return not former.exists() and in_use is not None and f"{in_use[0]}/".startswith(f"{root}/")


def _run_paths(database: sqlite3.Connection, root: str) -> list[Path]:
    query = "select artifact_uri from runs where substr(artifact_uri, 1, ?) = ?"
    return [to_path(location) for (location,) in database.execute(query, (len(root) + 1, f"{root}/"))]


def _configured() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or DEFAULT_URI
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "").strip() or uri
    if registry != uri:
        raise TrackingError(
            f"MLFLOW_REGISTRY_URI: {without_secrets(registry)}: runs and models are in one store here; unset it, "
            "and name the store in MLFLOW_TRACKING_URI"
        )
    scheme, separator, rest = uri.partition("://")
    if scheme.startswith("sqlite") and (not uri.startswith(SQLITE) or rest in ("/", "/:memory:") or "?" in rest):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI: {without_secrets(uri)}: not a file as it is named here: sqlite:///FILE, without "
            "driver and options"
        )
    if not scheme.startswith(("sqlite", "http")) and rest.count("@") > 1:  # the driver would print half of it
        raise TrackingError("MLFLOW_TRACKING_URI: the user or the password has an @; write it as %40")
    if not scheme.startswith("databricks") and not (separator and rest and _has_store(scheme.partition("+")[0])):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI: {without_secrets(uri)}: not a store; it is like sqlite:///mlflow.db or https://mlflow.example"
        )
    return uri


def _has_store(scheme: str) -> bool:
    """Returns whether MLflow, or a plugin of it, opens a store of this scheme."""
    if scheme in SCHEMES:
        return True
    from importlib.metadata import entry_points

    return scheme != "file" and scheme in entry_points(group="mlflow.tracking_store").names
