"""Metrics computed by hand, and plots."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from dvc_render import VegaRenderer
from PIL import Image
from scipy.stats import binomtest

from gemmodel.core import params
from gemmodel.evaluate import metrics
from gemmodel.evaluate.metrics import Predictions
from gemmodel.figures import plots
from gemmodel.train import curves
from gemmodel.train.penalty_curves import penalty_curves
from gemmodel.train.ridge.kernel_ridge import KernelRidge

ROOT = Path(__file__).parents[2]
# Seven photos of three gems. The comments are: actual, predicted.
PROBABILITIES = np.array(
    [
        [0.90, 0.05, 0.05],  # Agate, Agate
        [0.30, 0.60, 0.10],  # Agate, Ruby
        [0.20, 0.75, 0.05],  # Agate, Ruby
        [0.05, 0.90, 0.05],  # Ruby, Ruby
        [0.45, 0.15, 0.40],  # Ruby, Agate
        [0.10, 0.20, 0.70],  # Topaz, Topaz
        [0.02, 0.03, 0.95],  # Topaz, Topaz
    ]
)
ACTUAL = np.array([0, 0, 0, 1, 1, 2, 2])
GEMS = ["Agate", "Ruby", "Topaz"]


def predictions(
    probabilities: np.ndarray = PROBABILITIES, actual: np.ndarray = ACTUAL, classes: Sequence[str] = GEMS
) -> Predictions:
    files = [f"{classes[label]}/{i}.jpg" for i, label in enumerate(actual)]
    return Predictions(files, actual, probabilities, list(classes))


def test_the_rows_of_the_confusion_matrix_are_actual_gems() -> None:
    np.testing.assert_array_equal(metrics.confusion(predictions()), [[1, 2, 0], [1, 1, 0], [0, 0, 2]])


def test_scores_by_hand() -> None:
    scores = metrics.compute_scores(predictions(), top=2)
    precision, recall = [1 / 2, 1 / 3, 1], [1 / 3, 1 / 2, 1]
    actual_probs = PROBABILITIES[range(7), ACTUAL]
    assert scores == pytest.approx(
        {
            "photos": 7,
            "accuracy": 4 / 7,
            "top_2_accuracy": 6 / 7,  # the fifth photo's Ruby is the third of its probabilities
            "macro_precision": np.mean(precision),
            "macro_recall": np.mean(recall),
            "macro_f1": np.mean([2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]),
            "micro_precision": 4 / 7,
            "micro_recall": 4 / 7,
            "micro_f1": 4 / 7,
            "log_loss": -np.log(actual_probs).mean(),
            # Squared distances to certainty, photo by photo.
            "brier_score": (0.015 + 0.86 + 1.205 + 0.015 + 1.085 + 0.14 + 0.0038) / 7,
            # Bins of 0.1 by confidence: 0.9 0.9 0.95 (all right), 0.6 (wrong), 0.75 0.7 (one right), 0.45 (wrong).
            "calibration_error": (3 * (1 - 2.75 / 3) + 0.6 + 2 * abs(0.5 - 0.725) + 0.45) / 7,
        },
        abs=1e-6,  # scores are rounded to six digits
    )
    assert all(round(value, 6) == value for value in scores.values())


@pytest.mark.parametrize(
    ("probabilities", "actual", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], 0),
        ([[1.0, 0.0], [0.0, 1.0]], [1, 0], 1),
        ([[0.75, 0.25]] * 4, [0, 0, 0, 1], 0),
        ([[0.75, 0.25]] * 4, [0, 0, 0, 0], 0.25),
        ([[0.55, 0.45], [0.95, 0.05]], [0, 1], (0.45 + 0.95) / 2),
    ],
)
def test_calibration_error_by_hand(probabilities: list[list[float]], actual: list[int], expected: float) -> None:
    result = predictions(np.array(probabilities), np.array(actual), classes=["cats", "dogs"])
    assert metrics.calibration_error(result) == pytest.approx(expected)


def test_scores_by_class_by_hand() -> None:
    rows = metrics.scores_by_class(predictions())
    assert rows[0] == {
        "gem": "Agate", "photos": 3, "accuracy": 0.333333, "low": 0.061492, "high": 0.79234, "precision": 0.5,
        "f1": 0.4, "most_often_taken_for": "Ruby",
    }  # fmt: skip
    assert [row["gem"] for row in rows] == GEMS
    assert [row["most_often_taken_for"] for row in rows] == ["Ruby", "Agate", ""]


def test_the_table_has_one_row_per_photo_with_all_probabilities() -> None:
    table = metrics.table(predictions())
    assert table.iloc[4].to_dict() == {
        "file": "Ruby/4.jpg", "actual": "Ruby", "predicted": "Agate", "right": False, "probability": 0.45,
        "P(Agate)": 0.45, "P(Ruby)": 0.15, "P(Topaz)": 0.4,
    }  # fmt: skip
    assert table["right"].sum() == 4


@pytest.mark.parametrize(("top", "expected"), [(1, 0.75), (2, 1.0), (5, 1.0)])
def test_top_k_accuracy_of_two_classes(top: int, expected: float) -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    scores = metrics.compute_scores(
        predictions(probabilities, np.array([0, 1, 1, 1]), classes=["cats", "dogs"]), top=top
    )
    assert (scores["accuracy"], scores[f"top_{top}_accuracy"]) == (0.75, expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("top", [3, 5])
def test_top_k_accuracy_is_one_from_the_number_of_classes_on(top: int) -> None:
    assert metrics.compute_scores(predictions(), top=top)[f"top_{top}_accuracy"] == 1


def test_a_class_without_test_photos_is_allowed() -> None:
    keep = ACTUAL != 1
    without_ruby = predictions(PROBABILITIES[keep], ACTUAL[keep])
    scores = metrics.compute_scores(without_ruby, top=2)
    assert (scores["photos"], scores["accuracy"], scores["top_2_accuracy"]) == (5, 0.6, 1.0)
    assert all(np.isfinite(value) for value in scores.values())
    rows = metrics.scores_by_class(without_ruby)
    assert (rows[1]["photos"], rows[1]["accuracy"], rows[1]["most_often_taken_for"]) == (0, 0, "")
    assert (rows[1]["low"], rows[1]["high"]) == (0, 1)
    fractions = plots.normalize_rows(metrics.confusion(without_ruby))
    np.testing.assert_allclose(fractions, [[1 / 3, 2 / 3, 0], [0, 0, 0], [0, 0, 1]])
    assert sorted(metrics.look_alike_order(without_ruby)) == [0, 1, 2]
    assert metrics.compute_scores(without_ruby, top=2, bootstrap_samples=20)["intervals"]["macro_f1"]["low"] >= 0


@pytest.mark.filterwarnings("error")
def test_the_log_loss_of_float32_probabilities_is_finite_and_that_of_their_values() -> None:
    softmax = np.exp(np.random.default_rng(0).normal(0, 5, (40, 87))).astype(np.float32)
    softmax /= softmax.sum(axis=1, keepdims=True)
    softmax[0] = np.eye(87)[1]  # certain of a wrong class
    scores = metrics.compute_scores(predictions(softmax, np.arange(40), classes=[f"gem {i}" for i in range(87)]), top=5)
    actual_probs = np.maximum(softmax[range(40), range(40)].astype(float), np.finfo(np.float32).eps)
    assert scores["log_loss"] == pytest.approx(-np.log(actual_probs).mean(), abs=1e-6)  # rounded to six digits


def test_an_interval_contains_its_score_and_depends_on_the_seed_only() -> None:
    scores = metrics.compute_scores(predictions(), top=2, bootstrap_samples=500, seed=3)
    assert scores == metrics.compute_scores(predictions(), top=2, bootstrap_samples=500, seed=3)
    intervals = scores["intervals"]
    assert set(intervals) == set(scores) - {"photos", "intervals"}
    assert all(bounds["low"] <= scores[name] <= bounds["high"] for name, bounds in intervals.items())


def test_an_interval_is_as_wide_as_wilsons_with_one_photo_of_each_gem() -> None:
    """Samples that are drawn within each gem would all be the same."""
    gems, right = np.arange(80), np.arange(80) < 64
    probabilities = np.eye(80)[np.where(right, gems, (gems + 1) % 80)]
    scores = metrics.compute_scores(
        predictions(probabilities, gems, classes=[f"gem {i}" for i in gems]), top=1, bootstrap_samples=2000
    )
    wilson = binomtest(64, 80).proportion_ci(0.95, method="wilson")
    bounds, by_gem = scores["intervals"]["accuracy"], scores["intervals"]["macro_recall"]
    assert bounds["high"] - bounds["low"] == pytest.approx(wilson.high - wilson.low, rel=0.1)
    assert by_gem["low"] < scores["macro_recall"] == 0.8 < by_gem["high"]


def test_an_interval_has_the_width_of_the_normal_approximation() -> None:
    right = np.random.default_rng(0).random(400) < 0.8
    probabilities = np.where(right[:, None], [[0.7, 0.3]], [[0.3, 0.7]])
    scores = metrics.compute_scores(
        predictions(probabilities, np.zeros(400, int), classes=["a", "b"]), top=1, bootstrap_samples=2000
    )
    bounds, error = scores["intervals"]["accuracy"], np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert bounds["high"] - bounds["low"] == pytest.approx(
        2 * 1.96 * error, rel=0.1
    )  # sampling error of 2,000 samples: 0.03


def test_extra_values_per_photo_become_scores() -> None:
    covered = np.array([True, True, False, True, True, True, True])
    scores = metrics.compute_scores(predictions(), top=2, bootstrap_samples=50, extra={"coverage": covered})
    assert scores["coverage"] == pytest.approx(6 / 7, abs=1e-6)
    assert scores["intervals"]["coverage"]["high"] == 1


def test_reliability_by_hand() -> None:
    table = metrics.reliability(predictions())  # of few photos, one bin
    assert table[["from", "to", "photos"]].to_numpy().tolist() == [[0.45, 0.95, 7]]
    assert table["accuracy"].tolist() == pytest.approx([4 / 7], abs=1e-6)
    assert table["confidence"].tolist() == pytest.approx([PROBABILITIES.max(axis=1).mean()], abs=1e-6)
    assert table[["low", "high"]].iloc[0].tolist() == pytest.approx([0.2505, 0.8418], abs=1e-3)  # Wilson's, of 4 in 7


@pytest.mark.parametrize(("photos", "expected"), [(87, [18, 18, 17, 17, 17]), (400, [40] * 10)])
def test_the_bins_of_reliability_have_equal_numbers_of_photos(photos: int, expected: list[int]) -> None:
    confidence = np.linspace(0.5, 0.99, photos)
    both = np.stack([confidence, 1 - confidence], axis=1)
    table = metrics.reliability(predictions(both, np.zeros(photos, int), ["Agate", "Ruby"]))
    assert table["photos"].tolist() == expected
    assert (table["from"].to_numpy()[1:] > table["to"].to_numpy()[:-1]).all()
    assert (table["high"] == 1).all() and (table["low"] > 0.7).all()


def test_abstention_by_hand() -> None:
    table = metrics.abstention(predictions())
    assert table["threshold"].tolist() == [0.95, 0.9, 0.75, 0.7, 0.6, 0.45]  # 0.9 covers two photos
    assert table["coverage"].tolist() == pytest.approx(np.array([1, 3, 4, 5, 6, 7]) / 7, abs=1e-6)
    assert table["accuracy"].tolist() == pytest.approx([1, 1, 3 / 4, 4 / 5, 4 / 6, 4 / 7], abs=1e-6)


def test_confused_pairs_count_both_directions() -> None:
    assert metrics.confused_pairs(predictions()).to_dict("records") == [
        {"gem": "Agate", "other": "Ruby", "gem_as_other": 2, "other_as_gem": 1, "confused": 3, "fraction": 0.6}
    ]
    right = np.array([0, 3, 5, 6])
    assert metrics.confused_pairs(predictions(PROBABILITIES[right], ACTUAL[right])).empty


def test_look_alikes_are_neighbours_in_the_order() -> None:
    probabilities = np.full((6, 6), 0.02)
    for gem, look_alike in enumerate([3, 4, 5, 0, 1, 2]):
        probabilities[gem, gem], probabilities[gem, look_alike] = 0.6, 0.32
    order = metrics.look_alike_order(predictions(probabilities, np.arange(6), classes=list("abcdef"))).tolist()
    assert sorted(order) == list(range(6))
    assert all(abs(order.index(gem) - order.index(gem + 3)) == 1 for gem in range(3))


@pytest.mark.parametrize("number", [2, 87])
def test_a_heatmap_shows_fractions_by_colour_and_counts_as_text(number: int) -> None:
    matrix = np.diag(np.full(number, 4)) + np.eye(number, k=1, dtype=int)
    matrix[0] = 0  # a class without photos
    names = [f"A gem's long name {i}" for i in range(number)]
    figure = plots.confusion_heatmap(matrix, names)
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array(), plots.normalize_rows(matrix))
    counts = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert counts == {(column, row): matrix[row, column] for row, column in zip(*np.nonzero(matrix), strict=True)}
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert axes.get_title() == f"{4 * (number - 1)} of {matrix.sum()} test photos right"
    picture = render(figure)
    assert 300 <= picture.width <= 5000
    assert 300 <= picture.height <= 5000


@pytest.mark.parametrize("epochs", [1, 30])
def test_learning_curves_show_each_metric_and_the_best_epoch(epochs: int, tmp_path: Path) -> None:
    history = {
        name: list(np.linspace(start, 0.9, epochs))
        for name, start in (("loss", 0.1), ("accuracy", 0.2), ("val_loss", 0.3), ("val_accuracy", 0.4))
    }
    assert curves.write(tmp_path / "curves.csv", history, epochs - 1) == tmp_path / "curves.png"
    points = pd.read_csv(tmp_path / "curves.csv")
    validation = points[points["curve"] == "validation"]
    assert validation["step"].tolist() == list(range(epochs))
    assert validation["loss"].tolist() == history["val_loss"]
    figure = curves.learning_curves(history, epochs - 1)
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
        training, validation, best_epoch = axes.lines
        assert list(training.get_ydata()) == history[name]
        assert list(validation.get_ydata()) == history[f"val_{name}"]
        assert list(best_epoch.get_xdata()) == [epochs - 1, epochs - 1]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 200


def test_the_curves_of_a_fit_in_closed_form_are_those_of_its_leave_one_out_scores(
    settings: Callable[..., params.Params],
) -> None:
    model = settings({"model.fusion.degree": [3], "model.fusion.stacking_penalty": 0.0}).model.fusion
    rng = np.random.default_rng(0)
    labels = np.arange(3).repeat(10)
    features = (rng.normal(size=(3, 20))[labels] + rng.normal(size=(30, 20))).astype(np.float32)
    ridge = KernelRidge(model, classes=3, blocks=[20], penalty=0.1).fit(features, labels)
    history = {"val_loss": [0.5, 0.6], "val_accuracy": [0.9, 0.8]}
    points = penalty_curves(ridge, labels, history, [0.1, 0.3], 0.1)
    alone = points[points["curve"].str.startswith("degree 3")].set_index("step")
    head = points[points["curve"] == "the head, each photo left out"]
    assert len(alone) == 5
    assert alone.loc[0.1, ["loss", "accuracy"]].tolist() == pytest.approx(head.iloc[0, 2:].tolist())
    figure = curves.closed_form_curves(points)
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [5, 5, 1, 2]
    assert render(figure).width > 200


@pytest.mark.parametrize("name", ["Loss", "Accuracy"])
def test_dvc_draws_the_points_of_all_curves(tmp_path: Path, name: str) -> None:
    history = {"loss": [0.9, 0.4], "accuracy": [0.6, 0.8], "val_loss": [0.8, 0.5], "val_accuracy": [0.5, 0.7]}
    curves.write(tmp_path / "curves.csv", history, 1)
    with (tmp_path / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    plot = next(plot[name] for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] if name in plot)
    ((path, column),) = plot["y"].items()
    drawn = VegaRenderer(
        [row | {"rev": "workspace"} for row in rows],
        name,
        **plot | {"y": column, "template_dir": str(ROOT / ".dvc" / "plots")},
        anchors_y_definitions=[{"filename": path, "field": column}],
    ).get_filled_template()
    values, encoding = drawn["data"]["values"], drawn["encoding"]
    points = [tuple(float(row[encoding[axis]["field"]]) for axis in "xy") for row in values]
    metric = name.lower()
    assert points == [*enumerate(history[metric]), *enumerate(history[f"val_{metric}"])]
    assert {row[encoding["color"]["field"]] for row in values} == {"training", "validation"}


def render(figure: plots.Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    return Image.open(file)
