"""A project that is copied and moved, with its store: what it registered and logged is found in the new place."""

import base64
import io
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

REGISTER = """
import base64, io, sys
import keras, mlflow, numpy as np, pandas as pd
from pathlib import Path
from gemmodel.models import saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.register import registration
from gemmodel.tracking import runs

classes = ["Agate", "Ruby"]
tiny = [keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8), keras.layers.Flatten()]
network = keras.Sequential([keras.Input((32, 32, 3)), *tiny, keras.layers.Dense(2, activation="softmax")])
reference = ReferenceSet(np.eye(2, 48, dtype=np.float32), np.arange(2, dtype=np.int32), np.array(classes))
metadata = ModelMetadata(classes, dict.fromkeys(classes, "Stone"), Thresholds(0.9, 0.3, 1, 2.0), reference)
saving.save(network, classes, Path("models"), metadata=metadata)
with runs.model_run("abc"):
    mlflow.log_text("first", "note.txt")
    example, tags = pd.DataFrame({"photo": [sys.argv[1]]}), {runs.MODEL_TAG: "abc"}
    version = registration.register("gemstones", Path("models"), example, tags)
    mlflow.MlflowClient().set_registered_model_alias("gemstones", "champion", version)
"""
USE = """
import json, sys, tempfile
import mlflow, pandas as pd
from gemmodel.register import version_files, versions
from gemmodel.tracking import runs

with runs.model_run("abc"):
    mlflow.log_text("again", f"note{sys.argv[2]}.txt")
    run = mlflow.active_run().info.run_id
    first = mlflow.artifacts.load_text(f"runs:/{run}/note.txt")
    missing = version_files.damage(versions.get("gemstones", "1")) == "its files are not there"
    gem = None
    if not missing:  # dst_path, since MLflow decodes the `%` of a local path
        model = mlflow.pyfunc.load_model("models:/gemstones@champion", dst_path=tempfile.mkdtemp())
        gem = model.predict(pd.DataFrame({"photo": [sys.argv[1]]}))["gem"][0]
print(json.dumps([first, gem]))
"""


@pytest.fixture(scope="module")
def photo(draw: Any) -> str:
    file = io.BytesIO()
    draw(1).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, forked: Any, photo: str) -> Path:
    """A project with a run and a champion."""
    root = tmp_path_factory.mktemp("original") / "gems"
    root.mkdir()
    (root / "photo.jpg").write_bytes(base64.b64decode(photo))
    ended = forked("-c", REGISTER, photo, cwd=root, CUDA_VISIBLE_DEVICES="-1")
    assert ended.returncode == 0, ended.stderr
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_and_then_a_moved_project_work_and_the_original_stays_as_it_is(
    forked: Any, original: Path, photo: str, tmp_path: Path
) -> None:
    before, place = contents(original), original
    for i, name in enumerate(("my%20gems", "a?b", "x#y é")):  # which URIs decode, cut off or escape
        (shutil.move if i else shutil.copytree)(place, tmp_path / name)
        place = tmp_path / name
        ended = forked("-m", "gemmodel.cli", "predict", "photo.jpg", cwd=place)
        assert ended.returncode == 0, ended.stderr
        assert f"{place / 'mlflow.db'}: moved or copied" in ended.stderr
        ended = forked("-c", USE, photo, str(i), cwd=place)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)[0] == "first"
        assert json.loads(ended.stdout)[1] in ("Agate", "Ruby")
        assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing beside the project
        assert len(list(place.rglob("mlruns/*/artifacts/note*.txt"))) == 2 + i
    assert contents(original) == before


def test_a_store_without_its_artefacts_names_what_is_missing_and_the_model_is_registered_again(
    forked: Any, refused: Any, original: Path, photo: str, tmp_path: Path
) -> None:
    shutil.copy(original / "mlflow.db", tmp_path)
    shutil.copy(original / "photo.jpg", tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # as where the original is deleted
        for table, column in (("experiments", "artifact_location"), ("model_versions", "storage_location"),
                              ("runs", "artifact_uri"), ("logged_models", "artifact_location")):  # fmt: skip
            database.execute(f"update {table} set {column} = replace({column}, '/gems/', '/deleted/')")
    ended = forked("-m", "gemmodel.cli", "predict", "photo.jpg", cwd=tmp_path)
    assert ended.returncode == 1
    assert "the champion's files are not there; copy mlruns/" in ended.stderr.splitlines()[-1]
    use = USE.replace("mlflow.artifacts.load_text", "str")
    ended = forked("-c", use, photo, "0", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)[1] is None  # so the stage uploads them again
    assert list((tmp_path / "mlruns").rglob("note0.txt"))
