"""Tables that are stored beside a registered version, and predictions by it in a process of its own."""

import base64
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from gemmodel.core import files
from gemmodel.core.errors import ModelError

TRAINING_SET, TEST_PREDICTIONS = "training_fingerprints.csv", "test_predictions.csv"
FORMER_NAMES = {TRAINING_SET: "learnt_from.csv", TEST_PREDICTIONS: "answers.csv"}  # of version 0.1
BATCH = 200  # photos in one request to a former model


def save_table(version: ModelVersion, file: str, table: pd.DataFrame) -> None:
    """Stores a table with one row per photo beside a version's model; replaces an older one."""
    with tempfile.TemporaryDirectory() as scratch:
        table.drop_duplicates("photo", keep="last").to_csv(Path(scratch) / file, index=False)
        mlflow.MlflowClient().log_model_artifact(str(version.source).removeprefix("models:/"), f"{scratch}/{file}")


def load_table(version: ModelVersion, file: str) -> pd.DataFrame | None:
    """Returns a table that `save_table` stored, also of version 0.1 under its former name; None where there is none."""
    source = f"models:/{version.name}/{version.version}"
    stored = {Path(artifact.path).name for artifact in mlflow.artifacts.list_artifacts(artifact_uri=source) or []}
    name = next((name for name in (file, FORMER_NAMES[file]) if name in stored), None)
    if name is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = mlflow.artifacts.download_artifacts(artifact_uri=f"{source}/{name}", dst_path=scratch)
        return files.read_table(Path(path))


def predict_in_subprocess(version: ModelVersion, photos: Sequence[Path]) -> list[str]:
    """Returns a version's prediction for each photo, from a process of its own.

    The version brings its own package `gemmodel`, which may be older than the one of this process.

    Raises:
        ModelError: the version cannot be loaded, or fails.
    """
    gems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        request, response = Path(scratch) / "request.json", Path(scratch) / "response.json"
        model = mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=scratch)
        options = ["-m", model, "-i", str(request), "-o", str(response), "-t", "json", "--env-manager", "local"]
        for start in range(0, len(photos), BATCH):
            rows = [[base64.b64encode(path.read_bytes()).decode()] for path in photos[start : start + BATCH]]
            files.write_json(request, {"dataframe_split": {"columns": ["photo"], "data": rows}})
            command = [sys.executable, "-m", "mlflow", "models", "predict", *options]
            ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            if ended.returncode:
                raise ModelError((ended.stderr.strip() or "no reason given").splitlines()[-1])
            gems += [row["gem"] for row in files.read_json(response)["predictions"]]
    return gems
