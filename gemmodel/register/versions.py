"""The versions of a model in MLflow's registry: which is champion, which were, and how that changes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from gemmodel.core.errors import ModelError, TrackingError
from gemmodel.core.params import RegisterParams
from gemmodel.register import promotion, registration, version_files
from gemmodel.register.promotion import RegistryState
from gemmodel.register.registry_lock import registry_lock
from gemmodel.register.version_files import TEST_PREDICTIONS, TRAINING_SET
from gemmodel.tracking import runs

if TYPE_CHECKING:
    from gemmodel.register import comparison

# What needs SciPy and joblib is imported in functions: a light install asks for the champion.
FORMER_CHAMPIONS = "former_champions"  # a tag of the registered model: version numbers, the latest one last


def ensure(name: str, folder: Path, example: pd.DataFrame, tags: Mapping[str, str]) -> ModelVersion:
    """Returns a version of a model: the first whose files are whole, else a new one.

    Of versions whose files are not there or damaged, the files are uploaded again first, and this is printed.

    Args:
        name: of the registered model.
        folder: of the model, in the open run.
        example: see `registration.register`.
        tags: from `registration.identity`.
    """
    whole = []
    for version in registration.find(name, tags):
        if reason := version_files.damage(version):
            with runs.ignoring("RESOURCE_DOES_NOT_EXIST"):  # without its logged model there is no place for them
                registration.upload(
                    str(version.source).removeprefix("models:/"),
                    version.run_id or runs.active_run_id(),
                    folder,
                    example,
                )
                print(f"register: {name} version {version.version}: {reason}; its files were uploaded again")
                reason = None
        if not reason:
            whole.append(version)
    return whole[0] if whole else get(name, registration.register(name, folder, example, tags))


def get(name: str, number: str) -> ModelVersion:
    """Returns a version by its number."""
    return mlflow.MlflowClient().get_model_version(name, number)


def champion(name: str) -> ModelVersion | None:
    """Returns the champion, or None where there is none."""
    with runs.ignoring("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
        return mlflow.MlflowClient().get_model_version_by_alias(name, "champion")
    return None


def champion_source(name: str) -> tuple[str, str] | None:
    """Returns the champion's source in MLflow's terms, and its location; None where there is no champion."""
    with runs.mlflow_store(create=False):
        version = champion(name)
    return (str(version.source), str(version.source)) if version else None


def decide_and_promote(
    version: ModelVersion,
    test_predictions: pd.DataFrame,
    training_set: pd.DataFrame,
    test: Path,
    rule: RegisterParams,
    check_held: Callable[[], None],
) -> dict[str, Any]:
    """Decides whether a version becomes champion, applies the decision, and stores what the next decision needs.

    A decision on the same test photos by the same rule is repeated while there is a champion. It is written to the tag
    `pending` before an alias changes, and to the tag `decision` after all is done, which replaces it. So the successor
    of a killed process can complete it.

    Args:
        version: of the new model.
        test_predictions: the fingerprints of the test photos, with the model's predictions as `predicted`.
        training_set: the fingerprints of all photos that it was trained and selected on.
        test: the folder of the test photos.
        rule: the parameters.
        check_held: from `registry_lock`.

    Returns:
        The decision and its statistics, which are also the version's tags.
    """
    client, name, key = mlflow.MlflowClient(), version.name, promotion.decision_key(test_predictions, rule)
    stored = {
        tag: promotion.with_present_names(json.loads(version.tags.get(tag, "{}"))) for tag in ("decision", "pending")
    }
    present = champion(name)
    if present is not None and key.items() <= stored["decision"].items():
        if any(version_files.load_table(version, file) is None for file in (TRAINING_SET, TEST_PREDICTIONS)):
            _save_tables(version, test_predictions, training_set)  # gone or damaged since then
        return stored["decision"]
    if present is not None and present.version == version.version and key.items() <= stored["pending"].items():
        decision = stored["pending"]
    else:
        _save_tables(version, test_predictions, training_set)
        state = load_state(version, present, test_predictions, training_set, test)
        if state.comparison:
            _log_comparison(state.comparison, test)
        outcome = promotion.decide(state, rule, test_photos=len(test_predictions))
        accuracy = (test_predictions["actual"] == test_predictions["predicted"]).mean()
        decision = key | {
            "model_sha256": version.tags[runs.MODEL_TAG],
            "champion": outcome.champion,
            "reason": outcome.reason,
            "test_photos": len(test_predictions),
            "accuracy": round(float(accuracy), 6),
            **outcome.statistics,
        }
    check_held()
    client.set_model_version_tag(name, version.version, "pending", json.dumps(decision))
    client.set_registered_model_alias(name, "challenger", version.version)
    if decision["champion"]:
        _promote(name, version.version)
    for tag, value in (decision | {"decision": json.dumps(decision)}).items():
        client.set_model_version_tag(name, version.version, tag, str(value))
    client.delete_model_version_tag(name, version.version, "pending")
    return decision


def load_state(
    version: ModelVersion,
    present: ModelVersion | None,
    test_predictions: pd.DataFrame,
    training_set: pd.DataFrame,
    test: Path,
) -> RegistryState:
    """Returns what the registry holds, with the champion's predictions for the test photos where they are needed.

    Args:
        version: of the new model.
        present: the champion.
        test_predictions: see `decide_and_promote`.
        training_set: see `decide_and_promote`.
        test: the folder of the test photos.
    """
    from gemmodel.register import comparison, fingerprints

    if present is None or present.version == version.version:
        return RegistryState(str(version.version), None if present is None else str(present.version))
    state: dict[str, Any] = {
        "version": str(version.version),
        "champion": str(present.version),
        "champion_sha256": present.tags.get(runs.MODEL_TAG),
    }
    if not version_files.has_files(present):
        return RegistryState(**state, champion_error="its files are not there")
    champion_training_set = version_files.load_table(present, TRAINING_SET)
    champion_predictions = version_files.load_table(present, TEST_PREDICTIONS)
    if champion_training_set is None or champion_predictions is None:
        return RegistryState(**state, champion_recorded=False)
    if leaked := fingerprints.find_leaked(test_predictions, champion_training_set, training_set):
        return RegistryState(**state, leaked=tuple(leaked))
    try:
        predicted = _predict_test_photos(present, champion_predictions, test_predictions, test)
    except ModelError as error:
        return RegistryState(**state, champion_error=str(error))
    return RegistryState(
        **state,
        champion_accuracy=round(float((predicted == test_predictions["actual"]).mean()), 6),
        comparison=comparison.compare(test_predictions, test_predictions.assign(predicted=predicted)),
    )


def _save_tables(version: ModelVersion, test_predictions: pd.DataFrame, training_set: pd.DataFrame) -> None:
    version_files.save_table(version, TRAINING_SET, training_set)
    earlier = version_files.load_table(version, TEST_PREDICTIONS)
    version_files.save_table(version, TEST_PREDICTIONS, pd.concat([earlier, test_predictions[["photo", "predicted"]]]))


def promote(name: str, number: str) -> str:
    """Makes a version champion, and returns in one line what was done.

    Raises:
        TrackingError: there is no such version.
    """
    version = None
    with runs.ignoring("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such number, not a number
        version = get(name, number)
    if version is None:
        raise TrackingError(f"{name}: there is no version {number}; `make ui` lists the versions")
    with registry_lock(name, version.run_id) as check_held:
        present = champion(name)
        if present is not None and present.version == version.version:
            return f"{name}: version {number} is champion already"
        check_held()
        _promote(name, version.version)
    return f"{name}: version {number} is champion now, {f'in place of {present.version}' if present else 'the first'}"


def rollback(name: str) -> str:
    """Makes the former champion champion again, and returns in one line what was done.

    Raises:
        TrackingError: there is no champion, or no former one.
    """
    present = champion(name)
    if present is None:
        raise TrackingError(f"{name}: no version is champion; `gemmodel promote VERSION` makes it one")
    with registry_lock(name, present.run_id) as check_held:
        current = champion(name)
        former = _former_champions(name, current)
        if current is None or not former:
            raise TrackingError(
                f"{name}: no version was champion before {present.version}; there is nothing to roll back to"
            )
        check_held()
        _set_champion_alias(name, former[-1])
        mlflow.MlflowClient().set_registered_model_tag(name, FORMER_CHAMPIONS, ",".join(former[:-1]))
    return f"{name}: version {former[-1]} is champion again, in place of {current.version}"


def _promote(name: str, number: str) -> None:
    """Makes a version champion. The present one is recorded first, so that a kill in between loses none."""
    client, present = mlflow.MlflowClient(), champion(name)
    if present is not None and present.version != number:
        former = [*_former_champions(name, present), str(present.version)]
        client.set_registered_model_tag(name, FORMER_CHAMPIONS, ",".join(former))
    _set_champion_alias(name, number)


def _set_champion_alias(name: str, number: str) -> None:
    """Sets the alias, and the champion's model card as the description of the registered model."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", number)
    client.update_registered_model(name, get(name, number).description or "")


def _former_champions(name: str, present: ModelVersion | None) -> list[str]:
    """Returns the former champions that still exist. A last one that is champion was recorded, then not replaced."""
    client = mlflow.MlflowClient()
    existing = {str(version.version) for version in client.search_model_versions(f"name = '{name}'")}
    tag = client.get_registered_model(name).tags.get(FORMER_CHAMPIONS, "")
    former = [number for number in tag.split(",") if number in existing]
    while present is not None and former and former[-1] == str(present.version):
        former.pop()
    return former


def _predict_test_photos(
    version: ModelVersion, stored: pd.DataFrame, test_photos: pd.DataFrame, test: Path
) -> pd.Series:
    """Returns a version's predictions for the test photos, in their order; predicts those only that are not stored."""
    new = test_photos[~test_photos["photo"].isin(stored["photo"])]
    if len(new):
        predicted = version_files.predict_in_subprocess(version, [test / file for file in new["file"]])
        stored = pd.concat([stored, pd.DataFrame({"photo": new["photo"], "predicted": predicted})])
        version_files.save_table(version, TEST_PREDICTIONS, stored)
    return test_photos["photo"].map(stored.drop_duplicates("photo").set_index("photo")["predicted"])


def _log_comparison(compared: "comparison.Comparison", test: Path) -> None:
    """Logs the photos that only one of the two models predicts correctly to the open run."""
    from gemmodel.register import comparison

    runs.log_table(compared.table, "against_champion.json")
    for kind, changed in (("gained", compared.gained), ("lost", compared.lost)):
        if len(changed):
            mlflow.log_image(comparison.picture(changed, test), f"against_champion/{kind}.png")
