"""A search in the experiment log: one run per study and, nested in it, one run per trial."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlflow
import pandas as pd

from gemmodel.tracking import live_runs, runs
from gemmodel.tracking.metric_buffer import grouped

STUDY_TAG = "study"  # the study's identity, by which its run is found again
TRIAL_TAG = "trial"
TABLE = "trials.json"


class StudyRun(NamedTuple):
    """The run of a study, and the tag of this process's runs."""

    run_id: str
    process: dict[str, str]


@contextmanager
def study_run(name: str, identity: str, config: Mapping[str, Any]) -> Iterator[StudyRun]:
    """Opens a study's run, and creates it where this store has none; entered by one process at a time.

    The run's status stays RUNNING; see `log_summary`. A run of a killed process is ended by the next one.

    Args:
        name: name of the study.
        identity: unique to the study, also among later ones of the same name.
        config: the settings that all its trials share; logged as parameters of a new run.
    """
    with runs.mlflow_store(), live_runs.live_process(runs.running()) as process:
        run_id = runs.find_run(f"tags.{STUDY_TAG} = '{identity}'")
        if run_id is None:
            tags = runs.provenance() | {STUDY_TAG: identity}
            with mlflow.start_run(run_name=name, tags=tags) as run:
                mlflow.log_params(dict(config))
            run_id = str(run.info.run_id)
        mlflow.MlflowClient().update_run(run_id, status="RUNNING")
        mlflow.MlflowClient().set_tag(run_id, *next(iter(process.items())))
        yield StudyRun(run_id, process)


@contextmanager
def trial_run(parent: StudyRun, number: int, parameters: Mapping[str, Any]) -> Iterator[None]:
    """Opens the run of a trial; the run of a trial that was killed is opened again.

    Args:
        parent: the study's run.
        number: the trial's number in its study; of a trial that was queued again, its original number.
        parameters: nested mapping of sections by name; logged as `section.key`.
    """
    with runs.mlflow_store():
        run_id = runs.find_run(f"tags.`mlflow.parentRunId` = '{parent.run_id}' and tags.{TRIAL_TAG} = '{number}'")
        options: dict[str, Any] = (
            {"run_id": run_id} if run_id else {"run_name": f"trial-{number}", "parent_run_id": parent.run_id}
        )
        with mlflow.start_run(**options, tags=parent.process) as run:
            mlflow.set_tag(TRIAL_TAG, number)
            values = pd.json_normalize(dict(parameters)).iloc[0].to_dict()
            # MLflow refuses other values, and those that do not belong to the study, such as the device, may change.
            mlflow.log_params({name: value for name, value in values.items() if name not in run.data.params})
            yield


def log_epoch(epoch: int, values: Mapping[str, float], *, seed: int | None = None) -> None:
    """Logs the metrics of an epoch, by Keras' names, to the open trial; of one of its repeats with the seed's name."""
    suffix = "" if seed is None else f"_seed_{seed}"
    runs.log_metrics({grouped(name) + suffix: value for name, value in values.items()}, epoch)


def log_result(state: str, metrics: Mapping[str, float], reason: str = "") -> None:
    """Logs the result of the open trial.

    Args:
        state: `complete`, `pruned` or `failed`.
        metrics: its final metrics, as `best_val_loss` and `best_val_loss_std`.
        reason: why it failed or was pruned.
    """
    mlflow.set_tags({"state": state} | ({"reason": reason} if reason else {}))
    runs.log_metrics({grouped(name): value for name, value in metrics.items()})


def log_summary(parent: str, table: pd.DataFrame, best: Mapping[str, Any], status: str, *, metric: str) -> None:
    """Logs the state of a study to its run: a table of all trials, and the best one.

    Args:
        parent: id of the study's run.
        table: one row per trial.
        best: the best trial's number, value, std and changes by name, logged as tags; `value` and `std` as metrics too.
        status: in MLflow's words: FINISHED, RUNNING in other processes, or SCHEDULED to be resumed.
        metric: that ranks the trials, as `val_loss`.
    """
    with runs.mlflow_store():
        with mlflow.start_run(run_id=parent):
            runs.log_table(table, TABLE)
            names = {"value": grouped(f"best_{metric}"), "std": grouped(f"best_{metric}_std")}
            mlflow.log_metrics({name: best[key] for key, name in names.items() if key in best})
            mlflow.set_tags({f"best_{name}": value for name, value in best.items()})
        if status != "FINISHED":
            mlflow.MlflowClient().update_run(parent, status=status)
