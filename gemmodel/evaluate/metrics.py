"""Scores of a classifier on photos that no choice was made on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from gemmodel.embed import samples

CALIBRATION_BINS = 10
CONFIDENCE = 0.95  # of every interval


@dataclass(frozen=True)
class Predictions:
    """A model's answers: `actual` int (photos,), `probabilities` float (photos, classes)."""

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


def predict(model: keras.Model, photos: Path, classes: Sequence[str]) -> Predictions:
    """Returns the model's answers for a folder a class, from pixels on: the way that a user's photo goes."""
    paths, labels = samples.list_samples(photos, classes)
    data = samples.batches(paths, labels, classes=len(classes), image_size=model.input_shape[1], batch_size=8)
    files = [path.relative_to(photos).as_posix() for path in paths]
    return Predictions(files, labels, model.predict(data, verbose=0), list(classes))


def compute_scores(
    predictions: Predictions,
    *,
    top: int,
    bootstrap_samples: int = 0,
    seed: int = 0,
    also: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Returns what the answers come to, rounded to six digits.

    Each photo has one gem and one answer, so micro precision, recall and F1 all equal the accuracy. The Brier score is
    the sum over all gems, in [0, 2] (Brier, Monthly Weather Review 78, 1950).

    Args:
        predictions: of the test part.
        top: k of the top-k accuracy; from the number of classes on it is 1.
        bootstrap_samples: of the bootstrap, which draws within each actual gem, as the split did. 0: no intervals.
        seed: of the bootstrap.
        also: further figures of each photo, shape (photos,), by the name of the score that their mean is.

    Returns:
        `photos`, the scores by name, and with a bootstrap their `intervals`: `low` and `high` by name, between which
        95 % of the scores of the resampled photos lie (Efron's percentiles).
    """
    actual = predictions.actual
    of_photos = _of_photos(predictions, top) | dict(also or {})
    found = _scores(predictions, of_photos, np.arange(len(actual)))
    rounded: dict[str, Any] = {"photos": len(actual)} | {name: round(value, 6) for name, value in found.items()}
    if bootstrap_samples:
        random = np.random.default_rng(seed)
        of_gems = [np.flatnonzero(actual == gem) for gem in np.unique(actual)]
        drawn = np.concatenate([random.choice(places, (bootstrap_samples, len(places))) for places in of_gems], axis=1)
        spread = pd.DataFrame([_scores(predictions, of_photos, places) for places in drawn])
        low, high = (spread.quantile(share).round(6) for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
        rounded["intervals"] = {name: {"low": float(low[name]), "high": float(high[name])} for name in found}
    return rounded


def _of_photos(predictions: Predictions, top: int) -> dict[str, np.ndarray]:
    """Returns the figures of each photo that scores are means of."""
    given, photos = predictions.probabilities.astype(float), np.arange(len(predictions.actual))
    of_actual = np.maximum(given[photos, predictions.actual], np.finfo(predictions.probabilities.dtype).eps)
    best = np.argsort(-given, axis=1, kind="stable")[:, :top]
    return {
        "accuracy": predictions.right,
        f"top_{top}_accuracy": (best == predictions.actual[:, None]).any(axis=1),
        "log_loss": -np.log(of_actual),
        "brier_score": ((given - np.eye(given.shape[1])[predictions.actual]) ** 2).sum(axis=1),
    }


def _scores(predictions: Predictions, of_photos: Mapping[str, np.ndarray], places: np.ndarray) -> dict[str, float]:
    """Returns every score over some of the photos, each as often as its place is given."""
    actual, predicted, classes = predictions.actual[places], predictions.predicted[places], len(predictions.classes)
    right = np.bincount(actual[actual == predicted], minlength=classes)
    told, there = (np.bincount(gems, minlength=classes) for gems in (predicted, actual))
    found = {name: float(values[places].mean()) for name, values in of_photos.items()}
    averages = {
        "macro_precision": (right / np.maximum(told, 1)).mean(),
        "macro_recall": (right / np.maximum(there, 1)).mean(),
        "macro_f1": (2 * right / np.maximum(told + there, 1)).mean(),
        "micro_precision": right.sum() / told.sum(),
        "micro_recall": right.sum() / there.sum(),
        "micro_f1": 2 * right.sum() / (told + there).sum(),
        "calibration_error": _calibration_error(predictions.confidence[places], actual == predicted),
    }
    return found | {name: float(value) for name, value in averages.items()}


def calibration_error(predictions: Predictions) -> float:
    """Returns the expected calibration error over ten equal bins of confidence (Naeini and others, AAAI 2015)."""
    return _calibration_error(predictions.confidence, predictions.right)


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(np.bincount(_bins(confidence), weights=right - confidence)).sum() / len(right))


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def reliability(predictions: Predictions) -> pd.DataFrame:
    """Returns a row a bin of confidence that has photos: its bounds, `confidence` and `accuracy` (means), `photos`."""
    table = pd.DataFrame({"confidence": predictions.confidence, "accuracy": predictions.right.astype(float)})
    groups = table.groupby(_bins(predictions.confidence))
    rows = groups.mean().assign(photos=groups.size()).round(6)
    rows.insert(0, "low", rows.index / CALIBRATION_BINS)
    rows.insert(1, "high", (rows.index + 1) / CALIBRATION_BINS)
    return rows.reset_index(drop=True)


def abstention(predictions: Predictions) -> pd.DataFrame:
    """Returns how accurate the answers are where only the surer ones are given.

    Returns:
        A row a threshold, the highest first: `threshold` (the least confidence of an answer), `coverage` (the share of
        the photos that get one) and `accuracy` of those.
    """
    table = pd.DataFrame({"threshold": predictions.confidence, "right": predictions.right})
    table = table.sort_values("threshold", ascending=False, kind="stable")
    number = np.arange(1, len(table) + 1)
    table = table.assign(coverage=number / len(table), accuracy=table["right"].cumsum() / number)
    # Photos of one confidence are answered together, or none of them.
    return table.drop_duplicates("threshold", keep="last").drop(columns="right").round(6).reset_index(drop=True)


def confusion(predictions: Predictions) -> np.ndarray:
    """Returns the counts, int of shape (classes, classes): a row an actual class, a column a predicted one."""
    return confusion_matrix(predictions.actual, predictions.predicted, labels=range(len(predictions.classes)))


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Returns each count's share of its row: rows sum to 1, those of classes without photos to 0."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def look_alike_order(predictions: Predictions) -> np.ndarray:
    """Returns the classes' indices in an order in which those that the model mixes up stand together.

    Two classes are the nearer, the more of its probability the model gives to each on the other's photos; that tells
    more than the few errors do. Hierarchical clustering, its leaves ordered so that neighbours are as near as can be
    (Bar-Joseph and others, Bioinformatics 17, 2001).
    """
    classes = len(predictions.classes)
    of_actual = np.eye(classes)[predictions.actual]
    given = row_shares(of_actual.T @ predictions.probabilities.astype(float))
    roots = np.sqrt(given + given.T)  # a few hundredths tell apart what is mixed up now and then from what never is
    distances = 1 - roots / roots.max()
    nearest = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return leaves_list(nearest)


def confused_pairs(predictions: Predictions) -> pd.DataFrame:
    """Returns a row a pair of gems that were taken for one another, the most confused first.

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


def by_class(predictions: Predictions) -> list[dict[str, str | float | int]]:
    """Returns a row a class: its name, number of photos, accuracy (recall), precision, F1 and where its errors went.

    A class has a handful of photos, and often no error, where a bootstrap knows no doubt; the bounds of its accuracy
    (`low`, `high`) are Wilson's (Journal of the American Statistical Association 22, 1927), 0 and 1 without photos.
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
    """Returns a row a photo: file, actual and predicted gem, whether it is right, and all probabilities.

    `probability` is that of the answer; `P(gem)`, a column a class, keeps clear of classes that are called `right`.
    """
    names = np.array(predictions.classes)
    answers = pd.DataFrame(
        {
            "file": predictions.files,
            "actual": names[predictions.actual],
            "predicted": names[predictions.predicted],
            "right": predictions.right,
            "probability": predictions.confidence.astype(float).round(6),
        }
    )
    given = predictions.probabilities.astype(float).round(6)
    return answers.join(pd.DataFrame(given, columns=[f"P({name})" for name in names]))
