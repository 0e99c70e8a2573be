"""Pictures and pages of 1,000 classes: their size has a bound, and they say what is left out."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gemmodel.describe import plots as data_plots
from gemmodel.describe import report as data_report
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
    figure = data_plots.mean_colours({name: tuple(RNG.random(3)) for name in CLASSES})
    assert pixels(figure, 110) < MAX_PIXELS
    assert "of 1000 gems" in figure.axes[0].get_title()


def test_the_samples(tmp_path: Path, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    draw(1, size=(64, 64)).save(tmp_path / "a.jpg")
    notes: list[str] = []
    sheet = data_report.tiles.contact_sheet

    def recorded(*arguments: Any, note: str, **options: Any) -> Image.Image:
        notes.append(note)
        return sheet(*arguments, note=note, **options)

    monkeypatch.setattr(data_report.tiles, "contact_sheet", recorded)
    picture = data_report._samples({name: [tmp_path / "a.jpg"] for name in CLASSES})
    assert picture.width * picture.height < MAX_PIXELS
    assert data_report._samples({"Ruby": [tmp_path / "a.jpg"]}).width < picture.width
    assert notes == ["160 of 1000 gems", ""]


def test_the_static_map() -> None:
    gems = [CLASSES[i] for i in RNG.integers(0, 1000, 2000)]
    number = len(set(gems))
    mineral_classes = {name: f"Class {i // 3}" for i, name in enumerate(CLASSES)}
    figure = exploration_report.static_map(RNG.normal(size=(2000, 2)), gems, mineral_classes, title="UMAP")
    (axes,) = figure.axes
    assert len(axes.texts) == 120
    assert f"120 most frequent of {number} gems" in axes.get_title()
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(legend) <= 32
    assert any(text.startswith("and ") for text in legend)


def test_the_diagram_of_gems_and_clusters() -> None:
    gems, clusters = [CLASSES[i] for i in RNG.integers(0, 1000, 3000)], RNG.integers(0, 1000, 3000)
    mineral_classes = {name: name for name in CLASSES}
    figure = exploration_report.flow(
        gems, clusters, mineral_classes, exploration_report.palette(gems, mineral_classes)[1]
    )
    node, link = figure.data[0].node, figure.data[0].link
    assert len(node.label) == 242
    assert node.label[120] == f"{len(set(gems)) - 120} other gems"
    assert node.label[-1] == f"{len(set(clusters.tolist())) - 120} other clusters"
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
