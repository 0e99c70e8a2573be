"""What there is to see of a fit in closed form: its leave-one-out loss over penalties and degrees."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.core.dask_client import ordered_map
from gemmodel.train.ridge.calibration import FITS_AT_ONCE, fit_arcsinh_scale
from gemmodel.train.ridge.kernel_ridge import KernelRidge, grouped_ridge

MAX_PHOTOS = 3_000  # landmarks that are looked at, evenly spaced: time grows with their cube
FACTORS = (1 / 16, 1 / 4, 1, 4, 16)  # penalties around the kept one


def penalty_curves(
    ridge: KernelRidge, labels: np.ndarray, history: Mapping[str, Sequence[float]], penalties: Sequence[float],
    kept: float,
) -> pd.DataFrame:  # fmt: skip
    """Returns the loss and the accuracy of single degrees over penalties, and those of the head.

    The curve of a degree alone is that of photos of equal weight, each left out in turn; its scores are calibrated, not
    stacked. Each point is a fit like the head's, with a Cholesky factor of its own. Eigenvalues and vectors would give
    all penalties at once, and take as long.

    Args:
        ridge: the fitted head.
        labels: class indices of the photos that it was fitted to, shape (photos,).
        history: `val_loss` and `val_accuracy` by penalty.
        penalties: of the history.
        kept: the penalty of the fitted head.

    Returns:
        One row per point: `curve`, its name; `step`, the penalty; `loss` and `accuracy`.
    """
    landmarks = ridge.landmarks_
    sample = np.linspace(0, len(landmarks) - 1, min(len(landmarks), MAX_PHOTOS)).astype(int)
    photos, kernel = labels[landmarks[sample]], ridge.kernel_.between_landmarks(sample)
    every, degrees = [np.arange(ridge.classes)], sorted({1, *ridge.params.degree})  # 1, a linear model, to compare
    powers = {degree: kernel**degree for degree in degrees}

    def point(curve: str, penalty: float, probs: np.ndarray, actual: np.ndarray) -> tuple[str, float, float, float]:
        accuracy = float((probs.argmax(axis=1) == actual).mean())
        return curve, penalty, float(log_loss(actual, probs, labels=range(ridge.classes))), accuracy

    def fit(degree: int, penalty: float) -> tuple[str, float, float, float]:
        _, scores = grouped_ridge(powers[degree], np.full(len(photos), penalty), photos, every)
        a, b = fit_arcsinh_scale(scores, photos, every)
        probs = softmax(a * np.arcsinh(b * scores), axis=1)
        return point(f"degree {degree} alone, each photo left out", penalty, probs, photos)

    # Threads of BLAS would wait for each other on a busy machine: 3 times the seconds of cores.
    points = product(degrees, [kept * factor for factor in FACTORS])
    rows = list(ordered_map(None, fit, points, threads=FITS_AT_ONCE))
    rows.append(point("the head, each photo left out", kept, ridge.loo_probs_, labels))
    rows += [
        ("the head, validation photos", *values)
        for values in zip(penalties, history["val_loss"], history["val_accuracy"], strict=True)
    ]
    return pd.DataFrame(rows, columns=["curve", "step", "loss", "accuracy"])
