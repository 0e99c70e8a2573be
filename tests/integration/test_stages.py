"""Every stage in one folder on a few sample gems: its outputs, and what it logs to MLflow."""

import base64
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from gemmodel.core import hashing, image_folder
from gemmodel.images import decode
from gemmodel.models import metadata, saving
from gemmodel.serve import predictions
from gemmodel.tracking import runs
from tests.conftest import LITERT_ATOL, stage_params

GEMS = ["Citrine", "Malachite", "Ruby", "Turquoise"]
ROUNDING = 1e-6  # reports have six digits


@pytest.fixture(scope="module")
def fusion(finished_project: Any, new_project: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy of the folder after training, evaluating and registering a fusion model, as `dvc repro` does."""
    return new_project(shutil.copytree(finished_project.root, tmp_path_factory.mktemp("fusion"), dirs_exist_ok=True))


@pytest.fixture(scope="module")
def client(fusion: Any) -> Iterator[mlflow.MlflowClient]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(fusion.store)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def logged(fusion: Any, client: mlflow.MlflowClient) -> mlflow.entities.Run:
    """The one run that the stages logged to."""
    (experiment,) = client.search_experiments(filter_string="name = 'gemstones'")
    runs = client.search_runs([experiment.experiment_id])
    sha256 = hashing.sha256(fusion.root / "models" / "model.keras")
    (run,) = [run for run in runs if run.data.tags.get("model_sha256") == sha256]
    return run


def test_the_photos_pass_through_the_stages(split_project: Any) -> None:
    root = split_project.root
    raw = image_folder.list_images(root / "data" / "raw")
    assert {gem: len(paths) for gem, paths in raw.items()} == dict.fromkeys(GEMS, 12)
    report = json.loads((root / "reports" / "clean.json").read_text(encoding="utf-8"))
    parts = {part: image_folder.list_images(root / "data" / "split" / part) for part in ("train", "val", "test")}
    assert sum(len(paths) for part in parts.values() for paths in part.values()) == report["kept"] > 40
    assert all(sorted(part) == GEMS for part in parts.values())
    report = json.loads((root / "reports" / "split.json").read_text(encoding="utf-8"))
    assert report["classes"] == {gem: {part: len(parts[part][gem]) for part in parts} for gem in GEMS}
    with (root / "data" / "split" / "folds.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == report["photos"]["train"] + report["photos"]["val"]
    augmented = image_folder.list_images(root / "data" / "augmented" / "train")
    assert {gem: len(paths) for gem, paths in augmented.items()} == dict.fromkeys(GEMS, 2)
    with Image.open(augmented["Ruby"][0]) as picture:
        assert picture.size == (64, 64)


def test_the_reports_agree_with_each_other(fusion: Any) -> None:
    reports = fusion.root / "reports"
    metrics, training, registration = (
        json.loads((reports / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("evaluation/scores", "training", "registration")
    )
    with (reports / "evaluation" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert metrics["photos"] == len(rows)
    assert metrics["accuracy"] == pytest.approx(
        np.mean([row["actual"] == row["predicted"] for row in rows]), abs=ROUNDING
    )
    label_score = metrics["accuracy"] + metrics["mineral_class_accuracy"]
    assert metrics["label_score"] == pytest.approx(label_score, abs=3 * ROUNDING)
    assert metrics["set_coverage"] >= metrics["accuracy"]
    with (reports / "curves.csv").open(encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in points if row["curve"] == "the head, validation photos"]
    assert len(losses) == 2
    assert training["best_val_loss"] == pytest.approx(min(losses), abs=ROUNDING)
    assert registration["model_sha256"] == hashing.sha256(fusion.root / "models" / "model.keras")
    assert registration["champion"] is True
    assert (registration["accuracy"], registration["test_photos"]) == (metrics["accuracy"], metrics["photos"])


def test_a_run_records_its_origin(logged: mlflow.entities.Run) -> None:
    assert logged.info.status == "FINISHED"
    assert logged.data.params["train.epochs"] == "2"
    assert logged.data.params["base.image_size"] == "64"
    assert logged.data.params["model_name"] == "fusion"
    assert logged.data.params["split.seed"] == "1337"
    assert logged.data.params["split.max_per_class"] == "0"
    assert logged.data.params["train.class_weight"] == "none"
    assert logged.data.params["augment.target_per_class"] == "0"
    assert logged.data.params["augment.rotation"] == "40.0"
    assert logged.data.tags["device"].startswith("CPU")
    sections = {name.split(".")[0] for name in logged.data.params} - {"model_name"}
    assert sections == {"base", "crawl", "clean", "split", "augment", "embed", "model", "train"}
    declared = {param.split(".")[0] for param in stage_params("train")}
    assert sections == declared
    assert {name for name in logged.data.params if name.startswith("clean.")} == {"clean.crop"}
    inputs = {
        tag.value: (entry.dataset.name, entry.dataset.digest)
        for entry in logged.inputs.dataset_inputs
        for tag in entry.tags
        if tag.key == "mlflow.data.context"
    }
    assert inputs == {
        "train": ("data/split/train", "train.dir"),
        "val": ("data/split/val", "val.dir"),
        "test": ("data/split/test", "test.dir"),
    }


def test_a_run_has_each_epoch_and_the_scores(
    fusion: Any, client: mlflow.MlflowClient, logged: mlflow.entities.Run
) -> None:
    with (fusion.root / "reports" / "curves.csv").open(encoding="utf-8", newline="") as file:
        curves = [row for row in csv.DictReader(file) if row["curve"] == "the head, validation photos"]
    for name in ("loss", "accuracy"):
        steps = {}
        for part in ("train", "val"):
            history = client.get_metric_history(logged.info.run_id, f"{part}/{name}")
            steps[part] = {metric.step: metric.value for metric in history}
        assert set(steps["train"]) == set(steps["val"]) == {0, 1}
        assert [steps["val"][0], steps["val"][1]] == pytest.approx([float(row[name]) for row in curves])
    headline = json.loads((fusion.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    scores = json.loads((fusion.root / "reports" / "evaluation" / "scores.json").read_text(encoding="utf-8"))
    assert set(scores.pop("intervals")) == set(scores) - {"photos"}
    assert {name: logged.data.metrics[f"test/{name}"] for name in scores} == pytest.approx(scores)
    assert headline.pop("test_photos") == scores["photos"]
    assert headline.items() <= scores.items()
    training = json.loads((fusion.root / "reports" / "training.json").read_text(encoding="utf-8"))
    assert len(headline) + len(training) < 14
    assert any(name.startswith("system/cpu") for name in logged.data.metrics)
    assert any(name.startswith("system/") and "memory" in name for name in logged.data.metrics)


def test_a_run_says_what_was_trained_on_what_and_how_good_it_is(logged: mlflow.entities.Run) -> None:
    accuracy = logged.data.metrics["test/accuracy"]
    name, note = logged.info.run_name, logged.data.tags["mlflow.note.content"]
    assert name.startswith(f"fusion {accuracy:.3f}, 4 gems, ") and name.endswith(" photos")
    assert f"accuracy **{accuracy:.3f}**" in note and "95 % interval" in note


def test_the_logged_model_has_the_metrics_of_its_epoch_and_their_datasets(
    fusion: Any, client: mlflow.MlflowClient, logged: mlflow.entities.Run
) -> None:
    (output,) = logged.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name.split("-")[0], model.status, model.model_type) == ("fusion", "READY", "classifier")
    assert output.step == logged.data.metrics["train/best_epoch"]
    assert model.params["train.epochs"] == "2"
    linked = {metric.key: (metric.dataset_name, metric.dataset_digest, metric.value) for metric in model.metrics}
    assert linked["test/accuracy"] == ("data/split/test", "test.dir", logged.data.metrics["test/accuracy"])
    best_loss = pytest.approx(logged.data.metrics["val/best_loss"], abs=ROUNDING)
    assert linked["val/loss"] == ("data/split/val", "val.dir", best_loss)
    assert linked["train/loss"][:2] == ("data/split/train", "train.dir")


def test_a_run_has_pictures_and_tables(fusion: Any, client: mlflow.MlflowClient, logged: mlflow.entities.Run) -> None:
    names = {artifact.path for artifact in client.list_artifacts(logged.info.run_id)}
    assert {"evaluation", "confusion_matrix.json", "curves.png", "metrics.json"} <= names
    logged_there = {Path(artifact.path).name for artifact in client.list_artifacts(logged.info.run_id, "evaluation")}
    assert {path.name for path in (fusion.root / "reports" / "evaluation").iterdir()} == logged_there
    table = client.load_table(logged.info.experiment_id, "confusion_matrix.json", run_ids=[logged.info.run_id])
    assert table["actual"].tolist() == GEMS
    scores = json.loads((fusion.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    matrix = table[GEMS].to_numpy(int)
    assert (matrix.sum(), np.trace(matrix) / matrix.sum()) == (scores["test_photos"], pytest.approx(scores["accuracy"]))
    rows = client.load_table(logged.info.experiment_id, "predictions.json", run_ids=[logged.info.run_id])
    assert len(rows) == scores["test_photos"]
    assert rows["right"].tolist() == sorted(rows["right"])  # the wrong ones first
    path = mlflow.artifacts.download_artifacts(run_id=logged.info.run_id, artifact_path="evaluation/confusion.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 300


def aliases(client: mlflow.MlflowClient) -> dict[str, str]:
    return {name: str(number) for name, number in client.get_registered_model("gemstones").aliases.items()}


def test_the_champion_of_the_registry_predicts_as_the_model_does(fusion: Any, client: mlflow.MlflowClient) -> None:
    assert aliases(client) == {"challenger": "1", "champion": "1"}
    champion = mlflow.pyfunc.load_model("models:/gemstones@champion")
    model, classes = saving.load(fusion.root / "models", embedding=True)
    paths = [paths[0] for paths in image_folder.list_images(fusion.root / "data" / "split" / "test").values()]
    table = champion.predict(pd.DataFrame({"photo": [base64.b64encode(path.read_bytes()).decode() for path in paths]}))
    pixels = np.stack([decode.load(path, 64) for path in paths]).astype(np.float32)
    expected, embedding = (np.asarray(output) for output in model(pixels))
    predicted = predictions.to_predictions(expected, embedding, metadata.read(fusion.root / "models"))
    assert table["mineral_class"].tolist() == [prediction.mineral_class for prediction in predicted]
    assert [list(names) for names in table["prediction_set"]] == [prediction.prediction_set for prediction in predicted]
    assert table["unknown"].tolist() == [prediction.unknown for prediction in predicted]
    assert table["gem"].tolist() == [classes[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose(table["probability"], expected.max(axis=1), atol=LITERT_ATOL)
    for row, (names, probs) in enumerate(zip(table["top"], table["top_probabilities"], strict=True)):
        assert sorted(names) == GEMS
        np.testing.assert_allclose(probs, np.sort(expected[row])[::-1], atol=LITERT_ATOL)


@pytest.mark.parametrize("text", ["no base64!", base64.b64encode(b"<html>").decode()])
def test_the_champion_names_a_photo_that_is_not_an_image(fusion: Any, client: mlflow.MlflowClient, text: str) -> None:
    champion = mlflow.pyfunc.load_model("models:/gemstones@champion")
    photo = next(iter(image_folder.list_images(fusion.root / "data" / "split" / "test").values()))[0]
    good = base64.b64encode(photo.read_bytes()).decode()
    with pytest.raises(Exception, match=r"photo 1: "):
        champion.predict(pd.DataFrame({"photo": [good, text]}))


def test_registering_again_makes_no_second_version(fusion: Any, client: mlflow.MlflowClient) -> None:
    before = aliases(client)
    written = (fusion.root / "reports" / "registration.json").read_bytes()
    fusion.run("register", DVC_STAGE="any")
    assert aliases(client) == before
    assert [str(version.version) for version in client.search_model_versions("name = 'gemstones'")] == ["1"]
    assert (fusion.root / "reports" / "registration.json").read_bytes() == written


@pytest.mark.parametrize(
    ("name", "augmentation"), [("cnn", "on_the_fly"), ("cnn", "disk"), ("residual", "on_the_fly"), ("transfer", "none")]
)
def test_a_network_is_trained_on_pixels(fusion: Any, client: mlflow.MlflowClient, name: str, augmentation: str) -> None:
    fusion.set(model__name=name, model__cnn__dropout=0.0, **{f"model__{name}__augmentation": augmentation})
    out = f"models-{name}-{augmentation}"
    options = ["--features", "nowhere", "--out", out, "--report", f"training-{name}.json", "--curves", "c.csv"]
    fusion.run("train", options=options)
    report = json.loads((fusion.root / f"training-{name}.json").read_text(encoding="utf-8"))
    model, classes = saving.load(fusion.root / out, embedding=True)
    assert (model.name, model.dtype_policy.name, classes) == (name, "float32", GEMS)
    paths = [
        path for paths in image_folder.list_images(fusion.root / "data" / "split" / "val").values() for path in paths
    ]
    pixels = np.stack([decode.load(path, 64) for path in paths]).astype(np.float32)
    probs, embedding = (np.asarray(output) for output in model(pixels))
    right = probs.argmax(axis=1) == [GEMS.index(path.parent.name) for path in paths]
    assert report["best_val_accuracy"] == pytest.approx(right.mean(), abs=0.26)  # bfloat16 may change one of four
    predicted = predictions.to_predictions(probs, embedding, metadata.read(fusion.root / out))
    for path, prediction in zip(paths, predicted, strict=True):
        assert prediction.mineral_class == {"Citrine": "Quartz", "Ruby": "Corundum"}.get(prediction.gem, prediction.gem)
        assert prediction.gem in prediction.prediction_set
        assert not prediction.unknown, f"{path}: so few photos give no threshold"
        assert all((fusion.root / "data" / "split" / "train" / near.file).is_file() for near in prediction.nearest)
    sha256 = hashing.sha256(fusion.root / out / "model.keras")
    (experiment,) = client.search_experiments(filter_string="name = 'gemstones'")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.model_sha256 = '{sha256}'")
    assert run.data.params["model.augmentation"] == augmentation
    assert (run.data.params["model_name"], run.info.run_name.split(",")[0]) == (name, name)


def test_training_twice_gives_the_same_bytes(fusion: Any) -> None:
    fusion.set()
    before = {name: (fusion.root / name).read_bytes() for name in ("models/model.keras", "reports/curves.csv")}
    fusion.run("train", DVC_STAGE="any")
    assert {name: (fusion.root / name).read_bytes() for name in before} == before


def test_a_folder_in_a_remote_that_keeps_versions_has_the_hash_that_dvc_gives_it(
    forked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    for name in ("raw/Ruby/1.jpg", "raw/Opal/é.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    for command in (("init", "--no-scm", "-q"), ("add", "-q", "raw")):
        assert forked("-m", "dvc", *command, cwd=tmp_path).returncode == 0
    [out] = yaml.safe_load(Path("raw.dvc").read_text(encoding="utf-8"))["outs"]
    folder = out.pop("md5")
    [listed] = (tmp_path / ".dvc" / "cache").rglob("*.dir")
    cloud = {"size": 9, "cloud": {"away": {"etag": "abc", "version_id": "1"}}}
    versions = [file | cloud for file in json.loads(listed.read_text(encoding="utf-8"))]
    for changes in ({"md5": folder}, {"files": versions}):
        lock = {"schema": "2.0", "stages": {"crawl": {"cmd": "crawl", "outs": [out | changes]}}}
        Path("dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
        assert runs.dvc_hash(Path("raw")) == folder
    assert runs.dvc_hash(Path("clean")) is None
