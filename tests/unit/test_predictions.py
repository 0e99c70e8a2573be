"""What a person is told of a photo, and what it is told from."""

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
KNOWN = ModelMetadata(
    classes=CLASSES,
    hierarchy={"Almandine": "Garnet", "Emerald": "Beryl", "Pyrope": "Garnet"},
    confidence=Thresholds(coverage=0.9, set_threshold=0.25, neighbours=2, unknown_distance=0.4),
    reference=ReferenceSet(
        embedding=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8]], np.float32),
        labels=np.array([0, 1, 2, 2], np.int32),
        files=np.array(["Almandine/a_0.jpg", "Emerald/e_0.jpg", "Pyrope/p_0.jpg", "Pyrope/p_1.jpg"]),
    ),
)
PROBABILITIES = np.array([[0.5, 0.1, 0.4], [0.1, 0.8, 0.1]], np.float32)
EMBEDDING = np.array([[1, 0, 0], [0, 0.1, 0]], np.float32)


def test_an_answer_tells_both_labels_the_set_and_the_nearest_photos() -> None:
    red, _ = predictions.to_predictions(PROBABILITIES, EMBEDDING, KNOWN, top=2)
    assert (red.gem, red.mineral_class, red.prediction_set) == ("Almandine", "Garnet", ["Almandine", "Pyrope"])
    assert red.probability == pytest.approx(0.5)
    assert [gem for gem, _ in red.top] == ["Almandine", "Pyrope"]
    assert [(known.file, known.gem) for known in red.nearest] == [
        ("Almandine/a_0.jpg", "Almandine"),
        ("Pyrope/p_1.jpg", "Pyrope"),
    ]
    assert red.distance == pytest.approx((0 + 0.4) / 2)
    assert not red.unknown
    assert predictions.to_text(red) == "Almandine or Pyrope"


def test_a_photo_unlike_all_known_ones_is_unknown_whatever_its_probability() -> None:
    _, strange = predictions.to_predictions(PROBABILITIES, EMBEDDING, KNOWN)
    assert strange.unknown and strange.distance > 0.4
    assert (strange.gem, strange.prediction_set) == ("Emerald", ["Emerald"])
    assert predictions.to_text(strange) == "No gem that I know; the nearest is Emerald"


@pytest.mark.parametrize(
    ("gems", "told"),
    [
        (["Ruby"], "Ruby"),
        (["Ruby", "Spinel"], "Ruby or Spinel"),
        (["Ruby", "Spinel", "Pyrope"], "Ruby, Spinel or Pyrope"),
        (["Ruby", "Spinel", "Pyrope", "Zircon", "Opal", "Topaz"], "Ruby, Spinel, Pyrope, Zircon or one of 2 more"),
    ],
)
def test_a_set_in_words(gems: list[str], told: str) -> None:
    answer = predictions.to_predictions(PROBABILITIES, EMBEDDING, KNOWN)[0]
    assert predictions.to_text(replace(answer, prediction_set=gems)) == told


def test_what_lies_beside_a_model_comes_back(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    metadata.write(KNOWN, tmp_path)
    assert json.loads((tmp_path / "confidence.json").read_text()) == {
        "coverage": 0.9,
        "set_threshold": 0.25,
        "neighbours": 2,
        "unknown_distance": 0.4,
    }
    found = metadata.read(tmp_path)
    assert (found.classes, found.hierarchy, found.confidence) == (CLASSES, KNOWN.hierarchy, KNOWN.confidence)
    assert predictions.to_predictions(PROBABILITIES, EMBEDDING, found) == predictions.to_predictions(
        PROBABILITIES, EMBEDDING, KNOWN
    )


@pytest.mark.parametrize("name", ["hierarchy.json", "confidence.json", "reference.npz"])
def test_a_missing_or_damaged_file_is_told_with_the_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    metadata.write(KNOWN, tmp_path)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"damaged: .* train it anew"):
        metadata.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: no such file"):
        metadata.read(tmp_path)


def test_answers_need_neither_tensorflow_nor_mlflow(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ended = run("-c", "import sys, gemmodel.delivery.answers; print(*sys.modules)", cwd=tmp_path)
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & set(ended.stdout.split()), ended.stderr
    assert "gemmodel.delivery.answers" in ended.stdout


def test_scores_of_labels_and_sets() -> None:
    """Four photos: right; wrong gem of the right class; wrong class, right gem in the set; right class, not in it."""
    probabilities = np.array([[0.9, 0.05, 0.05], [0.5, 0.1, 0.4], [0.3, 0.6, 0.1], [0.7, 0.2, 0.1]])
    found = set_metrics.per_photo(np.array([0, 2, 0, 2]), probabilities, KNOWN)
    assert {name: values.mean() for name, values in found.items()} == {
        "mineral_class_accuracy": 0.75,
        "label_score": (1 + 3) / 4,
        "set_coverage": 0.75,
        "set_size": 1.5,
        "singleton_rate": 0.5,
    }
