"""Scores of a classifier on the test part, which neither training nor model selection uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from gemmodel.core import image_folder
from gemmodel.embed.litert import Graph
from gemmodel.figures.plots import normalize_rows

CALIBRATION_BINS = 10
MIN_PER_BIN = 15  # photos of a bin of the reliability diagram: of fewer, the accuracy says little
CONFIDENCE = 0.95  # of every interval
HEADLINE = (  # beside the top-k accuracy; the others are in reports/evaluation/scores.json
    "accuracy", "mineral_class_accuracy", "macro_f1", "log_loss", "calibration_error",
    "set_coverage", "set_size",
)  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """A model's predictions of photos.

    Attributes:
        files: the photos' paths, relative to their part.
        actual: class indices, int (photos,).
        probabilities: float (photos, classes).
        classes: the names in the order of the probabilities.
    """

    files: list[str]
    actual: np.ndarray
    probabilities: np.ndarray
    classes: list[str]

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class's index, int of shape (photos,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """Whether the most probable class is the actual one, bool of shape (photos,)."""
        return self.predicted == self.actual

    @property
    def confidence(self) -> np.ndarray:
        """The most probable class's probability, float of shape (photos,)."""
        return self.probabilities.max(axis=1)


def predict(graph: Graph, photos: Path, classes: Sequence[str]) -> Predictions:
    """Returns a model's predictions of the photos in a folder of class folders, by its export: what is served."""
    paths, labels = image_folder.list_samples(photos, classes)
    files = [path.relative_to(photos).as_posix() for path in paths]
    return Predictions(files, labels, graph.probabilities(paths), list(classes))


def compute_scores(
    predictions: Predictions,
    *,
    top: int,
    bootstrap_samples: int = 0,
    seed: int = 0,
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Returns the scores of predictions, rounded to six digits.

    Each photo has one gem and one prediction, so micro precision, recall and F1 all equal the accuracy. The Brier score
    is the sum over all gems, in [0, 2] (Brier, Monthly Weather Review 78, 1950).

    Args:
        predictions: of the test part.
        top: k of the top-k accuracy, which is 1 if k is at least the number of classes.
        bootstrap_samples: number of bootstrap samples of all photos; within each gem, of which there are few, the
            intervals would be too narrow. 0: no intervals.
        seed: of the bootstrap.
        extra: values per photo, shape (photos,), by the name of the score that is their mean.

    Returns:
        `photos`, the scores by name, and with a bootstrap their `intervals`: by name the bounds `low` and `high` of the
        95 % interval, percentiles of the scores of the bootstrap samples (Efron).
    """
    actual = predictions.actual
    values = _values_by_photo(predictions, top) | dict(extra or {})
    scores = _mean_scores(predictions, values, np.arange(len(actual)))
    rounded: dict[str, Any] = {"photos": len(actual)} | {name: round(value, 6) for name, value in scores.items()}
    if bootstrap_samples:
        rng = np.random.default_rng(seed)
        index_samples = rng.integers(len(actual), size=(bootstrap_samples, len(actual)))
        bootstrap = pd.DataFrame([_mean_scores(predictions, values, indices) for indices in index_samples])
        low, high = (bootstrap.quantile(q).round(6) for q in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
        rounded["intervals"] = {name: {"low": float(low[name]), "high": float(high[name])} for name in scores}
    return rounded


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores that `dvc exp show` and `dvc metrics diff` list, from those of `compute_scores`."""
    shown = {name: value for name, value in scores.items() if name in HEADLINE or name.startswith("top_")}
    return {"test_photos": scores["photos"]} | shown  # `dvc exp show` has a column `photos`, the folder's hash


def in_words(scores: Mapping[str, Any], training_set: str) -> str:
    """Returns the most important scores in two sentences of Markdown.

    Args:
        scores: from `compute_scores`.
        training_set: its size in words.
    """
    right, bounds = round(scores["accuracy"] * scores["photos"]), scores.get("intervals", {}).get("accuracy")
    interval = f", 95 % interval {bounds['low']:.3f} to {bounds['high']:.3f}" if bounds else ""
    top = next(name for name in scores if name.startswith("top_"))
    text = f"{right} of {scores['photos']} test photos right: accuracy **{scores['accuracy']:.3f}**{interval}; "
    return f"{text}{top.replace('_', ' ')} {scores[top]:.3f}. Trained on {training_set}."


def _values_by_photo(predictions: Predictions, top: int) -> dict[str, np.ndarray]:
    """Returns the values of each photo whose means are scores."""
    probs, photos = predictions.probabilities.astype(float), np.arange(len(predictions.actual))
    actual_probs = np.maximum(probs[photos, predictions.actual], np.finfo(predictions.probabilities.dtype).eps)
    best = np.argsort(-probs, axis=1, kind="stable")[:, :top]
    return {
        "accuracy": predictions.right,
        f"top_{top}_accuracy": (best == predictions.actual[:, None]).any(axis=1),
        "log_loss": -np.log(actual_probs),
        "brier_score": ((probs - np.eye(probs.shape[1])[predictions.actual]) ** 2).sum(axis=1),
    }


def _mean_scores(predictions: Predictions, values: Mapping[str, np.ndarray], indices: np.ndarray) -> dict[str, float]:
    """Returns all scores of the photos with these indices, which may repeat; macro averages are over their gems."""
    actual, predicted, classes = predictions.actual[indices], predictions.predicted[indices], len(predictions.classes)
    right, predicted_counts, actual_counts = (
        np.bincount(gems, minlength=classes) for gems in (actual[actual == predicted], predicted, actual)
    )
    means = {name: float(by_photo[indices].mean()) for name, by_photo in values.items()}
    averages = {
        "macro_precision": (right / np.maximum(predicted_counts, 1))[actual_counts > 0].mean(),
        "macro_recall": (right / np.maximum(actual_counts, 1))[actual_counts > 0].mean(),
        "macro_f1": (2 * right / np.maximum(predicted_counts + actual_counts, 1))[actual_counts > 0].mean(),
        "micro_precision": right.sum() / predicted_counts.sum(),
        "micro_recall": right.sum() / actual_counts.sum(),
        "micro_f1": 2 * right.sum() / (predicted_counts + actual_counts).sum(),
        "calibration_error": _calibration_error(predictions.confidence[indices], actual == predicted),
    }
    return means | {name: float(value) for name, value in averages.items()}


def calibration_error(predictions: Predictions) -> float:
    """Returns the expected calibration error over ten equal bins of confidence (Naeini and others, AAAI 2015)."""
    return _calibration_error(predictions.confidence, predictions.right)


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(np.bincount(_bins(confidence), weights=right - confidence)).sum() / len(right))


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def reliability(predictions: Predictions) -> pd.DataFrame:
    """Returns one row per bin of confidence; the bins have equal numbers of photos, `MIN_PER_BIN` or more if there are.

    Returns:
        The least and the greatest confidence of a bin, `from` and `to`; the means `confidence` and `accuracy`; the
        bounds `low` and `high` of the accuracy's 95 % interval, which are Wilson's; and the number of `photos`.
    """
    order = np.argsort(predictions.confidence, kind="stable")
    bins = min(CALIBRATION_BINS, max(1, len(order) // MIN_PER_BIN))
    rows = []
    for photos in np.array_split(order, bins):
        confidence, right = predictions.confidence[photos].astype(float), int(predictions.right[photos].sum())
        bounds = binomtest(right, len(photos)).proportion_ci(CONFIDENCE, method="wilson")
        accuracy = right / len(photos)
        rows.append((confidence[0], confidence[-1], confidence.mean(), accuracy, bounds.low, bounds.high, len(photos)))
    return pd.DataFrame(rows, columns=["from", "to", "confidence", "accuracy", "low", "high", "photos"]).round(6)


def abstention(predictions: Predictions) -> pd.DataFrame:
    """Returns the accuracy if the model abstains where its confidence is below a threshold.

    Returns:
        One row per threshold, the highest first: `threshold`, `coverage` (the fraction of photos with at least this
        confidence) and `accuracy` on them.
    """
    table = pd.DataFrame({"threshold": predictions.confidence, "right": predictions.right})
    table = table.sort_values("threshold", ascending=False, kind="stable")
    covered = np.arange(1, len(table) + 1)
    table = table.assign(coverage=covered / len(table), accuracy=table["right"].cumsum() / covered)
    # A threshold covers all photos of the same confidence.
    return table.drop_duplicates("threshold", keep="last").drop(columns="right").round(6).reset_index(drop=True)


def confusion(predictions: Predictions) -> np.ndarray:
    """Returns the counts, int of shape (classes, classes): one row per actual class, one column per predicted class."""
    return confusion_matrix(predictions.actual, predictions.predicted, labels=range(len(predictions.classes)))


def look_alike_order(predictions: Predictions) -> np.ndarray:
    """Returns the classes' indices in an order that puts those that the model confuses beside each other.

    The distance of two classes falls with the mean probability that each has on the other's photos, which is more
    informative than the few errors. The order is that of the leaves of a hierarchical clustering, arranged so that the
    sum of the distances of neighbours is minimal (Bar-Joseph and others, Bioinformatics 17, 2001).
    """
    one_hot = np.eye(len(predictions.classes))[predictions.actual]
    mean_probs = normalize_rows(one_hot.T @ predictions.probabilities.astype(float))
    similarity = np.sqrt(mean_probs + mean_probs.T)  # the root separates small values from zero
    distances = 1 - similarity / similarity.max()
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return leaves_list(tree)


def confused_pairs(predictions: Predictions) -> pd.DataFrame:
    """Returns one row per pair of gems that the model confuses, the most confused first.

    Returns:
        `gem`, `other`, `gem_as_other` and `other_as_gem` (numbers of photos), `confused` (their sum) and `fraction` (of
        the photos of both).
    """
    matrix, names = confusion(predictions), predictions.classes
    photos = matrix.sum(axis=1)
    rows = [
        (names[a], names[b], matrix[a, b], matrix[b, a], matrix[a, b] + matrix[b, a], photos[a] + photos[b])
        for a, b in zip(*np.nonzero(np.triu(matrix + matrix.T, k=1)), strict=True)
    ]
    table = pd.DataFrame(rows, columns=["gem", "other", "gem_as_other", "other_as_gem", "confused", "photos"])
    table["fraction"] = (table["confused"] / table.pop("photos")).astype(float).round(6)
    return table.sort_values(["confused", "fraction", "gem"], ascending=[False, False, True], ignore_index=True)


def scores_by_class(predictions: Predictions) -> list[dict[str, str | float | int]]:
    """Returns one row per class: name, number of photos, accuracy (recall), precision, F1, and its most frequent error.

    A class has a handful of photos, and a bootstrap without an error gives an interval of length 0. So the bounds of
    the accuracy (`low`, `high`) are Wilson's (Journal of the American Statistical Association 22, 1927). They are 0
    and 1 without photos.
    """
    matrix = confusion(predictions)
    columns = precision_recall_fscore_support(
        predictions.actual, predictions.predicted, labels=range(len(matrix)), zero_division=0
    )
    rows: list[dict[str, str | float | int]] = []
    for index, (precision, recall, f1, photos) in enumerate(zip(*columns, strict=True)):
        wrong = matrix[index].copy()
        wrong[index] = 0
        bounds = (0.0, 1.0)
        if photos:
            bounds = binomtest(int(matrix[index, index]), int(photos)).proportion_ci(CONFIDENCE, method="wilson")
        rows.append(
            {
                "gem": predictions.classes[index],
                "photos": int(photos),
                "accuracy": round(float(recall), 6),
                "low": round(float(bounds[0]), 6),
                "high": round(float(bounds[1]), 6),
                "precision": round(float(precision), 6),
                "f1": round(float(f1), 6),
                "most_often_taken_for": predictions.classes[int(wrong.argmax())] if wrong.any() else "",
            }
        )
    return rows


def table(predictions: Predictions) -> pd.DataFrame:
    """Returns one row per photo: file, actual and predicted gem, whether it is right, and all probabilities.

    `probability` is that of the predicted gem. The columns `P(gem)`, one per class, cannot clash with the other columns
    where a class is called `right`.
    """
    names = np.array(predictions.classes)
    rows = pd.DataFrame(
        {
            "file": predictions.files,
            "actual": names[predictions.actual],
            "predicted": names[predictions.predicted],
            "right": predictions.right,
            "probability": predictions.confidence.astype(float).round(6),
        }
    )
    probs = predictions.probabilities.astype(float).round(6)
    return rows.join(pd.DataFrame(probs, columns=[f"P({name})" for name in names]))
