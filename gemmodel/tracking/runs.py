"""Runs in MLflow's experiment log. A run is found by the hash of its model, so no file holds a run id."""

import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

# For a server that is down or frozen: a call fails after 13 s or two minutes, not after several or many minutes; with
# PostgreSQL after 10 s, not never.
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
import yaml
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.exceptions import MlflowException
from requests import RequestException

from gemmodel.core.errors import TrackingError
from gemmodel.tracking import live_runs, metric_buffer, store

logging.getLogger("mlflow").setLevel(logging.WARNING)
for name in ("store.db.utils", "system_metrics.system_metrics_monitor"):  # what they print is raised as well
    logging.getLogger(f"mlflow.{name}").setLevel(logging.CRITICAL)

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces
TABLES_TAG = "mlflow.loggedArtifacts"  # lists the artefacts that the UI shows as tables
MODEL_TAG = "model_sha256"
DATASET_TAG = "mlflow.data.context"  # of a dataset: its role, by which its metrics begin
NOTE_TAG = "mlflow.note.content"  # the description that the UI shows


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Ends the block without an error where MLflow fails with one of these error codes."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise


@contextmanager
def mlflow_store(*, create: bool = True) -> Iterator[None]:
    """Opens the store, creates it once and under a lock, and reports its failures in one line.

    Args:
        create: whether to create a SQLite file that is not there, and the experiment; false for what only needs the
            registry.

    Raises:
        DataError: the file is not there and is not to be created.
        TrackingError: the store does not answer, or is of another MLflow version.
    """
    if not create:
        store.check_exists()
    uri, file = store.tracking_uri(), store.sqlite_file()
    mlflow.set_tracking_uri(uri)
    # A server creates its tables itself; a file is created here, by one process at a time.
    lock = FileLock(file.with_name(f"{file.name}.lock")) if file else nullcontext()
    with store_errors(uri):
        _check_answers(uri)
        with ExitStack() as opening:
            try:
                opening.enter_context(lock)
            except OSError as error:
                raise TrackingError(
                    f"{file}: its folder cannot be written ({error.strerror}); make it writable, or name another store "
                    "in MLFLOW_TRACKING_URI"
                ) from None
            store.relocate()
            if create:
                _set_experiment(file)
        yield


def _set_experiment(file: Path | None) -> None:
    """Makes the project's experiment the active one, and creates it where the store, a SQLite file or not, has none."""
    name = store.experiment_name()
    if mlflow.get_experiment_by_name(name) is None:
        # MLflow's default is the working directory, which may be a temporary copy.
        local = file.with_name(store.ARTIFACTS).as_uri() if file else None
        with ignoring("RESOURCE_ALREADY_EXISTS"):  # by another machine, just now
            mlflow.create_experiment(name, artifact_location=local, tags=KIND)
    mlflow.set_experiment(name)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # which MLflow sets for processes that this one starts


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Reports failures of a store in one line.

    Raises:
        TrackingError: the store does not answer, or is of another MLflow version; or a variable of MLflow is wrong.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and "MLFLOW_" in str(error):  # a variable that MLflow cannot convert
            raise TrackingError(f"{error}; correct or unset it") from None
        if not isinstance(error, (MlflowException, RequestException, sqlite3.Error, *_database_errors())):
            raise
        if any(text in str(error) for text in ("database schema", "revision identified by")):
            raise TrackingError(
                f"{uri}: this store belongs to another version of MLflow than {mlflow.__version__}; if it is older, "
                "back it up and run `mlflow db upgrade URI`; if newer, install that MLflow or name another store"
            ) from None
        raise TrackingError(store.explain(uri, error)) from error


def _database_errors() -> tuple[type[Exception], ...]:
    """Returns SQLAlchemy's base class of errors if MLflow uses it; with a server it need not be installed."""
    return (sys.modules["sqlalchemy"].exc.SQLAlchemyError,) if "sqlalchemy" in sys.modules else ()


def _check_answers(uri: str) -> None:
    """Connects once to a database other than SQLite: MLflow would try for 100 s, and not at all without its driver.

    Raises:
        TrackingError: its driver is not installed, or the URI is none.
        SQLAlchemyError: it does not answer.
    """
    scheme = uri.partition("://")[0]
    if not scheme.startswith(("postgresql", "mysql", "mssql")):
        return
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    except (ImportError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = error if isinstance(error, ImportError) else "not a URI of a database"
        raise TrackingError(
            f"MLFLOW_TRACKING_URI: {scheme}: {reason}; for PostgreSQL write "
            "postgresql+psycopg2://USER:PASSWORD@HOST/NAME, and `pip install -e '.[team]'` brings its driver"
        ) from None
    with engine.connect():
        pass


def check_store() -> list[mlflow.entities.Run]:
    """Checks that the store answers and has this MLflow's tables, and changes nothing.

    Returns:
        The open runs in a SQLite file that began before this machine did, so their processes are gone.

    Raises:
        DataError: there is no SQLite file.
        TrackingError: the store does not answer, or is of another MLflow version.
    """
    store.check_exists()
    uri = store.tracking_uri()
    with store_errors(uri):
        _check_answers(uri)
        client = mlflow.MlflowClient(uri)
        if store.sqlite_file() is None:
            client.search_experiments(max_results=1)
            return []
        experiment = client.get_experiment_by_name(store.experiment_name())
        return live_runs.open_before_boot(client, experiment.experiment_id) if experiment else []


@contextmanager
def training_run(
    name: str, parameters: Mapping[str, Any], datasets: Mapping[str, Path], *, device: str
) -> Iterator[metric_buffer.MetricBuffer]:
    """Opens the run of a training, with its parameters, data and provenance.

    Args:
        name: of the run.
        parameters: sections by name, nested; logged as `section.key`.
        datasets: paths of the data by role; each is logged with its DVC hash.
        device: a description.

    Yields:
        A buffer for the metrics of each epoch and for the final result. From here on no failure of the store ends the
        training.
    """
    mlflow.set_system_metrics_sampling_interval(1)
    mlflow.set_system_metrics_samples_before_logging(1)
    with mlflow_store(), live_runs.live_process(running()) as process:
        tags = provenance() | {"device": device} | process
        mlflow.start_run(run_name=name, tags=tags, log_system_metrics=True)
        buffer, status = metric_buffer.MetricBuffer(active_run_id(), _unsent()), "FAILED"
        try:
            mlflow.log_params(pd.json_normalize(dict(parameters)).iloc[0].to_dict())
            log_datasets(datasets)
            yield buffer
            status = "FINISHED"
        finally:
            buffer.wait()
            with suppress(*metric_buffer.FAILURES):
                mlflow.end_run(status)


@contextmanager
def model_run(model_sha256: str) -> Iterator[None]:
    """Reopens the run that trained a model or, where this store does not have it, opens one tagged with its hash.

    Metrics that the training could not log because the server was unreachable are logged first.
    """
    with mlflow_store(), live_runs.live_process(running()) as process:
        metric_buffer.flush_pending(model_sha256, _unsent())
        if run_id := find_run(f"tags.{MODEL_TAG} = '{model_sha256}'"):
            with mlflow.start_run(run_id=run_id, tags=process):
                yield
        else:
            tags = provenance() | {MODEL_TAG: model_sha256, "trained": "elsewhere"} | process
            with mlflow.start_run(run_name=f"fetched-{model_sha256[:8]}", tags=tags):
                yield


def find_run(query: str) -> str | None:
    """Returns the id of the latest run that matches a query in MLflow's syntax, or None."""
    matches = mlflow.search_runs(filter_string=query, order_by=["start_time DESC"], max_results=1)
    return str(matches.run_id[0]) if len(matches) else None


def log_metrics(values: Mapping[str, float], epoch: int | None = None) -> None:
    """Logs metrics of an epoch, or final ones, in one call; also to the model that the run has logged, if any.

    A metric of a dataset begins with its role, such as `test/accuracy`.
    """
    client, now = mlflow.MlflowClient(), time.time_ns() // 1_000_000
    metrics = [Metric(name, float(value), now, epoch or 0) for name, value in values.items()]
    run = client.get_run(active_run_id())
    if models := run.outputs.model_outputs if run.outputs else []:
        metrics = _of_model(metrics, run, models[-1].model_id)
    client.log_batch(run.info.run_id, metrics)


def metric_name(text: str) -> str:
    """Returns a text without the characters that MLflow takes in no metric's name."""
    return " ".join(re.sub(r"[^\w/.: -]", " ", text, flags=re.ASCII).split())


def link_metrics(model_id: str, step: int) -> None:
    """Links the metrics of the open run to a model that it logs, and to their datasets.

    Args:
        model_id: of the logged model.
        step: the epoch whose weights the model has; of a metric without one, the latest value is linked.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(active_run_id())
    roles = _datasets(run)
    latest = []
    for name in run.data.metrics:
        if name.split("/")[0] in roles:
            history = client.get_metric_history(run.info.run_id, name)
            at_step = [metric for metric in history if metric.step == step]
            latest.append(max(at_step or history, key=lambda metric: metric.timestamp))
    client.log_batch(run.info.run_id, _of_model(latest, run, model_id))


def best_epoch() -> int:
    """Returns the epoch whose weights the open run's model has, also of a run of version 0.1; 0 where it has none."""
    metrics = mlflow.MlflowClient().get_run(active_run_id()).data.metrics
    return int(metrics.get("train/best_epoch", metrics.get("best_epoch", 0)))


def describe_run(name: str, note: str) -> None:
    """Sets the name and the description of the open run, unless somebody has changed the name.

    Args:
        name: the model's, its accuracy, and what it was trained on; a training gives it without the accuracy.
        note: Markdown.
    """
    client, run_id = mlflow.MlflowClient(), active_run_id()
    present = client.get_run(run_id).info.run_name or ""
    if re.fullmatch(
        rf"fetched-[0-9a-f]{{8}}|{re.escape(name.split(' ')[0])}( \d\.\d+)?(, \d+ gems, \d+ photos)?", present
    ):
        client.update_run(run_id, name=name)
    client.set_tag(run_id, NOTE_TAG, note)


def _datasets(run: mlflow.entities.Run) -> dict[str, Dataset]:
    """Returns the datasets of a run by their roles."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {tag.value: entry.dataset for entry in inputs for tag in entry.tags if tag.key == DATASET_TAG}


def _of_model(metrics: Iterable[Metric], run: mlflow.entities.Run, model_id: str) -> list[Metric]:
    """Returns metrics of a run as metrics of its model too, each linked to the dataset that its name begins with."""
    roles, linked = _datasets(run), []
    for metric in metrics:
        dataset = roles.get(metric.key.split("/")[0])
        linked.append(
            Metric(
                metric.key, metric.value, metric.timestamp, metric.step, model_id=model_id, run_id=run.info.run_id,
                dataset_name=dataset.name if dataset else None, dataset_digest=dataset.digest if dataset else None,
            )
        )  # fmt: skip
    return linked


def log_datasets(datasets: Mapping[str, Path]) -> None:
    """Logs paths of data by role, each with its DVC hash."""
    inputs = []
    for role, path in datasets.items():
        digest = dvc_hash(path)
        source = json.dumps({"path": path.as_posix(), "md5": digest})
        entity = Dataset(path.as_posix(), digest or "not from DVC", "dvc", source)
        inputs.append(DatasetInput(entity, [InputTag(DATASET_TAG, role)]))
    mlflow.MlflowClient().log_inputs(active_run_id(), inputs)


def log_files(*paths: Path, folder: str | None = None) -> None:
    """Logs files, into a folder of the run where one is named."""
    for path in paths:
        mlflow.log_artifact(str(path), folder)


def log_table(table: pd.DataFrame, name: str) -> None:
    """Logs a table that the UI can show and compare, under a name that ends in .json; replaces an older one.

    `mlflow.log_table` would append the rows when a stage runs again for the same run.
    """
    mlflow.log_text(table.to_json(orient="split", index=False), name)
    tables = json.loads(mlflow.MlflowClient().get_run(active_run_id()).data.tags.get(TABLES_TAG, "[]"))
    if name not in [table["path"] for table in tables]:
        mlflow.set_tag(TABLES_TAG, json.dumps([*tables, {"path": name, "type": "table"}]))


def dvc_hash(path: Path) -> str | None:
    """Returns an output's hash in dvc.lock, or None outside of a DVC run."""
    if "DVC_STAGE" not in os.environ or not Path("dvc.lock").is_file():
        return None
    stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    outs = (out for stage in stages.values() for out in stage.get("outs", ()))
    out = next((out for out in outs if out["path"] == path.as_posix()), None)
    if out is None or "md5" in out:
        return out and str(out["md5"])
    from dvc_data.hashfile.tree import Tree

    # Of a folder in a remote with `version_aware` DVC locks each file, and where the remote has it.
    tree = Tree.from_list([{name: file[name] for name in ("md5", "relpath")} for file in out["files"]])
    tree.digest()
    return str(tree.hash_info.value)


def active_run_id() -> str:
    """Returns the open run's id."""
    run = mlflow.active_run()
    assert run is not None, "only inside training_run or model_run"
    return str(run.info.run_id)


def running() -> Path:
    """Returns the folder of the files for `live_runs.live_process`."""
    return store.project_root() / "logs" / "running"


def end_killed() -> None:
    """Ends the runs of killed processes of this project.

    Raises:
        TrackingError: the store does not answer.
    """
    with mlflow_store(), live_runs.live_process(running()):
        pass


def _unsent() -> Path:
    return store.project_root() / "logs" / "unsent"


def provenance() -> dict[str, str]:
    """Returns the git commit, uncommitted files and the DVC experiment as tags, where there are any."""
    tags = {"dvc_experiment": os.environ.get("DVC_EXP_NAME", "")}
    try:
        tags["mlflow.source.git.commit"] = _git("rev-parse", "HEAD")
        status = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")  # a kill leaves no index.lock
        tags["git_uncommitted"] = _git(*status, "--", ".", ":!dvc.lock")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        pass
    return {name: value for name, value in tags.items() if value}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
