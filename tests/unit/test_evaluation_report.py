"""The evaluation report: its tables, diagrams and galleries, for few and for many classes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor

from gemmodel.core import image_folder
from gemmodel.evaluate import plots, report
from gemmodel.evaluate.metrics import Predictions
from gemmodel.figures import tiles
from gemmodel.register import comparison

Write = Callable[..., tuple[Predictions, Path]]
GEMS = ["Agate", "Ruby", "Topaz"]


@pytest.fixture
def write(tmp_path: Path, draw: Callable[..., Image.Image], settings: Callable[..., Any]) -> Write:
    """Write the report of two photos per gem, the first and then each third of which is taken for the next gem.

    The confidence falls from photo to photo.
    """

    def written(classes: list[str], out: str = "out", *, mistakes: bool = True) -> tuple[Predictions, Path]:
        photos = tmp_path / "test"
        actual = np.arange(len(classes)).repeat(2)
        files = [f"{classes[gem]}/{i}.jpg" for i, gem in enumerate(actual)]
        for i, file in enumerate(files):
            (photos / file).parent.mkdir(parents=True, exist_ok=True)
            draw(i, size=(90, 70)).save(photos / file)
        wrong = (np.arange(len(actual)) % 3 == 0) & mistakes
        predicted = np.where(wrong, (actual + 1) % len(classes), actual)
        confidence = np.linspace(0.95, 0.7, len(actual))
        probabilities = np.repeat((1 - confidence)[:, None] / (len(classes) - 1), len(classes), axis=1)
        probabilities[np.arange(len(actual)), predicted] = confidence
        predictions = Predictions(files, actual, probabilities, classes)
        panels = {"first": [*(f" {name.upper()}" for name in classes[:3]), "Unobtainium"], "none": ["Unobtainium"]}
        params = settings({"evaluate.panels": panels}).evaluate
        (tmp_path / out).mkdir()
        report.write(tmp_path / out, predictions, photos, image_folder.list_images(photos), params, seed=1)
        return predictions, tmp_path / out

    return written


@pytest.mark.parametrize("mistakes", [True, False])
@pytest.mark.parametrize("number", [2, 87])
def test_every_file_is_written_at_a_legible_size(write: Write, number: int, mistakes: bool) -> None:
    _, out = write([f"Gem {i}" for i in range(number)], mistakes=mistakes)
    assert {path.name for path in out.glob("*.jpg")} == {
        "mistakes.jpg", "confused_pairs.jpg", "random.jpg", "panel_first.jpg", "panel_none.jpg",
    }  # fmt: skip
    assert {path.name for path in out.glob("*.png")} == {
        "confusion.png", "confusion_worst.png", "reliability.png", "abstention.png",
    }  # fmt: skip
    for path in [*out.glob("*.jpg"), *out.glob("*.png")]:
        with Image.open(path) as picture:
            assert 100 < picture.width < 4000
            assert 100 < picture.height < 6000


def test_galleries_show_the_right_photos_frames_and_captions(write: Write, tmp_path: Path) -> None:
    predictions, out = write(GEMS)

    def prediction(i: int) -> tiles.Tile:
        actual, predicted = GEMS[predictions.actual[i]], GEMS[predictions.predicted[i]]
        frame = tiles.RIGHT if actual == predicted else tiles.WRONG
        caption = f"is {actual}\n{predictions.confidence[i]:.2f} {predicted}"
        return tiles.framed_tile(tmp_path / "test" / predictions.files[i], frame, caption)

    def example(i: int) -> tiles.Tile:
        caption = f"example of\n{GEMS[predictions.actual[i]]}"
        return tiles.framed_tile(tmp_path / "test" / predictions.files[i], tiles.EXAMPLE, caption)

    def assert_shows(name: str, cells: list[tiles.Tile], columns: int) -> None:
        expected = io.BytesIO()
        tiles.sheet(cells, columns).save(expected, "JPEG", quality=report.QUALITY)
        assert (out / name).read_bytes() == expected.getvalue(), name

    # Photos 0 and 1 are agates, 2 and 3 rubies, 4 and 5 topazes. Photo 0 is taken for a ruby, photo 3 for a topaz.
    assert predictions.predicted.tolist() == [1, 0, 1, 2, 2, 2]
    assert_shows("mistakes.jpg", [prediction(0), example(2), prediction(3), example(4)], 8)
    agate_ruby = [prediction(0), *map(example, (0, 1, 0)), *map(example, (2, 3, 2, 3))]
    ruby_topaz = [prediction(3), *map(example, (2, 3, 2)), *map(example, (4, 5, 4, 5))]
    assert_shows("confused_pairs.jpg", agate_ruby + ruby_topaz, 8)
    assert_shows("panel_first.jpg", [prediction(i) for i in range(6)], 2)
    assert_shows("panel_none.jpg", [], 8)
    rows = pd.read_csv(out / "predictions.csv").sample(6, random_state=1)
    assert_shows("random.jpg", [prediction(i) for i in rows.index], 5)


def test_a_contact_sheet_puts_each_photo_in_its_frame_above_its_caption(tmp_path: Path) -> None:
    blue = (20, 40, 200)
    Image.new("RGB", (200, 200), blue).save(tmp_path / "photo.png")
    colours = (tiles.RIGHT, tiles.WRONG, tiles.EXAMPLE)
    cells = [
        tiles.framed_tile(tmp_path / "photo.png", colour, "a caption wider than its tile " * 3) for colour in colours
    ]
    sheet = tiles.sheet(cells, columns=2)
    pixels = np.asarray(sheet)
    cell = np.array([128 + 6, 128 + 16 + 6])  # a tile and the gap; below a tile, a line of text
    for i, colour in enumerate(colours):
        left, top = 6 + cell * (i % 2, i // 2)
        assert sheet.getpixel((left + 1, top + 64)) == ImageColor.getrgb(colour)
        assert sheet.getpixel((left + 64, top + 64)) == blue
        caption = pixels[top + 128 : top + 128 + 16]
        assert caption[:, left : left + 128].min() < 100  # dark text
        assert caption[:, left + 128 : left + 134].min() == 255  # cut at the tile's width
    assert pixels[cell[1] + 6 :, cell[0] + 6 :].min() == 255  # the fourth cell is empty


def test_diagrams_draw_the_values_of_their_tables() -> None:
    bins = pd.DataFrame(
        {"confidence": [0.45, 0.95], "accuracy": [0.2, 1.0], "low": [0.1, 0.7], "high": [0.6, 1.0], "photos": [5, 9]}
    )
    upper, lower = plots.reliability_diagram(bins, np.array([0.45, 0.95, 0.96]), 0.125).axes
    (points, *_), (intervals,) = upper.containers[0][0:1], upper.containers[0][2]
    np.testing.assert_allclose(points.get_xydata(), bins[["confidence", "accuracy"]])
    np.testing.assert_allclose([segment[:, 1] for segment in intervals.get_segments()], bins[["low", "high"]])
    assert sum(bar.get_height() for bar in lower.patches) == 3
    assert "0.125" in upper.get_title()
    table = pd.DataFrame({"threshold": [0.9, 0.5], "coverage": [0.25, 1.0], "accuracy": [1.0, 0.8]})
    accuracy, threshold = plots.abstention_curve(table).axes[0].lines
    np.testing.assert_array_equal(accuracy.get_xydata(), table[["coverage", "accuracy"]])
    np.testing.assert_array_equal(threshold.get_xydata(), table[["coverage", "threshold"]])


def test_the_same_predictions_give_the_same_bytes(write: Write) -> None:
    (_, one), (_, other) = write(GEMS), write(GEMS, "again")
    assert len(list(one.iterdir())) == 20
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_tables_hold_the_predictions_also_of_classes_named_as_a_column(write: Write) -> None:
    predictions, out = write(["right", "file", "actual"])
    rows = pd.read_csv(out / "predictions.csv")
    probabilities = rows[["P(right)", "P(file)", "P(actual)"]]
    np.testing.assert_allclose(probabilities, predictions.probabilities, atol=1e-6)  # written with six digits
    assert rows["file"].tolist() == predictions.files
    assert rows["actual"].tolist() == [predictions.classes[gem] for gem in predictions.actual]
    counts = pd.read_csv(out / "confusion.csv", index_col="(actual)")
    assert counts.to_numpy().tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 2]]
    fractions = pd.read_csv(out / "confusion_fractions.csv", index_col="(actual)")
    assert fractions.to_numpy().tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]]


def test_a_picture_of_a_changed_prediction_has_the_frame_of_a_right_one_where_it_is_right_now(
    tmp_path: Path, draw: Callable[..., Image.Image]
) -> None:
    draw(1).save(tmp_path / "a.jpg")
    changed = pd.DataFrame([("a.jpg", "Ruby", "Spinel", "Ruby")], columns=["file", "actual", "before", "now"])
    picture = comparison.picture(changed, tmp_path)
    assert picture.getpixel((8, 26)) == ImageColor.getrgb(tiles.RIGHT)  # the left edge of the only tile
    now_wrong = comparison.picture(changed.assign(now="Spinel", before="Ruby"), tmp_path)
    assert now_wrong.getpixel((8, 26)) == ImageColor.getrgb(tiles.WRONG)
    assert min(comparison.picture(changed.iloc[:0], tmp_path).size) > 100


def test_the_tables_of_dvc_plots_have_a_bound(write: Write) -> None:
    predictions, out = write([f"Gem {i}" for i in range(130)])
    confusion = pd.read_csv(out / "plot_confusion.csv")
    assert len(confusion) == len(predictions.files)
    assert len({*confusion["actual"], *confusion["predicted"]}) == 101
    assert (confusion["predicted"] == "30 others").any()
    rows = pd.read_csv(out / "predictions.csv")
    shown = confusion["actual"] != "30 others"
    assert (confusion["actual"] == rows["actual"])[shown].all()
    classes = pd.read_csv(out / "plot_classes.csv")
    assert len(classes) == 100
    assert classes["accuracy"].is_monotonic_increasing
