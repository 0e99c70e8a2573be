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
from gemmodel.models import metadata
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.serve import predictions

CLASSES = ["Almandine", "Emerald", "Pyrope"]
METADATA = ModelMetadata(
    classes=CLASSES,
    hierarchy={"Almandine": "Garnet", "Emerald": "Beryl", "Pyrope": "Garnet"},
    thresholds=Thresholds(coverage=0.9, set_threshold=0.25, neighbours=2, unknown_distance=0.4),
    reference=ReferenceSet(
        embedding=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8]], np.float32),
        labels=np.array([0, 1, 2, 2], np.int32),
        files=np.array(["Almandine/a_0.jpg", "Emerald/e_0.jpg", "Pyrope/p_0.jpg", "Pyrope/p_1.jpg"]),
    ),
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
    assert predictions.to_text(prediction) == "Almandine or Pyrope"


def test_photo_unlike_all_reference_photos_is_unknown_whatever_its_probability() -> None:
    _, prediction = predictions.to_predictions(PROBABILITIES, EMBEDDING, METADATA)
    assert prediction.unknown and prediction.distance > 0.4
    assert (prediction.gem, prediction.prediction_set) == ("Emerald", ["Emerald"])
    assert predictions.to_text(prediction) == "Unknown: unlike the training photos; most similar to Emerald"


@pytest.mark.parametrize(
    ("gems", "expected"),
    [
        (["Ruby"], "Ruby"),
        (["Ruby", "Spinel"], "Ruby or Spinel"),
        (["Ruby", "Spinel", "Pyrope"], "Ruby, Spinel or Pyrope"),
        (["Ruby", "Spinel", "Pyrope", "Zircon", "Opal", "Topaz"], "Ruby, Spinel, Pyrope, Zircon or one of 2 more"),
    ],
)
def test_prediction_set_as_text(gems: list[str], expected: str) -> None:
    prediction = predictions.to_predictions(PROBABILITIES, EMBEDDING, METADATA)[0]
    assert predictions.to_text(replace(prediction, prediction_set=gems)) == expected


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
        "set_threshold": 0.25,
        "neighbours": 2,
        "unknown_distance": 0.4,
    }
    read = metadata.read(model_folder)
    assert (read.classes, read.hierarchy, read.thresholds) == (CLASSES, METADATA.hierarchy, METADATA.thresholds)
    assert predictions.to_predictions(PROBABILITIES, EMBEDDING, read) == predictions.to_predictions(
        PROBABILITIES, EMBEDDING, METADATA
    )


@pytest.mark.parametrize("name", ["hierarchy.json", "thresholds.json", "reference.npz"])
def test_missing_or_damaged_file_is_an_error_with_the_remedy(model_folder: Path, name: str) -> None:
    (model_folder / name).write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"damaged: .* train it again"):
        metadata.read(model_folder)
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
