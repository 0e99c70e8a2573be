"""Pictures and pages of 1,000 classes: their size has a bound, and they say what is left out."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gemmodel.describe import plots as data_plots
from gemmodel.describe import report as data_report
from gemmodel.evaluate import confusion_page, metrics
from gemmodel.explore import report as exploration_report
from gemmodel.figures import plots
from gemmodel.register import comparison

CLASSES = [f"Gem {i:04d}" for i in range(1000)]
MAX_PIXELS = 15_000_000
RNG = np.random.default_rng(0)


def pixels(figure: Figure, dpi: int) -> int:
    width, height = figure.get_size_inches() * dpi
    return int(width * height)


def confusion() -> np.ndarray:
    matrix = 3 * np.eye(1000, dtype=int)
    np.add.at(matrix, tuple(RNG.integers(0, 1000, (2, 2000))), 1)
    return matrix


def test_a_large_confusion_matrix_is_condensed_to_the_classes_with_the_most_errors() -> None:
    matrix, names = np.diag([5, 4, 3, 2]), ["a", "b", "c", "d"]
    matrix[0, 3], matrix[1, 2] = 2, 1
    small, shown = plots.condense(matrix, names, 2)
    assert shown == ["a", "d", "2 others"]
    assert small.tolist() == [[5, 2, 0], [0, 2, 0], [0, 0, 8]]
    assert plots.condense(matrix, names, 4) == (matrix, names)


def test_the_confusion_matrix() -> None:
    matrix = confusion()
    figure = plots.confusion_heatmap(matrix, CLASSES, table="confusion.csv")
    assert pixels(figure, 120) < MAX_PIXELS
    (axes,) = figure.axes
    title = axes.get_title()
    assert f"{np.trace(matrix)} of {matrix.sum()} test photos right" in title
    assert "100 of 1000 classes" in title and "confusion.csv" in title
    assert axes.images[0].get_array().shape == (101, 101)
    assert axes.get_xticklabels()[-1].get_text() == "900 others"


def test_the_bars_of_photos_by_gem() -> None:
    counts = {"train": {name: 1 + i for i, name in enumerate(CLASSES)}, "val": dict.fromkeys(CLASSES, 1)}
    figure = data_plots.counts_by_gem(counts)
    assert pixels(figure, 110) < MAX_PIXELS
    (axes,) = figure.axes
    shown = {label.get_text() for label in axes.get_yticklabels()}
    assert shown == {*CLASSES[:60], *CLASSES[-60:]}
    assert "60 gems with the most and the 60 with the fewest photos, of 1000" in axes.get_title()
    assert figure.legends[0].get_texts()[0].get_text() == "train (500500)"  # of all gems


def test_the_mean_colours() -> None:
    shown = data_plots.sorted_by_hue({name: tuple(RNG.random(3)) for name in CLASSES})
    assert len(shown) == len(set(shown)) == 240


def test_the_bars_of_the_data_page() -> None:
    counts = {"train": {name: 1 + i for i, name in enumerate(CLASSES)}, "val": {CLASSES[-1]: 1000}}
    bars = data_plots.bars(counts)
    assert [gem for gem, _, _ in bars] == [*CLASSES[:60], *CLASSES[-60:]]
    assert bars[-1] == (CLASSES[-1], 2000, [("train", 1000, 50.0), ("val", 1000, 50.0)])


def test_the_samples(tmp_path: Path, draw: Callable[..., Image.Image]) -> None:
    draw(1, size=(64, 64)).save(tmp_path / "a.jpg")
    gallery = data_report._samples({name: [tmp_path / "a.jpg"] for name in CLASSES})
    picture = gallery.picture()
    assert picture.width * picture.height < MAX_PIXELS
    assert (len(gallery.tiles), gallery.note) == (160, "160 of 1000 gems")
    one = data_report._samples({"Ruby": [tmp_path / "a.jpg"]})
    assert one.picture().width < picture.width and one.note == ""


def test_the_interactive_confusion_matrix(tmp_path: Path, draw: Callable[..., Image.Image]) -> None:
    draw(1, size=(64, 64)).save(tmp_path / "a.jpg")
    actual = np.arange(1000).repeat(3)
    predicted = np.where(np.arange(3000) % 3, actual, (actual + 1) % 1000)
    probabilities = np.full((3000, 1000), 1e-4, np.float32)
    probabilities[np.arange(3000), predicted] = 0.9
    predictions = metrics.Predictions(["a.jpg"] * 3000, actual, probabilities, CLASSES)
    confusion_page.write(tmp_path / "confusion.html", predictions, tmp_path)
    text = (tmp_path / "confusion.html").read_text(encoding="utf-8")
    assert len(text) < 15_000_000
    assert "The 250 gems with the most errors" in text and "1500 of 3000 photos are on this page" in text
    assert '"750 others"' in text


def test_the_static_map() -> None:
    gems = [CLASSES[i] for i in RNG.integers(0, 1000, 2000)]
    number = len(set(gems))
    colours = dict.fromkeys(CLASSES, "#336699")
    figure = exploration_report.static_map(RNG.normal(size=(2000, 2)), gems, colours, title="UMAP")
    (axes,) = figure.axes
    assert len(axes.texts) == 120
    assert f"120 most frequent of {number} gems" in axes.get_title()


def test_the_diagram_of_gems_and_clusters() -> None:
    gems, clusters = [CLASSES[i] for i in RNG.integers(0, 1000, 3000)], RNG.integers(0, 1000, 3000)
    mineral_classes = {name: name for name in CLASSES}
    figure = exploration_report.flow(gems, clusters, mineral_classes, dict.fromkeys(sorted(set(gems)), "#336699"))
    node, link = figure.data[0].node, figure.data[0].link
    assert len(node.label) == 243
    assert node.label[120] == f"{len(set(gems)) - 120} other gems"
    assert node.label[-2] == f"{len(set(clusters.tolist())) - 120} other clusters"
    assert node.label[-1] == "fewer than 15 % of a gem's photos each"
    assert sum(link.value) == 3000
    assert figure.layout.height < 4000
    assert len(figure.to_json()) < 1_000_000


def test_a_cluster_without_photos_is_left_out() -> None:
    assert exploration_report.cluster_names(["Ruby", "Opal"], np.array([0, 2])) == {
        0: "1: Ruby 100%",
        2: "3: Opal 100%",
    }


def test_the_photos_that_two_models_predict_differently(tmp_path: Path, draw: Callable[..., Image.Image]) -> None:
    draw(1, size=(64, 64)).save(tmp_path / "a.jpg")
    changed = pd.DataFrame([("a.jpg", "Ruby", "Spinel", "Ruby")] * 1000, columns=["file", "actual", "before", "now"])
    picture = comparison.picture(changed, tmp_path)
    assert picture.width * picture.height < MAX_PIXELS


def test_a_figure_of_few_classes_shows_all_and_says_nothing_of_it() -> None:
    figure = plots.confusion_heatmap(np.eye(3, dtype=int), ["a", "b", "c"])
    assert figure.axes[0].get_title() == "3 of 3 test photos right"
    png = io.BytesIO()
    figure.savefig(png, dpi=120)
    assert Image.open(png).size == (600, 600)


def test_the_rejected_files_of_the_data_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_report, "_thumbnail", lambda path: None)
    rows = [{"source": f"{name}/{i}.jpg", "reason": "small", "duplicates": []} for name in CLASSES for i in range(2)]
    shown, number = data_report._groups(Path("raw"), rows)
    assert (len(shown), number) == (1000, 2000)
