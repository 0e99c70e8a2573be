"""How a model gets into MLflow's registry: it is logged, registered as a version, and described by its card."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

import gemmodel
from gemmodel.core import files, hashing
from gemmodel.tracking import runs

FILES_TAG = "files_sha256"  # of a version: the hash of its folder's list of hashes; a former version has none
MAX_DESCRIPTION = 5000  # characters that MLflow's tables hold
SERVING_PACKAGES = ("ai-edge-litert", "numpy", "opencv-python-headless", "pandas", "pillow")
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "photo")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "gem"),
            ColSpec(DataType.string, "mineral_class"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(DataType.string), "top"),
            ColSpec(Array(DataType.double), "top_probabilities"),
            ColSpec(Array(DataType.string), "prediction_set"),
            ColSpec(DataType.boolean, "unknown"),
        ]
    ),
    params=ParamSchema([ParamSpec("top_k", DataType.long, 5)]),
)


def identity(folder: Path) -> dict[str, str]:
    """Returns the tags by which a model is found: the hash of its network, and that of all its files.

    Args:
        folder: of the model, whose files `hashing.check` has compared. Without `sha256.json` it has the first tag only.
    """
    tags = {runs.MODEL_TAG: hashing.sha256(folder / "model.keras")}
    if (folder / hashing.HASHES).is_file():
        tags[FILES_TAG] = hashing.sha256(folder / hashing.HASHES)
    return tags


def find(name: str, tags: Mapping[str, str]) -> list[ModelVersion]:
    """Returns the versions that are a model, the oldest first.

    The same network with other thresholds is another model. A former version is known by its network alone.

    Args:
        name: of the registered model.
        tags: from `identity`.
    """
    query = f"name = '{name}' and tags.{runs.MODEL_TAG} = '{tags[runs.MODEL_TAG]}'"
    found = mlflow.MlflowClient().search_model_versions(query, order_by=["version_number ASC"])
    present = tags.get(FILES_TAG)
    return [version for version in found if present in (None, version.tags.get(FILES_TAG, present))]


def register(name: str, folder: Path, example: pd.DataFrame, tags: Mapping[str, str]) -> str:
    """Logs a model to the open run and registers it as a version without an alias.

    The logged model is a checkpoint of the best epoch: it has the run's parameters, and the metrics of that epoch and
    of the test part, each linked to its dataset. MLflow loads it and predicts the example with it.

    Args:
        name: of the registered model.
        folder: of the model, as `models.saving.save` writes it.
        example: of the input.
        tags: from `identity`.

    Returns:
        The version's number.
    """
    client, run_id = mlflow.MlflowClient(), runs.active_run_id()
    run, step = client.get_run(run_id), runs.best_epoch()
    title = re.sub(r"\W+", "-", re.sub(r" \d\.\d+,", "", run.info.run_name or "")).strip("-") or "model"
    logged = client.create_logged_model(
        run.info.experiment_id, title, run_id, dict(tags), run.data.params, "classifier"
    )
    # Not by `log_model`, which links metrics without their datasets, and sends the store a request for each of them.
    upload(logged.model_id, run_id, folder, example)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    runs.link_metrics(logged.model_id, step)
    return str(mlflow.register_model(logged.model_uri, name, tags=dict(tags)).version)


def upload(model_id: str, run_id: str, folder: Path, example: pd.DataFrame) -> None:
    """Stores the files of a logged model, over those that may be there: the model, its code and `sha256.json`.

    Args:
        model_id: of the logged model.
        run_id: of the run that logged it.
        folder: of the model.
        example: of the input, which the model predicts first.
    """
    package = Path(gemmodel.__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model"
        mlflow.pyfunc.save_model(
            str(path),
            mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
            python_model=str(package / "register" / "pyfunc.py"),
            artifacts={"model": str(folder)},
            code_paths=[str(package)],
            signature=SIGNATURE,
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in packages(folder)],
        )
        hashing.write_hashes(path)
        mlflow.pyfunc.load_model(str(path)).predict(example)
        mlflow.MlflowClient().log_model_artifacts(model_id, str(path))


def packages(folder: Path) -> list[str]:
    """Returns the packages that a model's predictions need: ONNX Runtime where a backbone in its export is for that."""
    onnx = any(name.endswith(".onnx") for name in _file_names((folder / "model.tflite").read_bytes()))
    return [*SERVING_PACKAGES, *(["onnxruntime"] if onnx else [])]


def _file_names(content: bytes) -> Iterator[str]:
    """Yields the names of the files in an export, see `litert`, and of those in them."""
    for name, part in files.appended(content).items():
        yield name
        yield from _file_names(part)


def describe_version(name: str, tags: Mapping[str, str], card: str) -> None:
    """Stores a model card with the registered version of a model, and with the registered model while it is champion.

    Args:
        name: of the registered model.
        tags: from `identity`; where no version has them, nothing is stored.
        card: Markdown. Its front matter is left out, and the end of a long one.
    """
    client = mlflow.MlflowClient()
    text = card.split("---\n", 2)[2] if card.startswith("---\n") else card
    if len(text) > MAX_DESCRIPTION:
        text = text[: MAX_DESCRIPTION - 80].rsplit("\n", 1)[0] + "\n\nThe rest is in the run's model_card.md."
    for model_version in find(name, tags):
        client.update_model_version(name, model_version.version, text)
        if str(client.get_registered_model(name).aliases.get("champion")) == str(model_version.version):
            client.update_registered_model(name, text)
