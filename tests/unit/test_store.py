"""Where the MLflow store and its artefacts are, without MLflow."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gemmodel.core.errors import DataError, TrackingError, without_secrets
from gemmodel.tracking import store

COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
Locations = dict[str, str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Work in a folder, with the default store."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)

    def work_in(name: str) -> Path:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return work_in


def write(folder: Path, root: str, *, files: bool = True, experiment: str = store.EXPERIMENT) -> None:
    """Write a store whose artefacts are in a root, and the files of its run beside it."""
    locations = {"experiments": root, "runs": f"{root}/r1/artifacts", "logged_models": f"{root}/models/m-1/artifacts",
                 "model_versions": f"{root}/models/m-1/artifacts"}  # fmt: skip
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in COLUMNS.items():
            extra = {"model_versions": ", source text", "experiments": ", name text"}.get(table, "")
            database.execute(f"create table {table} ({column} text{extra})")
            database.execute(f"insert into {table} ({column}) values (?)", (locations[table],))
        database.execute("update experiments set name = ?", (experiment,))
        database.execute("insert into experiments values ('s3://bucket/mlruns/1', 'in a bucket')")
    if files:
        (folder / "mlruns" / "r1" / "artifacts").mkdir(parents=True)


def locations(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return [
            row[0] for table, column in COLUMNS.items() for row in database.execute(f"select {column} from {table}")
        ]


@pytest.mark.parametrize("name", ["gems", "my%20gems", "a?b", "x#y é"])
@pytest.mark.parametrize("uri", [True, False])
def test_a_moved_store_finds_its_artefacts(
    project: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, uri: bool
) -> None:
    folder, former = project(name), tmp_path / "former%41" / "mlruns"
    write(folder, former.as_uri() if uri else former.as_posix())
    store.relocate()
    new = (folder / "mlruns").as_uri() if uri else (folder / "mlruns").as_posix()
    expected = [new, "s3://bucket/mlruns/1", f"{new}/r1/artifacts", *[f"{new}/models/m-1/artifacts"] * 2]
    assert locations(folder) == expected
    assert f"its artefacts were in {former}" in capsys.readouterr().err
    store.relocate()
    assert (locations(folder), capsys.readouterr().err) == (expected, "")


@pytest.mark.parametrize(("files", "corrected"), [(True, True), (False, False)])
def test_a_store_whose_former_place_exists_is_corrected_only_where_it_has_the_files(
    project: Callable[[str], Path], tmp_path: Path, files: bool, corrected: bool
) -> None:
    folder, former = project("copy"), tmp_path / "original" / "mlruns"
    (former / "r1" / "artifacts").mkdir(parents=True)
    write(folder, former.as_uri(), files=files)
    store.relocate()
    assert locations(folder)[2].startswith(((folder if corrected else former.parent) / "mlruns").as_uri())
    assert (former / "r1" / "artifacts").is_dir()


@pytest.mark.parametrize(
    ("experiment", "files", "corrected"), [("gemstones", False, True), ("other", False, False), ("other", True, True)]
)
def test_another_experiment_whose_disk_is_away_keeps_its_locations(
    project: Callable[[str], Path], tmp_path: Path, experiment: str, files: bool, corrected: bool
) -> None:
    folder, disk = project("gems"), tmp_path / "disk" / "mlruns"
    write(folder, disk.as_uri(), files=files, experiment=experiment)
    before = locations(folder)
    store.relocate()
    assert (locations(folder) != before) == corrected


def test_artefacts_beside_a_store_that_cannot_be_written_are_found(
    project: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = project("my%20gems")
    write(folder, "file:///former%20place/mlruns")
    assert store.artifact_path("file:///former%20place/mlruns/r1/artifacts") == folder / "mlruns" / "r1" / "artifacts"
    assert store.artifact_path("file:///former%20place/mlruns/r2") == Path("/former place/mlruns/r2")


@pytest.mark.parametrize(
    ("variable", "folder", "uri", "file"),
    [
        (None, "gems", "sqlite:///{}/gems/mlflow.db", "gems/mlflow.db"),
        (" ", "my gems", "sqlite:///{}/my gems/mlflow.db", "my gems/mlflow.db"),
        (None, "my%20gems", "sqlite:///mlflow.db", "my%20gems/mlflow.db"),
        (None, "a?b/.dvc/tmp/exps/tmp1", "sqlite:///../../../../mlflow.db", "a?b/mlflow.db"),
        ("http://host:5000", "gems", "http://host:5000", None),
    ],
)
def test_the_uri_is_what_mlflow_reads_as_the_file(
    project: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    variable: str | None, folder: str, uri: str, file: str | None,
) -> None:  # fmt: skip
    project(folder)
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert store.tracking_uri() == uri.format(tmp_path.as_posix())
    assert store.sqlite_file() == (None if file is None else tmp_path / file)
    if file is not None:
        assert Path(make_url(store.tracking_uri()).database or "").resolve() == tmp_path / file


def test_a_store_that_mlflow_would_open_elsewhere_is_refused(
    project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project("gems")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///../shared/my%2520.db")
    with pytest.raises(TrackingError, match=r"my%20\.db: MLflow cannot open"):
        store.tracking_uri()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("MLFLOW_TRACKING_URI", uri) for uri in ("./mlruns", "file:///x", "ftp://host/x", "http://", "sqlite:x.db")],
        *[("MLFLOW_TRACKING_URI", f"sqlite{end}") for end in (":///", "://x.db", ":///:memory:")],
        ("MLFLOW_REGISTRY_URI", "http://x"),
    ],
)
def test_a_variable_that_names_no_usable_store_is_refused(
    project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    project("gems")
    monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match=f"{name}: {value}: "):
        store.tracking_uri()


@pytest.mark.parametrize("query", ["mode=ro", "uri=true"])
def test_options_of_sqlite_are_refused(
    project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    project("gems")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///x.db?{query}")
    with pytest.raises(TrackingError, match="without driver and options"):
        store.check_exists()


def test_the_projects_root_is_named_below_it(project: Callable[[str], Path]) -> None:
    root = project("gems")
    for name in ("dvc.yaml", "params.yaml"):
        (root / name).touch()
    project("gems/data/clean")
    with pytest.raises(DataError, match=rf"no such registry; run this in the project's root, {root}$"):
        store.check_exists()


def test_registering_makes_the_store_where_dvc_has_nothing_to_run(project: Callable[[str], Path]) -> None:
    (project("gems") / "models").mkdir()  # as after `dvc pull`
    with pytest.raises(DataError, match=r"no such registry; `gemmodel register` creates one"):
        store.check_exists()


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_secrets("postgresql+psycopg2://me:p@ss@host/db") == "postgresql+psycopg2://me:***@host/db"
    message = "API request to https://me:secret@host/api failed: host: see b@c"
    assert without_secrets(message) == message.replace("secret", "***")
    assert without_secrets("sqlite:////a:b@c.db") == "sqlite:////a:b@c.db"
    assert without_secrets("postgresql://me:p/ss@host/db?sslpassword=abc&x=1") == (
        "postgresql://me:***@host/db?sslpassword=***&x=1"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a long token\n")
    assert without_secrets("Invalid header value: 'Bearer a long token'") == "Invalid header value: 'Bearer ***'"


def test_a_full_disk_is_told_where_mlflow_lists_failed_downloads() -> None:
    listed = "The following failures occurred while downloading one or more artifacts from file:///mlruns/m-1:"
    failure = "##### File MLmodel #####\n[Errno 28] No space left on device"
    line = store.explain("sqlite:///mlflow.db", RuntimeError(f"{listed}\n{failure}"))
    assert line == f"sqlite:///mlflow.db: {store.NO_SPACE}; {store.REMEDIES[store.NO_SPACE]}"
