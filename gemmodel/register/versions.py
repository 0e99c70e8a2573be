"""The versions of a model in MLflow's registry: which is champion, which were, and what each has learnt from."""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from gemmodel.core import files
from gemmodel.core.errors import ModelError, TrackingError
from gemmodel.core.params import RegisterParams
from gemmodel.register import comparison, fingerprints, promotion, registry_lock
from gemmodel.tracking import runs

FORMER = "former_champions"  # a tag of the registered model: numbers, the last one last
BATCH = 200  # photos that a former model is asked at a time
TRAINING_SET, TEST_PREDICTIONS = "training_fingerprints.csv", "answers.csv"  # kept with each version


def find(name: str, model_sha256: str) -> ModelVersion | None:
    """Returns the version with a model's hash, the first one, or None."""
    wanted = f"name = '{name}' and tags.{runs.MODEL_TAG} = '{model_sha256}'"
    found = mlflow.MlflowClient().search_model_versions(wanted, order_by=["version_number ASC"], max_results=1)
    return found[0] if found else None


def get(name: str, number: str) -> ModelVersion:
    """Returns a version by its number."""
    return mlflow.MlflowClient().get_model_version(name, number)


def champion(name: str) -> ModelVersion | None:
    """Returns the champion, or None where there is none."""
    with runs.ignoring("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
        return mlflow.MlflowClient().get_model_version_by_alias(name, "champion")
    return None


def champion_source(name: str) -> tuple[str, str] | None:
    """Returns what MLflow calls the champion's source, and where it lies; None where there is no champion."""
    with runs.mlflow_store():
        found = champion(name)
    return (str(found.source), str(found.source)) if found else None


def fetch(source: str, folder: Path) -> None:
    """Fetches a registered model, as MLflow keeps it, into a new folder."""
    with runs.mlflow_store():
        mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder))


def decide_and_promote(
    version: ModelVersion,
    asked: pd.DataFrame,
    learnt_from: pd.DataFrame,
    test: Path,
    rule: RegisterParams,
    confirm: Callable[[], None],
) -> dict[str, Any]:
    """Decides whether a version is champion, entitles it, and keeps what the next decision needs.

    What was decided on the same test photos by the same rule is repeated. Before a title changes, the decision stands
    in the tag `pending`, and after all is done in the tag `decision`, so that a killed process's successor can tell.

    Args:
        version: of the new model, in its turn.
        asked: the fingerprints of the test photos, with the model's answers as `predicted`.
        learnt_from: the fingerprints of all photos that it was trained and selected on.
        test: the folder of the test photos.
        rule: the parameters.
        confirm: of the turn.

    Returns:
        The decision and its figures, as they stand in the version's tags too.
    """
    client, name, now = mlflow.MlflowClient(), version.name, champion(version.name)
    question = asdict(rule) | {"test_sha256": promotion.test_set_digest(asked)}
    decided, begun = (json.loads(version.tags.get(tag, "{}")) for tag in ("decision", "pending"))
    if question.items() <= decided.items():
        return dict(decided)
    if now is not None and now.version == version.version and question.items() <= begun.items():
        decision = begun
    else:
        _save_table(version, TRAINING_SET, learnt_from)
        _save_table(
            version,
            TEST_PREDICTIONS,
            pd.concat([_load_table(version, TEST_PREDICTIONS), asked[["photo", "predicted"]]]),
        )
        verdict = _verdict(version, now, asked, learnt_from, test, rule)
        decision = question | {
            "model_sha256": version.tags[runs.MODEL_TAG],
            "champion": verdict.champion,
            "reason": verdict.reason,
            "test_photos": len(asked),
            "accuracy": round(float((asked["actual"] == asked["predicted"]).mean()), 6),
            **verdict.figures,
        }
    confirm()
    client.set_model_version_tag(name, version.version, "pending", json.dumps(decision))
    client.set_registered_model_alias(name, "challenger", version.version)
    if decision["champion"]:
        _promote(name, version.version)
    for key, value in (decision | {"decision": json.dumps(decision)}).items():
        client.set_model_version_tag(name, version.version, key, str(value))
    return decision


def promote(name: str, number: str) -> str:
    """Makes a version champion, and returns what was done in one line.

    Raises:
        TrackingError: there is no such version.
    """
    version = None
    with runs.ignoring("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such number, no number
        version = get(name, number)
    if version is None:
        raise TrackingError(f"{name}: there is no version {number}; `make ui` shows those that there are")
    with registry_lock.registry_lock(name, version.run_id) as confirm:
        former = champion(name)
        if former is not None and former.version == version.version:
            return f"{name}: version {number} is champion already"
        confirm()
        _promote(name, version.version)
    return f"{name}: version {number} is champion now, {f'in place of {former.version}' if former else 'the first one'}"


def rollback(name: str) -> str:
    """Makes the former champion champion again, and returns what was done in one line.

    Raises:
        TrackingError: there is no champion, or none before it.
    """
    found = champion(name)
    if found is None:
        raise TrackingError(f"{name}: no version is champion; `gemmodel promote VERSION` makes it one")
    with registry_lock.registry_lock(name, found.run_id) as confirm:
        now = champion(name)
        former = _former(name, now)
        if now is None or not former:
            raise TrackingError(
                f"{name}: no version was champion before {found.version}; there is nothing to go back to"
            )
        confirm()
        _set_champion_alias(name, former[-1])
        mlflow.MlflowClient().set_registered_model_tag(name, FORMER, ",".join(former[:-1]))
    return f"{name}: version {former[-1]} is champion again, in place of {now.version}"


def _promote(name: str, number: str) -> None:
    """Makes a version champion; who was it before is noted first, so that a kill in between loses nobody."""
    client, before = mlflow.MlflowClient(), champion(name)
    if before is not None and before.version != number:
        client.set_registered_model_tag(name, FORMER, ",".join([*_former(name, before), str(before.version)]))
    _set_champion_alias(name, number)


def _set_champion_alias(name: str, number: str) -> None:
    """Sets the alias, and the champion's model card as the description of the registered model."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", number)
    client.update_registered_model(name, get(name, number).description or "")


def _former(name: str, now: ModelVersion | None) -> list[str]:
    """Returns the former champions that still exist; a last one that is champion was noted and then not replaced."""
    client = mlflow.MlflowClient()
    there = {str(found.version) for found in client.search_model_versions(f"name = '{name}'")}
    former = [n for n in client.get_registered_model(name).tags.get(FORMER, "").split(",") if n in there]
    while now is not None and former and former[-1] == str(now.version):
        former.pop()
    return former


def _verdict(
    version: ModelVersion,
    now: ModelVersion | None,
    asked: pd.DataFrame,
    learnt_from: pd.DataFrame,
    test: Path,
    rule: RegisterParams,
) -> promotion.Decision:
    if now is None:
        return promotion.Decision(True, "first model of this name")
    if now.version == version.version:
        return promotion.Decision(True, "champion already")
    figures: dict[str, Any] = {"champion_sha256": now.tags.get(runs.MODEL_TAG)}
    remedy = "compare the two on other photos, then `gemmodel promote`"
    known, kept = _load_table(now, TRAINING_SET), _load_table(now, TEST_PREDICTIONS)
    if known is None or kept is None:
        return promotion.Decision(False, f"which photos the champion has learnt from is not known; {remedy}", figures)
    seen = fingerprints.find_leaked(asked, known, learnt_from)
    if seen:
        told = f"the champion has learnt from {len(seen)} of the {len(asked)} test photos, {seen[0]} for one; {remedy}"
        return promotion.Decision(False, told, figures | {"leaked_test_photos": len(seen)})
    try:
        before = _answers(now, kept, asked, test)
    except ModelError as error:
        return promotion.Decision(False, f"the champion does not answer ({error}); {remedy}", figures)
    figures["champion_accuracy"] = round(float((before == asked["actual"]).mean()), 6)
    found = comparison.compare(asked, asked.assign(predicted=before))
    runs.log_table(found.table, "against_champion.json")
    for kind, changed in (("gained", found.gained), ("lost", found.lost)):
        if len(changed):
            mlflow.log_image(comparison.picture(changed, test), f"against_champion/{kind}.png")
    verdict = promotion.decide(found, rule)
    return replace(verdict, figures=figures | verdict.figures)


def _answers(version: ModelVersion, kept: pd.DataFrame, asked: pd.DataFrame, test: Path) -> pd.Series:
    """Returns a version's answers to the test photos, in their order; it is asked for those alone that are not kept."""
    new = asked[~asked["photo"].isin(kept["photo"])]
    if len(new):
        answers = _predict_in_subprocess(version, [test / file for file in new["file"]])
        kept = pd.concat([kept, pd.DataFrame({"photo": new["photo"], "predicted": answers})])
        _save_table(version, TEST_PREDICTIONS, kept)
    return asked["photo"].map(kept.drop_duplicates("photo").set_index("photo")["predicted"])


def _predict_in_subprocess(version: ModelVersion, photos: Sequence[Path]) -> list[str]:
    """Asks a version in a process of its own: its package `gemmodel` may be older than the one that runs here.

    Raises:
        ModelError: it cannot be loaded, or does not answer.
    """
    gems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        request, reply = Path(scratch) / "request.json", Path(scratch) / "reply.json"
        model = mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=scratch)
        options = ["-m", model, "-i", str(request), "-o", str(reply), "-t", "json", "--env-manager", "local"]
        for start in range(0, len(photos), BATCH):
            rows = [[base64.b64encode(path.read_bytes()).decode()] for path in photos[start : start + BATCH]]
            files.write_json(request, {"dataframe_split": {"columns": ["photo"], "data": rows}})
            command = [sys.executable, "-m", "mlflow", "models", "predict", *options]
            ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            if ended.returncode:
                raise ModelError((ended.stderr.strip() or "no reason given").splitlines()[-1])
            gems += [row["gem"] for row in files.read_json(reply)["predictions"]]
    return gems


def _save_table(version: ModelVersion, file: str, table: pd.DataFrame) -> None:
    """Stores a table of photos beside a version's model, in place of an older one."""
    with tempfile.TemporaryDirectory() as scratch:
        table.drop_duplicates("photo", keep="last").to_csv(Path(scratch) / file, index=False)
        mlflow.MlflowClient().log_model_artifact(str(version.source).removeprefix("models:/"), f"{scratch}/{file}")


def _load_table(version: ModelVersion, file: str) -> pd.DataFrame | None:
    """Returns a table that `_keep` stored, or None where there is none."""
    place = f"models:/{version.name}/{version.version}"
    listed = mlflow.artifacts.list_artifacts(artifact_uri=place) or []
    if file not in [Path(found.path).name for found in listed]:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        fetched = mlflow.artifacts.download_artifacts(artifact_uri=f"{place}/{file}", dst_path=scratch)
        return pd.read_csv(fetched, dtype=str, keep_default_na=False)
