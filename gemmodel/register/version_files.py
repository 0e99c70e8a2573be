"""What is stored of a registered version: whether it is whole, its tables, and predictions by it."""

import base64
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError, ModelError
from gemmodel.tracking import runs

TRAINING_SET, TEST_PREDICTIONS = "training_fingerprints.csv", "test_predictions.csv"
FORMER_NAMES = {TRAINING_SET: "learnt_from.csv", TEST_PREDICTIONS: "answers.csv"}  # of version 0.1
FORMER_FILES = ("model.keras", "model.tflite", "classes.json", "hierarchy.json", "input.json", "reference.npz")
BATCH = 200  # photos in one request to a former model


def has_files(version: ModelVersion) -> bool:
    """Returns whether a version has files: one whose store was moved without its artefacts has none."""
    return bool(mlflow.artifacts.list_artifacts(artifact_uri=_uri(version)))


def _uri(version: ModelVersion) -> str:
    """Returns where a version's files are, also once its logged model, which `source` names, is deleted."""
    return f"models:/{version.name}/{version.version}"


def damage(version: ModelVersion) -> str | None:
    """Returns what is wrong with the files of a version's model, or None; a former version's have one hash only."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _download(version, scratch)
        except ModelError as error:
            return str(error)
    return None


def _download(version: ModelVersion, scratch: str) -> Path:
    """Downloads a version's model, as MLflow stores it, and compares it with its hashes.

    Raises:
        ModelError: a file is not there, damaged, or of another model.
    """
    if not has_files(version):
        raise ModelError("its files are not there")
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=_uri(version), dst_path=scratch))
    try:
        hashing.check(folder)
    except ModelError as error:
        raise ModelError(str(error).removeprefix(f"{folder}/").partition(";")[0]) from None
    model = next(folder.glob("artifacts/*"), folder)
    for name in FORMER_FILES:  # of a former version nothing else is known
        if not (model / name).is_file():
            raise ModelError(f"{name}: not there")
    if hashing.sha256(model / "model.keras") != version.tags.get(runs.MODEL_TAG):
        raise ModelError("model.keras: damaged, or of another model")
    if not (folder / hashing.HASHES).is_file() and (model / hashing.HASHES).is_file():
        raise ModelError(f"{hashing.HASHES}: not there")
    return folder


def save_table(version: ModelVersion, file: str, table: pd.DataFrame) -> None:
    """Stores a table with one row per photo beside a version's model, and its hash as a tag; replaces an older one."""
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / file
        table.drop_duplicates("photo", keep="last").to_csv(path, index=False)
        client.log_model_artifact(str(version.source).removeprefix("models:/"), str(path))
        client.set_model_version_tag(version.name, version.version, f"{file}.sha256", hashing.sha256(path))


def load_table(version: ModelVersion, file: str) -> pd.DataFrame | None:
    """Returns a table that `save_table` stored, also of version 0.1 under its former name.

    None where there is none, or it is damaged, which is printed.
    """
    stored = {Path(listed.path).name for listed in mlflow.artifacts.list_artifacts(artifact_uri=_uri(version)) or []}
    name = next((name for name in (file, FORMER_NAMES[file]) if name in stored), None)
    if name is None:
        return None
    tags = mlflow.MlflowClient().get_model_version(version.name, version.version).tags
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{_uri(version)}/{name}", dst_path=scratch))
        try:
            table = files.read_table(path)
            if "photo" in table and hashing.sha256(path) == tags.get(f"{name}.sha256", hashing.sha256(path)):
                return table
        except DataError:
            pass
    print(f"register: {version.name} version {version.version}: {name} is damaged, so it is not used", flush=True)
    return None


def predict_in_subprocess(version: ModelVersion, photos: Sequence[Path]) -> list[str]:
    """Returns a version's prediction for each photo, from a process of its own.

    The version brings its own package `gemmodel`, which may be older than the one of this process.

    Raises:
        ModelError: the version is damaged, cannot be loaded, or fails.
    """
    gems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        request, response = Path(scratch) / "request.json", Path(scratch) / "response.json"
        options = [
            "-m",
            str(_download(version, scratch)),
            "-i",
            str(request),
            "-o",
            str(response),
            "-t",
            "json",
            "--env-manager",
            "local",
        ]
        for start in range(0, len(photos), BATCH):
            rows = [[base64.b64encode(path.read_bytes()).decode()] for path in photos[start : start + BATCH]]
            files.write_json(request, {"dataframe_split": {"columns": ["photo"], "data": rows}})
            command = [sys.executable, "-m", "mlflow", "models", "predict", *options]
            ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            if ended.returncode:
                raise ModelError((ended.stderr.strip() or "no reason given").splitlines()[-1])
            gems += [row["gem"] for row in files.read_json(response)["predictions"]]
    return gems
