"""A store and a registry that version 0.1 wrote: its models, runs and decisions are read by the present code.

The store is made by version 0.1 itself, from the repository's history.
"""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.entities.model_registry import ModelVersion

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError
from gemmodel.models import metadata, saving
from gemmodel.register import locate, versions
from gemmodel.serve.predictor import Predictor
from gemmodel.tracking import runs
from stages import register
from tests.conftest import LITERT_ATOL, ROOT, stage_options

FORMER = "49d10ea281c6e89777f1d51758191c1d8c81674b"  # the last commit of version 0.1
GEMS = {"Emerald": (0.2, 1, 0.2), "Ruby": (1, 0.2, 0.2)}
PARTS = {"train": 100, "val": 200, "test": 300}  # seed of the first photo
PER_GEM, NEW_PER_GEM = 8, 2  # photos of each part, and those added to the test part later
FORMER_PARAMS = {
    "base": {"image_size": 32, "threads": 2},
    "train": {"epochs": 1, "device": "cpu"},
    "register": {"rule": "by_hand"},  # now called manual
}
FORMER_CNN = {"augmentation": "none", "filters": [4], "pooling": ["max"], "dense": 4}


def write_photos(folder: Path, seed: int, count: int, draw: Any) -> None:
    """Draw photos of each gem into its class folder."""
    for gem, tint in GEMS.items():
        (folder / gem).mkdir(parents=True, exist_ok=True)
        for n in range(seed, seed + count):
            draw(n + 1000 * len(gem), size=(48, 48), tint=tint).save(folder / gem / f"{n}.png")


def write_predictions(test: Path, out: Path, *, wrong: int) -> None:
    """Write the predictions of a model that is wrong for some photos of each gem."""
    rows = ["file,predicted"]
    for gem in GEMS:
        for i, path in enumerate(sorted((test / gem).iterdir())):
            rows.append(f"{path.relative_to(test).as_posix()},{'Onyx' if i < wrong else gem}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def upgraded(
    tmp_path_factory: pytest.TempPathFactory, run: Any, draw: Any, write_params: Any, empty_store: Path
) -> Path:
    """Return a project in which version 0.1 trained and registered, and which has the present params.yaml."""
    archive = subprocess.run(["git", "archive", FORMER, "gemmodel", "stages", "dvc.yaml", "params.yaml"],
                             cwd=ROOT, capture_output=True)  # fmt: skip
    if archive.returncode:
        pytest.skip(f"this clone does not hold commit {FORMER[:7]}: {archive.stderr.decode().strip()}")
    code, root = tmp_path_factory.mktemp("former_code"), tmp_path_factory.mktemp("upgraded")
    subprocess.run(["tar", "-x", "-C", code], input=archive.stdout, check=True)
    settings = yaml.safe_load((code / "params.yaml").read_text(encoding="utf-8"))
    for section, changes in FORMER_PARAMS.items():
        settings[section] |= changes
    settings["model"]["name"] = "cnn"
    settings["model"]["cnn"] |= FORMER_CNN
    (root / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    shutil.copy(empty_store, root / "mlflow.db")
    split = root / "data" / "split"
    for part, seed in PARTS.items():
        write_photos(split / part, seed, PER_GEM, draw)
    files.write_json(split / "hierarchy.json", {gem: gem for gem in GEMS})
    write_predictions(split / "test", root / "reports" / "evaluation" / "predictions.csv", wrong=5)
    pipeline = yaml.safe_load((code / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in ("train", "register"):
        _, *command = shlex.split(pipeline[stage]["cmd"])
        ended = run(*command, cwd=root, PYTHONPATH=str(code))
        assert ended.returncode == 0, f"{stage}: {ended.stderr}"
    write_params(root, {"register.rule": "manual"})
    return root


@pytest.fixture
def project(upgraded: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in the upgraded project, with its own store. Each test leaves version 1, of version 0.1, as champion."""
    before = mlflow.get_tracking_uri()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(upgraded)
    mlflow.set_tracking_uri(f"sqlite:///{(upgraded / 'mlflow.db').as_posix()}")
    yield upgraded
    assert aliases()["champion"] == "1"
    assert "training_fingerprints.csv" not in stored_files("1")  # so that the next test reads the former names, too
    mlflow.set_tracking_uri(before)


def register_model(**paths: Path) -> dict[str, Any]:
    """Run the register stage with the paths of dvc.yaml, but for some, and return the decision."""
    options = stage_options("register")
    arguments = {name.removeprefix("--"): Path(value) for name, value in zip(options[::2], options[1::2], strict=True)}
    arguments |= paths
    register.main(**arguments)
    return files.read_json(arguments["out"])


def aliases() -> dict[str, str]:
    registered = mlflow.MlflowClient().get_registered_model("gemstones")
    return {alias: str(number) for alias, number in registered.aliases.items()}


def version(number: str) -> ModelVersion:
    return mlflow.MlflowClient().get_model_version("gemstones", number)


def stored_files(number: str) -> set[str]:
    listed = mlflow.artifacts.list_artifacts(artifact_uri=f"models:/gemstones/{number}")
    return {Path(artifact.path).name for artifact in listed}


def new_model(folder: Path, scale: float) -> Path:
    """Save the former champion with other weights by the present code; a scale gives a hash of its own."""
    champion = locate.champion_path("gemstones")
    network, classes = saving.load(champion)
    network.set_weights([scale * weights for weights in network.get_weights()])
    saving.save(network, classes, folder, metadata=metadata.read(champion))
    return folder


def register_new_model(folder: Path, test: Path, scale: float) -> dict[str, Any]:
    """Register a new model that predicts every test photo correctly, with the folder's params.yaml."""
    write_predictions(test, folder / "predictions.csv", wrong=0)
    return register_model(
        model=new_model(folder / "models", scale),
        predictions=folder / "predictions.csv",
        test=test,
        out=folder / "registration.json",
        params_file=folder / "params.yaml",
    )


def test_the_former_champion_predicts(project: Path, forked: Any) -> None:
    champion = locate.champion_path("gemstones")
    assert (champion / "confidence.json").is_file()  # the former name of thresholds.json
    photo = next((project / "data" / "split" / "test" / "Ruby").iterdir())
    [prediction] = Predictor(champion).predict([photo])
    assert not isinstance(prediction, DataError)
    network, classes = saving.load(champion)
    pixels = Predictor(champion).pixels(photo)
    probabilities = np.asarray(network(pixels[None].astype(np.float32)))[0]
    np.testing.assert_allclose(prediction.probability, probabilities.max(), atol=LITERT_ATOL)
    assert set(classes) == set(GEMS)
    ended = forked("-m", "gemmodel.cli", "predict", str(photo), "--json", cwd=project)
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1)
    assert ended.stderr.endswith("models: of a former version, without sha256.json: not checked\n")
    row = json.loads(ended.stdout)
    assert (row["gem"], row["prediction_set"]) == (prediction.gem, prediction.prediction_set)


def test_a_former_run_is_found_by_its_model(project: Path) -> None:
    sha256 = hashing.sha256(project / "models" / "model.keras")
    with runs.model_run(sha256):
        run_id = runs.active_run_id()
    assert run_id == version("1").run_id
    run = mlflow.get_run(run_id)
    assert run.data.tags[runs.MODEL_TAG] == sha256
    assert "trained" not in run.data.tags  # a run that the store lacks is opened as "trained: elsewhere"
    assert run.data.params["model_name"] == "cnn"


def test_a_former_decision_is_repeated_and_not_made_again(project: Path) -> None:
    former = json.loads(version("1").tags["decision"])
    decision = register_model()
    assert decision == former | {"rule": "manual"}
    assert decision["champion"] is True
    assert len(versions_of("gemstones")) == len(versions_of("gemstones", hashing.sha256(Path("models/model.keras"))))


def versions_of(name: str, model_sha256: str | None = None) -> list[ModelVersion]:
    registered = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return [one for one in registered if model_sha256 in (None, one.tags[runs.MODEL_TAG])]


def test_a_decision_that_version_0_1_began_is_completed(project: Path) -> None:
    former = json.loads(version("1").tags["pending"])
    mlflow.MlflowClient().delete_model_version_tag("gemstones", "1", "decision")  # as a kill after `pending` leaves it
    decision = register_model()
    assert decision == former | {"rule": "manual"}
    assert json.loads(version("1").tags["decision"]) == decision


def test_a_better_model_replaces_the_former_champion_until_a_rollback(
    project: Path, tmp_path: Path, draw: Any, write_params: Any
) -> None:
    write_params(tmp_path, {"register.rule": "mcnemar"})
    test = tmp_path / "test"
    shutil.copytree(project / "data" / "split" / "test", test)
    write_photos(test, 400, NEW_PER_GEM, draw)  # which version 0.1 must predict, by its own package
    decision = register_new_model(tmp_path, test, 0.5)
    assert "champion_accuracy" in decision, decision["reason"]
    assert (decision["champion"], decision["lost"]) == (True, 0)
    assert 10 <= decision["gained"] <= 10 + NEW_PER_GEM * len(GEMS)  # version 0.1 has 5 photos of each gem wrong
    number = aliases()["champion"]
    assert number != "1"
    assert {"training_fingerprints.csv", "test_predictions.csv"} <= stored_files(number)
    assert {"learnt_from.csv", "answers.csv", "test_predictions.csv"} <= stored_files("1")
    assert versions.rollback("gemstones").endswith(f"version 1 is champion again, in place of {number}")
    assert versions.promote("gemstones", number).endswith(f"version {number} is champion now, in place of 1")
    assert versions.rollback("gemstones").endswith(f"version 1 is champion again, in place of {number}")


def test_a_leak_into_the_former_champion_is_found(project: Path, tmp_path: Path, write_params: Any) -> None:
    write_params(tmp_path, {"register.rule": "mcnemar"})
    split, test = project / "data" / "split", tmp_path / "test"
    shutil.copytree(split / "test", test)
    shutil.copy(split / "train" / "Ruby" / "100.png", test / "Ruby" / "leaked.png")
    decision = register_new_model(tmp_path, test, 0.25)
    assert (decision["champion"], decision["leaked_test_photos"]) == (False, 1)
    assert "Ruby/leaked.png" in decision["reason"]
