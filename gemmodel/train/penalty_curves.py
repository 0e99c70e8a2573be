"""What there is to see of a fit in closed form: its leave-one-out loss over penalties and degrees."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.linalg import eigh
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.train.ridge.calibration import fit_arcsinh_scale
from gemmodel.train.ridge.kernel_ridge import KernelRidge

MAX_PHOTOS = 3_000  # landmarks that are looked at, evenly spaced: time grows with their cube
FACTORS = (1 / 16, 1 / 4, 1, 4, 16)  # penalties around the kept one


def penalty_curves(
    ridge: KernelRidge, labels: np.ndarray, history: Mapping[str, Sequence[float]], penalties: Sequence[float],
    kept: float,
) -> pd.DataFrame:  # fmt: skip
    """Returns the loss and the accuracy of single degrees over penalties, and those of the head.

    The curve of a degree alone is that of photos of equal weight, each left out in turn; its scores are calibrated, not
    stacked. Eigenvalues give it for all penalties at once (Rifkin and Lippert, "Notes on regularized least squares",
    MIT-CSAIL-TR-2007-025).

    Args:
        ridge: the fitted head.
        labels: class indices of the photos that it was fitted to, shape (photos,).
        history: `val_loss` and `val_accuracy` by penalty.
        penalties: of the history.
        kept: the penalty of the fitted head.

    Returns:
        One row per point: `curve`, its name; `penalty`, `loss` and `accuracy`.
    """
    classes, rows = ridge.classes, []
    support = ridge.kernel_.support
    sample = np.linspace(0, len(support) - 1, min(len(support), MAX_PHOTOS)).astype(int)
    photos, support = labels[ridge.landmarks_[sample]], support[sample]
    kernel = (1 + (support @ support.T).astype(np.float64)) / 2
    targets = np.eye(classes)[photos] - 1 / classes

    def add(curve: str, penalty: float, probs: np.ndarray, actual: np.ndarray) -> None:
        accuracy = float((probs.argmax(axis=1) == actual).mean())
        rows.append((curve, penalty, float(log_loss(actual, probs, labels=range(classes))), accuracy))

    for degree in sorted({1, *ridge.params.degree}):
        values, vectors = eigh(kernel**degree)
        moment = vectors.T @ targets
        for penalty in (kept * factor for factor in FACTORS):
            inverse = 1 / (values + penalty)
            diagonal = vectors**2 @ inverse
            scores = targets - vectors @ (inverse[:, np.newaxis] * moment) / diagonal[:, np.newaxis]
            a, b = fit_arcsinh_scale(scores, photos, [np.arange(classes)])
            add(
                f"degree {degree} alone, each photo left out",
                penalty,
                softmax(a * np.arcsinh(b * scores), axis=1),
                photos,
            )
    add("the head, each photo left out", kept, ridge.loo_probs_, labels)
    rows += [
        ("the head, validation photos", *point)
        for point in zip(penalties, history["val_loss"], history["val_accuracy"], strict=True)
    ]
    return pd.DataFrame(rows, columns=["curve", "penalty", "loss", "accuracy"])
