"""What a training run is told, kept until the store has it: so no outage stops a training or leaves a gap in it."""

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import mlflow
from matplotlib.figure import Figure
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from requests import RequestException

from gemmodel.core import files

FAILURES = (MlflowException, RequestException)  # of a store that is away; uploads fail with the second
FIGURES, CURVES = "figures.json", "learning_curves.png"


class MetricBuffer:
    """Figures on their way to one run.

    A thread sends them, so that no server holds a training up; what a failed call had is sent again with the next one.
    Times are those of the epochs, and a store takes an equal figure for the one it has, so sending twice does no harm.

    Args:
        run_id: of the open run.
        folder: where a training that ends without the server leaves what it had to tell, by its model's hash.
    """

    def __init__(self, run_id: str, folder: Path) -> None:
        self._run_id, self._folder, self._client = run_id, folder, mlflow.MlflowClient()
        self._waiting: list[Metric] = []
        self._sender: threading.Thread | None = None
        self._away = False

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Takes the figures of an epoch, counted from 0, and returns at once."""
        self._take(values, epoch)
        if self._sender is None or not self._sender.is_alive():
            self._sender = threading.Thread(target=self._try, daemon=True)
            self._sender.start()

    def wait(self) -> None:
        """Returns when no call is under way; one to a server that is away ends after MLflow's retries."""
        if self._sender is not None:
            self._sender.join()

    def finish(self, model_sha256: str, tag: str, values: Mapping[str, float], curves: Figure) -> None:
        """Logs what the training came to; where the store is away, keeps all that it has not got, and says so.

        Args:
            model_sha256: of the model.
            tag: that the run is to have, with the hash as its value.
            values: of the model.
            curves: by epoch.
        """
        self._take(values, 0)
        self.wait()
        try:
            self._send({tag: model_sha256})
            mlflow.log_figure(curves, CURVES)
        except FAILURES as error:
            with files.atomic_write(self._folder / model_sha256) as new:
                new.mkdir()
                metrics = [[metric.key, metric.value, metric.timestamp, metric.step] for metric in self._waiting]
                kept = {"store": mlflow.get_tracking_uri(), "run": self._run_id, "tags": {tag: model_sha256}}
                files.write_json(new / FIGURES, kept | {"metrics": metrics})
                curves.savefig(new / CURVES)
            print(f"{_told(error)}; {len(metrics)} figures are kept, and the next stage that reaches it logs them")

    def _take(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        self._waiting += [Metric(name, float(value), now, step) for name, value in values.items()]

    def _send(self, tags: Mapping[str, str] | None = None) -> None:
        batch = list(self._waiting)
        self._client.log_batch(self._run_id, batch, tags=[RunTag(*tag) for tag in (tags or {}).items()])
        del self._waiting[: len(batch)]

    def _try(self) -> None:
        try:
            self._send()
            if self._away:
                print(f"{mlflow.get_tracking_uri()}: answers again; it has all figures", flush=True)
            self._away = False
        except FAILURES as error:
            if not self._away:
                print(f"{_told(error)}; the training goes on, and its figures are kept for later", flush=True)
            self._away = True


def flush_pending(model_sha256: str, folder: Path) -> None:
    """Logs what the training of a model left to be told to this store, if anything, to the run that it belongs to.

    Args:
        model_sha256: of the model.
        folder: as of the `Outbox`.
    """
    left = folder / model_sha256
    if not left.is_dir():
        return
    kept = files.read_json(left / FIGURES)
    if kept["store"] != mlflow.get_tracking_uri():
        return
    try:
        with mlflow.start_run(run_id=kept["run"]):
            tags = [RunTag(*tag) for tag in kept["tags"].items()]
            mlflow.MlflowClient().log_batch(kept["run"], [Metric(*metric) for metric in kept["metrics"]], tags=tags)
            mlflow.log_artifact(str(left / CURVES))
        print(f"{kept['store']}: {len(kept['metrics'])} figures of the training logged that came while it was away")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # somebody deleted the run
            raise
    shutil.rmtree(left)


def _told(error: Exception) -> str:
    return f"{mlflow.get_tracking_uri()}: {str(error).splitlines()[0].split(' with exception ')[0]}"
