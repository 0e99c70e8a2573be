"""Metrics are buffered until the store has them: an outage neither stops a training nor leaves a gap in its metrics."""

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from requests import RequestException

from gemmodel.core import files
from gemmodel.core.errors import DataError, without_secrets
from gemmodel.tracking import store

FAILURES = (MlflowException, RequestException)  # of a store that is unreachable; uploads fail with the second
METRICS = "metrics.json"
FORMER_METRICS = "figures.json"  # of version 0.1


def grouped(name: str) -> str:
    """Returns Keras' name of a metric under the part of the photos that it is of, by which MLflow's UI groups charts.

    `val_loss` is `val/loss`, `best_val_loss` `val/best_loss`, and `loss` and `epochs` are `train/loss` and
    `train/epochs`.
    """
    best = "best_" if name.startswith("best_") else ""
    rest = name.removeprefix(best)
    part = "val" if rest.startswith("val_") else "train"
    return f"{part}/{best}{rest.removeprefix('val_')}"


class MetricBuffer:
    """Metrics on their way to one run.

    A thread sends them, so a slow server does not delay the training. What a failed call had is sent again with the
    next one. Timestamps are those of the epochs, and a store treats an equal metric as the one it has, so sending
    twice does no harm.

    Args:
        run_id: of the open run.
        folder: where a training that ends without the server stores what it could not log, by its model's hash.
    """

    def __init__(self, run_id: str, folder: Path) -> None:
        self._run_id, self._folder, self._client = run_id, folder, mlflow.MlflowClient()
        self._pending: list[Metric] = []
        self._sender: threading.Thread | None = None
        self._unreachable = False

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Takes the metrics of an epoch, counted from 0, by Keras' names, and returns at once."""
        self._add(values, epoch)
        if self._sender is None or not self._sender.is_alive():
            self._sender = threading.Thread(target=self._try_send, daemon=True)
            self._sender.start()

    def wait(self) -> None:
        """Returns when no call is in progress; one to an unreachable server ends after MLflow's retries."""
        if self._sender is not None:
            self._sender.join()

    def finish(self, model_sha256: str, tag: str, values: Mapping[str, float], curves: Path) -> None:
        """Logs the result of the training; where the store is unreachable, stores all that it lacks, and says so.

        Args:
            model_sha256: of the model.
            tag: the run's tag that holds this hash.
            values: metrics of the model.
            curves: the picture of its learning curves.
        """
        self._add(values, 0)
        self.wait()
        try:
            self._send({tag: model_sha256})
            mlflow.log_artifact(str(curves))
        except FAILURES as error:
            with files.atomic_write(self._folder / model_sha256) as new:
                new.mkdir()
                metrics = [[metric.key, metric.value, metric.timestamp, metric.step] for metric in self._pending]
                uri = store.without_login(mlflow.get_tracking_uri())
                unsent = {"store": uri, "run": self._run_id, "tags": {tag: model_sha256}}
                files.write_json(new / METRICS, unsent | {"metrics": metrics})
                shutil.copy(curves, new)
            print(f"{_message(error)}; {len(metrics)} metrics are stored, and the next stage that reaches it logs them")

    def _add(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        self._pending += [Metric(grouped(name), float(value), now, step) for name, value in values.items()]

    def _send(self, tags: Mapping[str, str] | None = None) -> None:
        batch = list(self._pending)
        self._client.log_batch(self._run_id, batch, tags=[RunTag(*tag) for tag in (tags or {}).items()])
        del self._pending[: len(batch)]

    def _try_send(self) -> None:
        try:
            self._send()
            if self._unreachable:
                uri = without_secrets(mlflow.get_tracking_uri())
                print(f"{uri}: reachable again; it has all metrics", flush=True)
            self._unreachable = False
        except FAILURES as error:
            if not self._unreachable:
                print(f"{_message(error)}; the training continues, and its metrics are kept for later", flush=True)
            self._unreachable = True


def flush_pending(model_sha256: str, folder: Path) -> None:
    """Logs what the training of a model could not log to this store, if anything, to the run that it belongs to.

    Args:
        model_sha256: of the model.
        folder: of the `MetricBuffer`.
    """
    pending = folder / model_sha256
    if not pending.is_dir():
        return
    former = pending / FORMER_METRICS
    try:
        unsent = files.read_json(former if former.exists() else pending / METRICS)
        uri, metrics = unsent["store"], [Metric(*metric) for metric in unsent["metrics"]]
    except (DataError, KeyError, TypeError):
        print(f"{pending}: damaged, as by a power cut: its metrics are lost", flush=True)
        shutil.rmtree(pending)
        return
    if store.without_login(uri) != store.without_login(mlflow.get_tracking_uri()):
        return
    try:
        with mlflow.start_run(run_id=unsent["run"]):
            tags = [RunTag(*tag) for tag in unsent["tags"].items()]
            mlflow.MlflowClient().log_batch(unsent["run"], metrics, tags=tags)
            for picture in pending.glob("*.png"):
                mlflow.log_artifact(str(picture))
        print(f"{without_secrets(uri)}: logged {len(metrics)} metrics that the training could not log")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # somebody deleted the run
            raise
    shutil.rmtree(pending)


def _message(error: Exception) -> str:
    return store.explain(mlflow.get_tracking_uri(), error).partition("; ")[0]
