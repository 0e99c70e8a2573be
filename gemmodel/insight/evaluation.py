"""Scores of a classifier on photos that no choice was made on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score

from gemmodel.data import dataset

CALIBRATION_BINS = 10


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


def predict(model: keras.Model, photos: Path, classes: Sequence[str]) -> Predictions:
    """Returns the model's answers for a folder a class, from pixels on: the way that a user's photo goes."""
    paths, labels = dataset.labelled(photos, classes)
    data = dataset.batches(paths, labels, classes=len(classes), image_size=model.input_shape[1], batch_size=8)
    files = [path.relative_to(photos).as_posix() for path in paths]
    return Predictions(files, labels, model.predict(data, verbose=0), list(classes))


def scores(predictions: Predictions, *, top: int) -> dict[str, float | int]:
    """Returns accuracy, top-k accuracy, macro averages, log loss and calibration error, rounded to six digits.

    Args:
        predictions: of the test part.
        top: k of the top-k accuracy; at most the number of classes.
    """
    actual, predicted, names = predictions.actual, predictions.predicted, range(len(predictions.classes))
    precision, recall, f1, _ = precision_recall_fscore_support(
        actual, predicted, labels=names, average="macro", zero_division=0
    )
    top_k = 1.0 if top >= len(names) else (actual == predicted).mean()
    if 1 < top < len(names):  # scikit-learn knows no top-k of two classes, and warns of one that cannot fail
        top_k = top_k_accuracy_score(actual, predictions.probabilities, k=top, labels=names)
    return {
        "photos": len(actual),
        "accuracy": round(float((actual == predicted).mean()), 6),
        f"top_{top}_accuracy": round(float(top_k), 6),
        "macro_precision": round(float(precision), 6),
        "macro_recall": round(float(recall), 6),
        "macro_f1": round(float(f1), 6),
        "log_loss": round(float(log_loss(actual, predictions.probabilities, labels=names)), 6),
        "calibration_error": round(calibration_error(predictions), 6),
    }


def calibration_error(predictions: Predictions) -> float:
    """Returns the expected calibration error over ten equal bins of confidence (Naeini and others, AAAI 2015)."""
    confidence = predictions.probabilities.max(axis=1)
    right = predictions.actual == predictions.predicted
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def confusion(predictions: Predictions) -> np.ndarray:
    """Returns the counts, int of shape (classes, classes): a row an actual class, a column a predicted one."""
    return confusion_matrix(predictions.actual, predictions.predicted, labels=range(len(predictions.classes)))


def by_class(predictions: Predictions) -> list[dict[str, str | float | int]]:
    """Returns a row a class: its name, number of photos, accuracy (recall), precision, F1 and where its errors went."""
    matrix = confusion(predictions)
    columns = precision_recall_fscore_support(
        predictions.actual, predictions.predicted, labels=range(len(matrix)), zero_division=0
    )
    rows: list[dict[str, str | float | int]] = []
    for index, (precision, recall, f1, photos) in enumerate(zip(*columns, strict=True)):
        wrong = matrix[index].copy()
        wrong[index] = 0
        rows.append(
            {
                "gem": predictions.classes[index],
                "photos": int(photos),
                "accuracy": round(float(recall), 6),
                "precision": round(float(precision), 6),
                "f1": round(float(f1), 6),
                "most_often_taken_for": predictions.classes[int(wrong.argmax())] if wrong.any() else "",
            }
        )
    return rows


def table(predictions: Predictions) -> pd.DataFrame:
    """Returns a row a photo: file, actual and predicted gem, whether it is right, and the probability of the answer."""
    names = np.array(predictions.classes)
    return pd.DataFrame(
        {
            "file": predictions.files,
            "actual": names[predictions.actual],
            "predicted": names[predictions.predicted],
            "right": predictions.actual == predictions.predicted,
            "probability": predictions.probabilities.max(axis=1).round(6),
        }
    )
