"""The folder of tables and pictures, whatever a model knows and however many classes there are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gemmodel.core import image_folder
from gemmodel.evaluate import report
from gemmodel.evaluate.metrics import Predictions
from gemmodel.register import comparison

Write = Callable[..., tuple[Predictions, Path]]


@pytest.fixture
def write(tmp_path: Path, draw: Callable[..., Image.Image], settings: Callable[..., Any]) -> Write:
    def written(classes: list[str], out: str = "out", *, wrong: bool = True) -> tuple[Predictions, Path]:
        photos = tmp_path / "test"
        actual = np.arange(len(classes)).repeat(2)
        files = [f"{classes[gem]}/{place}.jpg" for place, gem in enumerate(actual)]
        for place, file in enumerate(files):
            (photos / file).parent.mkdir(parents=True, exist_ok=True)
            draw(place % 7, size=(90, 70)).save(photos / file)
        chosen = np.where((np.arange(len(actual)) % 3 == 0) & wrong, (actual + 1) % len(classes), actual)
        given = np.full((len(actual), len(classes)), 0.3 / len(classes))
        given[np.arange(len(actual)), chosen] += 0.7
        predictions = Predictions(files, actual, given, classes)
        panels = {"first": [*classes[:3], "Unobtainium"], "none": ["Unobtainium"]}
        params = settings({"evaluate.panels": panels}).evaluate
        (tmp_path / out).mkdir()
        report.write(tmp_path / out, predictions, photos, image_folder.list_images(photos), params, seed=1)
        return predictions, tmp_path / out

    return written


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("number", [2, 87])
def test_all_of_it_is_there_and_can_be_looked_at(write: Write, number: int, wrong: bool) -> None:
    _, out = write([f"Gem {place}" for place in range(number)], wrong=wrong)
    assert {path.name for path in out.glob("*.jpg")} == {
        "mistakes.jpg", "confused_pairs.jpg", "random.jpg", "panel_first.jpg", "panel_none.jpg",
    }  # fmt: skip
    assert {path.name for path in out.glob("*.png")} == {"confusion.png", "reliability.png", "abstention.png"}
    for path in [*out.glob("*.jpg"), *out.glob("*.png")]:
        with Image.open(path) as picture:
            assert 100 < picture.width < 4000
            assert 100 < picture.height < 6000


def test_the_same_answers_give_the_same_bytes(write: Write) -> None:
    gems = ["Agate", "Ruby", "Topaz"]
    (_, one), (_, other) = write(gems), write(gems, "again")
    assert len(list(one.iterdir())) == 15
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_tables_are_read_back_as_they_were(write: Write) -> None:
    predictions, out = write(["right", "file", "actual"])  # a class may be called as a column is
    answers = pd.read_csv(out / "predictions.csv")
    np.testing.assert_allclose(answers[["P(right)", "P(file)", "P(actual)"]], predictions.probabilities, atol=1e-6)
    assert answers["file"].tolist() == predictions.files
    assert answers["actual"].tolist() == [predictions.classes[gem] for gem in predictions.actual]
    shares = pd.read_csv(out / "confusion_fractions.csv", index_col="actual")
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    counts = pd.read_csv(out / "confusion.csv", index_col="actual")
    assert (counts.sum(axis=1) == 2).all()


def test_what_a_model_gained_can_be_looked_at(tmp_path: Path, draw: Callable[..., Image.Image]) -> None:
    draw(1).save(tmp_path / "a.jpg")
    changed = pd.DataFrame([("a.jpg", "Ruby", "Spinel", "Ruby")], columns=["file", "actual", "before", "now"])
    picture = comparison.picture(changed, tmp_path)
    assert min(picture.size) > 100
    frame = picture.getpixel((8, 26))  # of the only tile, at its left edge
    assert frame[1] > frame[0]  # green: now right
    assert min(comparison.picture(changed.iloc[:0], tmp_path).size) > 100
