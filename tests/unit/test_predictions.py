"""Predictions for users, and the model metadata that they are made with."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemmodel.core.errors import DataError, ModelError
from gemmodel.evaluate import set_metrics
from gemmodel.models import conformal, metadata
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.held_out import HeldOutSummary, SetFrequency
from gemmodel.models.metadata import ModelMetadata
from gemmodel.serve import predictions

CLASSES = ["Almandine", "Emerald", "Pyrope"]
METADATA = ModelMetadata(
    classes=CLASSES,
    hierarchy={"Almandine": "Garnet", "Emerald": "Beryl", "Pyrope": "Garnet"},
    thresholds=Thresholds(coverage=0.9, set_threshold=0.5, neighbours=2, unknown_distance=0.4, relative=True),
    reference=ReferenceSet(
        embedding=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8]], np.float32),
        labels=np.array([0, 1, 2, 2], np.int32),
        files=np.array(["Almandine/a_0.jpg", "Emerald/e_0.jpg", "Pyrope/p_0.jpg", "Pyrope/p_1.jpg"]),
    ),
    held_out=HeldOutSummary([SetFrequency(0.0, 10, 5), SetFrequency(0.8, 50, 43)], [("Almandine", "Pyrope")]),
)
PROBABILITIES = np.array([[0.5, 0.1, 0.4], [0.1, 0.8, 0.1]], np.float32)
EMBEDDING = np.array([[1, 0, 0], [0, 0.1, 0]], np.float32)
APPROX = 1e-6  # float32 rounds to 6e-8 of a value


def test_prediction_has_both_labels_the_set_and_the_nearest_photos() -> None:
    prediction, _ = predictions.to_predictions(PROBABILITIES, EMBEDDING, METADATA, top=2)
    assert (prediction.gem, prediction.mineral_class) == ("Almandine", "Garnet")
    assert prediction.prediction_set == ["Almandine", "Pyrope"]
    assert prediction.probability == 0.5
    assert [gem for gem, _ in prediction.top] == ["Almandine", "Pyrope"]
    assert [(neighbour.file, neighbour.gem) for neighbour in prediction.nearest] == [
        ("Almandine/a_0.jpg", "Almandine"),
        ("Pyrope/p_1.jpg", "Pyrope"),
    ]
    assert prediction.distance == pytest.approx((0 + 0.4) / 2, abs=APPROX)
    assert not prediction.unknown
    assert prediction.set_probability == pytest.approx(0.9, abs=APPROX)
    assert (prediction.frequency, prediction.look_alikes) == (0.86, [("Almandine", "Pyrope")])
    assert predictions.to_text(prediction) == "Probably Almandine or Pyrope"
    assert predictions.to_details(prediction) == [
        "Of 100 photos new to the model with an answer as sure as this one, about 86 show one of these gems.",
        "Almandine and Pyrope look alike: the model often confuses them.",
    ]


def test_photo_unlike_all_reference_photos_is_unknown_whatever_its_probability() -> None:
    _, prediction = predictions.to_predictions(PROBABILITIES, EMBEDDING, METADATA)
    assert prediction.unknown and prediction.distance > 0.4
    assert (prediction.gem, prediction.prediction_set) == ("Emerald", ["Emerald"])
    assert predictions.to_text(prediction) == "Unknown: unlike the training photos; most similar to Emerald"
    assert predictions.to_details(prediction) == []


@pytest.mark.parametrize(
    ("gems", "expected"),
    [
        (["Ruby"], "Ruby"),
        (["Ruby", "Spinel"], "Ruby or Spinel"),
        (["Ruby", "Spinel", "Pyrope"], "Ruby, Spinel or Pyrope"),
        (["Ruby", "Spinel", "Pyrope", "Zircon", "Opal"], "Ruby, Spinel, Pyrope, Zircon or Opal"),
        (["Ruby", "Spinel", "Pyrope", "Zircon", "Opal", "Topaz"], "Ruby, Spinel, Pyrope, Zircon or one of 2 more"),
    ],
)
def test_prediction_set_as_text(gems: list[str], expected: str) -> None:
    prediction = predictions.to_predictions(PROBABILITIES, EMBEDDING, METADATA)[0]
    sure = replace(prediction, prediction_set=gems, set_probability=0.97, frequency=None)
    assert predictions.to_text(sure) == expected


@pytest.mark.parametrize(
    ("gems", "probability", "frequency", "expected"),
    [
        (["Ruby"], 0.95, None, "Ruby"),
        (["Ruby"], 0.94, 0.99, "Probably Ruby"),
        (["Ruby"], 0.97, 0.9, "Probably Ruby"),  # held-out photos show that the model is too sure of itself
        (["Ruby"], 0.6, None, "Perhaps Ruby"),
        (["Onyx Red", "Bloodstone"], 0.56, 0.7, "Perhaps Onyx Red or Bloodstone"),
        (["Ruby", "Spinel"], 0.49, None, "Unclear, perhaps Ruby or Spinel"),
    ],
)
def test_words_follow_the_probability_of_the_set(
    gems: list[str], probability: float, frequency: float | None, expected: str
) -> None:
    prediction = predictions.to_predictions(PROBABILITIES, EMBEDDING, METADATA)[0]
    changed = replace(prediction, prediction_set=gems, set_probability=probability, frequency=frequency)
    assert predictions.to_text(changed) == expected


def test_without_held_out_photos_no_gems_are_said_to_look_alike(model_folder: Path) -> None:
    """A model folder of a former version has no such file."""
    (model_folder / "held_out.json").unlink()
    prediction = predictions.to_predictions(PROBABILITIES, EMBEDDING, metadata.read(model_folder))[0]
    assert prediction.prediction_set == ["Almandine", "Pyrope"]
    assert predictions.to_details(prediction) == []


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with all files of a model but the network."""
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    metadata.write(METADATA, tmp_path)
    return tmp_path


@pytest.mark.parametrize("thresholds_file", ["thresholds.json", "confidence.json"])  # the second one of version 0.1
def test_metadata_is_read_as_written(model_folder: Path, thresholds_file: str) -> None:
    (model_folder / "thresholds.json").rename(model_folder / thresholds_file)
    assert json.loads((model_folder / thresholds_file).read_text()) == {
        "coverage": 0.9,
        "set_threshold": 0.5,
        "neighbours": 2,
        "unknown_distance": 0.4,
        "relative": True,
    }
    read = metadata.read(model_folder)
    assert (read.classes, read.hierarchy, read.thresholds) == (CLASSES, METADATA.hierarchy, METADATA.thresholds)
    assert read.held_out == METADATA.held_out
    assert predictions.to_predictions(PROBABILITIES, EMBEDDING, read) == predictions.to_predictions(
        PROBABILITIES, EMBEDDING, METADATA
    )


@pytest.mark.parametrize("name", ["hierarchy.json", "thresholds.json", "reference.npz", "held_out.json"])
def test_missing_or_damaged_file_is_an_error_with_the_remedy(model_folder: Path, name: str) -> None:
    (model_folder / name).write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"damaged: .* train it again"):
        metadata.read(model_folder)
    if name == "held_out.json":
        return
    (model_folder / name).unlink()
    missing = "confidence.json" if name == "thresholds.json" else name
    with pytest.raises(DataError, match=rf"{missing}: no such file"):
        metadata.read(model_folder)


def test_predictions_need_neither_tensorflow_nor_mlflow(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ended = run("-c", "import sys, gemmodel.serve.predictions; print(*sys.modules)", cwd=tmp_path)
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & set(ended.stdout.split()), ended.stderr
    assert "gemmodel.serve.predictions" in ended.stdout.split()


def test_scores_of_labels_and_sets() -> None:
    """Four photos: right; wrong gem of the right class; wrong class, right gem in the set; right class, not in it."""
    probabilities = np.array([[0.9, 0.05, 0.05], [0.5, 0.1, 0.4], [0.3, 0.6, 0.1], [0.7, 0.2, 0.1]])
    scores = set_metrics.per_photo(np.array([0, 2, 0, 2]), probabilities, METADATA)
    assert {name: values.mean() for name, values in scores.items()} == {
        "mineral_class_accuracy": 0.75,
        "label_score": (1 + 3) / 4,
        "set_coverage": 0.75,
        "set_size": 1.5,
        "singleton_rate": 0.5,
    }


def test_coverage_by_size_and_by_probability() -> None:
    probabilities = np.array([[0.9, 0.05, 0.05], [0.45, 0.15, 0.4], [0.3, 0.6, 0.1], [0.7, 0.2, 0.1]])
    sets = conformal.prediction_sets(probabilities, METADATA.thresholds)
    table = set_metrics.stratified(np.array([0, 2, 0, 2]), probabilities, sets)
    assert list(table.itertuples(index=False, name=None)) == [
        ("all", "all", 4, 0.75, 1.5),
        ("size", "1", 2, 0.5, 1.0),
        ("size", "2", 2, 1.0, 2.0),
        ("probability", "below 0.5", 1, 1.0, 2.0),
        ("probability", "0.5 to 0.8", 2, 0.5, 1.5),
        ("probability", "0.8 or more", 1, 1.0, 1.0),
    ]
