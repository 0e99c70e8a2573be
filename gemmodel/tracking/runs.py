"""The experiment log, and the way of a model into the registry; `versions` has what comes after that.

A run is found again by the hash of the model that it trained, so no run id stands in any file.
"""

import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Of a server that is gone or frozen: a call fails after 13 s or two minutes, and not after several or many minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
import yaml
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from gemmodel.core.errors import TrackingError
from gemmodel.tracking import metric_buffer

logging.getLogger("mlflow").setLevel(logging.WARNING)

EXPERIMENT = "gemstones"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces
TABLES_TAG = "mlflow.loggedArtifacts"  # by which the UI knows a table
MODEL_TAG = "model_sha256"


def project_root() -> Path:
    """Returns the project's root; in the copy that `dvc exp run --temp` or `--queue` works in, that of the original."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return here


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Ends the block without an error where MLflow fails with one of these error codes."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise


@contextmanager
def mlflow_store() -> Iterator[None]:
    """Opens the store, creates it once and under a lock, and turns its failures into one line.

    Raises:
        TrackingError: the store does not answer, or is of another MLflow version.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    lock = project_root() / "mlflow.db.lock"
    if uri.startswith("sqlite:///"):  # a relative path starts at the root, not in a temporary copy of it
        file = project_root() / uri.removeprefix("sqlite:///")
        uri, lock = f"sqlite:///{file.as_posix()}", file.with_name(f"{file.name}.lock")  # other checkouts may share it
    mlflow.set_tracking_uri(uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    try:
        with FileLock(lock):
            if mlflow.get_experiment_by_name(name) is None:
                # A local store would put artefacts beside the working directory, which may be a temporary copy.
                local = (project_root() / "mlruns").as_uri() if uri.startswith("sqlite:") else None
                with ignoring("RESOURCE_ALREADY_EXISTS"):  # by another machine, just now
                    mlflow.create_experiment(name, artifact_location=local, tags=KIND)
            mlflow.set_experiment(name)
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        line = str(error).splitlines()[0]
        if "database schema" in line or "revision identified by" in line:
            raise TrackingError(
                f"{uri}: this store belongs to another version of MLflow than {mlflow.__version__}. If it is older, "
                f"back it up and run `mlflow db upgrade {uri}`; if newer, install its MLflow or set MLFLOW_TRACKING_URI"
            ) from None
        raise TrackingError(f"{uri}: {line}") from error


@contextmanager
def training_run(
    name: str, parameters: Mapping[str, Any], datasets: Mapping[str, Path], *, device: str
) -> Iterator[metric_buffer.MetricBuffer]:
    """Opens the run of a training, with all that leads back to how it came about.

    Args:
        name: of the run.
        parameters: sections by name, nested; logged as `section.key`.
        datasets: what is read, by its role; each is logged with its DVC hash.
        device: in words.

    Yields:
        What takes the figures of each epoch and, last, what the training came to. From here on nothing fails because
        the store does.
    """
    mlflow.set_system_metrics_sampling_interval(1)
    mlflow.set_system_metrics_samples_before_logging(1)
    with mlflow_store():
        mlflow.start_run(run_name=name, tags=provenance() | {"device": device}, log_system_metrics=True)
        figures, status = metric_buffer.MetricBuffer(active_run_id(), _unsent()), "FAILED"
        try:
            mlflow.log_params(pd.json_normalize(dict(parameters)).iloc[0].to_dict())
            log_datasets(datasets)
            yield figures
            status = "FINISHED"
        finally:
            figures.wait()
            with suppress(MlflowException):
                mlflow.end_run(status)


@contextmanager
def model_run(model_sha256: str) -> Iterator[None]:
    """Opens the run that trained a model again, or, where this store does not know it, one tagged with its hash.

    Figures that the training could not log, since the server was away, are logged first.
    """
    with mlflow_store():
        metric_buffer.flush_pending(model_sha256, _unsent())
        if found := find_run(f"tags.{MODEL_TAG} = '{model_sha256}'"):
            with mlflow.start_run(run_id=found):
                yield
        else:
            tags = provenance() | {MODEL_TAG: model_sha256, "trained": "elsewhere"}
            with mlflow.start_run(run_name=f"fetched-{model_sha256[:8]}", tags=tags):
                yield


def find_run(query: str) -> str | None:
    """Returns the id of the latest run that a query of MLflow's finds, or None."""
    found = mlflow.search_runs(filter_string=query, order_by=["start_time DESC"], max_results=1)
    return str(found.run_id[0]) if len(found) else None


def log_metrics(values: Mapping[str, float], epoch: int | None = None) -> None:
    """Logs figures, those of one epoch or final ones, in one call."""
    mlflow.log_metrics({name: float(value) for name, value in values.items()}, step=epoch)


def log_datasets(datasets: Mapping[str, Path]) -> None:
    """Logs what was read, by its role, with the hash that DVC knows it by."""
    inputs = []
    for role, path in datasets.items():
        digest = dvc_hash(path)
        source = json.dumps({"path": path.as_posix(), "md5": digest})
        entity = Dataset(path.as_posix(), digest or "not from DVC", "dvc", source)
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", role)]))
    mlflow.MlflowClient().log_inputs(active_run_id(), inputs)


def log_files(*paths: Path, folder: str | None = None) -> None:
    """Logs files as they are, into a folder of the run where one is named."""
    for path in paths:
        mlflow.log_artifact(str(path), folder)


def log_table(table: pd.DataFrame, name: str) -> None:
    """Logs a table that the UI can show and compare, under a name that ends in .json; an older one is replaced.

    `mlflow.log_table` would append its rows where a stage runs again for the same run.
    """
    mlflow.log_text(table.to_json(orient="split", index=False), name)
    tables = json.loads(mlflow.MlflowClient().get_run(active_run_id()).data.tags.get(TABLES_TAG, "[]"))
    if name not in [table["path"] for table in tables]:
        mlflow.set_tag(TABLES_TAG, json.dumps([*tables, {"path": name, "type": "table"}]))


def dvc_hash(path: Path) -> str | None:
    """Returns the hash in dvc.lock of an output, or None outside of a DVC run."""
    if "DVC_STAGE" not in os.environ or not Path("dvc.lock").is_file():
        return None
    stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    outs = (out for stage in stages.values() for out in stage.get("outs", ()))
    return next((str(out["md5"]) for out in outs if out["path"] == path.as_posix()), None)


def active_run_id() -> str:
    """Returns the open run's id."""
    run = mlflow.active_run()
    assert run is not None, "inside training() or run_of()"
    return str(run.info.run_id)


def _unsent() -> Path:
    return project_root() / "logs" / "unsent"


def provenance() -> dict[str, str]:
    """Returns the git commit, the files that differ from it, and the DVC experiment, as tags, where there are any."""
    tags = {"dvc_experiment": os.environ.get("DVC_EXP_NAME", "")}
    try:
        tags["mlflow.source.git.commit"] = _git("rev-parse", "HEAD")
        tags["git_uncommitted"] = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        pass
    return {name: value for name, value in tags.items() if value}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
