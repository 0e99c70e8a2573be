"""A search in the experiment log: a run a study, and nested in it a run a trial."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
import pandas as pd

from gemmodel.tracking import runs

STUDY_TAG = "study"  # the search's own identity, which its runs are found again by
TRIAL_TAG = "trial"
TABLE = "trials.json"


def study(name: str, identity: str, settings: Mapping[str, Any]) -> str:
    """Returns the id of a study's run, which is made where this store has none; for one process at a time.

    Args:
        name: of the study.
        identity: which no other study has, not even a later one of this name.
        settings: what all its trials have in common, logged with a run that is made.
    """
    with runs.mlflow_store():
        client, found = mlflow.MlflowClient(), runs.find_run(f"tags.{STUDY_TAG} = '{identity}'")
        if found is None:
            tags = runs.provenance() | {STUDY_TAG: identity}
            with mlflow.start_run(run_name=name, tags=tags) as run:
                mlflow.log_params(dict(settings))
            found = str(run.info.run_id)
        client.update_run(found, status="RUNNING")
        return found


@contextmanager
def trial(parent: str, number: int, parameters: Mapping[str, Any]) -> Iterator[None]:
    """Opens the run of a trial; that of a trial that was killed is gone on with.

    Args:
        parent: the study's run.
        number: of the trial in its study; of one that is done again, of its first time.
        parameters: sections by name, nested; logged as `section.key`.
    """
    with runs.mlflow_store():
        known = runs.find_run(f"tags.`mlflow.parentRunId` = '{parent}' and tags.{TRIAL_TAG} = '{number}'")
        opened: dict[str, Any] = (
            {"run_id": known} if known else {"run_name": f"trial-{number}", "parent_run_id": parent}
        )
        with mlflow.start_run(**opened):
            mlflow.set_tag(TRIAL_TAG, number)
            mlflow.log_params(pd.json_normalize(dict(parameters)).iloc[0].to_dict())
            yield


def end(state: str, values: Mapping[str, float], reason: str = "") -> None:
    """Logs what the open trial came to: `complete`, `pruned` or `failed`, its final figures, and why it failed."""
    mlflow.set_tags({"state": state} | ({"reason": reason} if reason else {}))
    runs.log_metrics(values)


def log_summary(parent: str, table: pd.DataFrame, best: Mapping[str, Any], *, over: bool) -> None:
    """Logs the standing of a study to its run: all trials as a table, and the best one.

    Args:
        parent: the study's run.
        table: a row a trial.
        best: what there is to tell of it by name, logged as tags; its `value` and `std` also as metrics.
        over: whether nobody works on it any longer.
    """
    with runs.mlflow_store():
        with mlflow.start_run(run_id=parent):
            runs.log_table(table, TABLE)
            mlflow.log_metrics({f"best_{name}": best[name] for name in ("value", "std") if name in best})
            mlflow.set_tags({f"best_{name}": value for name, value in best.items()})
        if not over:
            mlflow.MlflowClient().update_run(parent, status="RUNNING")
