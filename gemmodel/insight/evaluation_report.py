"""What a model knows, as a folder of tables and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gemmodel.insight import evaluation, galleries, plots
from gemmodel.params import EvaluateParams


def write(
    folder: Path,
    predictions: evaluation.Predictions,
    photos: Path,
    examples: Mapping[str, Sequence[Path]],
    params: EvaluateParams,
    *,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Writes tables as `.csv`, diagrams as `.png` and galleries as `.jpg`.

    Args:
        folder: an empty one.
        predictions: of the test part.
        photos: the test part.
        examples: training photos by gem.
        params: which look-alikes get a panel, and how much is shown.
        seed: of the random photos.

    Returns:
        The tables by name.
    """
    answers = evaluation.table(predictions)
    pairs = evaluation.confused_pairs(predictions)
    matrix, order = evaluation.confusion(predictions), evaluation.look_alike_order(predictions)
    in_order = [predictions.classes[place] for place in order]
    tables = {
        "predictions": answers,
        "classes": pd.DataFrame(evaluation.by_class(predictions)),
        "confusion": _square(matrix, predictions.classes),
        "confusion_shares": _square(evaluation.row_shares(matrix).round(6), predictions.classes),
        "confused_pairs": pairs,
        "reliability": evaluation.reliability(predictions),
        "abstention": evaluation.abstention(predictions),
    }
    error = evaluation.calibration_error(predictions)
    diagrams = {
        "confusion": plots.confusion_heatmap(matrix[order][:, order], in_order),
        "reliability": plots.reliability_diagram(tables["reliability"], error),
        "abstention": plots.abstention_curve(tables["abstention"]),
    }
    pictures = {
        "mistakes": galleries.mistakes(answers, photos, examples, most=params.mistakes),
        "confused_pairs": galleries.confused(pairs.head(params.pairs), answers, photos, examples),
        "random": galleries.drawn(answers, photos, seed=seed),
    } | {f"panel_{name}": galleries.panel(gems, answers, photos) for name, gems in params.panels.items()}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    for name, diagram in diagrams.items():
        diagram.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.jpg", quality=88)
    return tables


def _square(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(matrix, columns=list(names))
    table.insert(0, "actual", list(names), allow_duplicates=True)  # a class may be called so too
    return table
