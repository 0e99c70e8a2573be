"""The evaluation report: a folder of tables and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gemmodel.core import files
from gemmodel.core.params import EvaluateParams
from gemmodel.evaluate import confusion_page, galleries, metrics, plots
from gemmodel.figures import html
from gemmodel.figures.plots import MAX_CONFUSED, condense, confusion_heatmap, normalize_rows, save

QUALITY = 88  # of pictures as JPEG
MAX_EXTRACT = 24  # gems in the extract of the confusion matrix, which is legible beside text
MAX_ROWS = 2_000  # of a table that a page shows as a whole


def write(
    folder: Path,
    predictions: metrics.Predictions,
    photos: Path,
    examples: Mapping[str, Sequence[Path]],
    params: EvaluateParams,
    *,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Writes tables as `.csv`, diagrams as `.png`, galleries as `.jpg` and the interactive `confusion.html`.

    `galleries.json` has the galleries' photos one by one, for a page that shows captions as text.

    `plot_classes.csv` and `plot_confusion.csv` are for `dvc plots`, which draws every row. Of many classes they have
    those with the lowest accuracy, and those with the most errors.

    Args:
        folder: an empty one.
        predictions: of the test part.
        photos: the folder of the test part.
        examples: training photos by gem.
        params: the panels of look-alikes, and how much is shown.
        seed: of the random sample of photos.

    Returns:
        The tables by name. Beside those of the folder there is `confusion_summary`, which is no larger than the picture
        of the confusion matrix, for a page that shows a table as a whole.
    """
    rows = metrics.table(predictions)
    pairs = metrics.confused_pairs(predictions)
    matrix, order = metrics.confusion(predictions), metrics.look_alike_order(predictions)
    tables = {
        "predictions": rows,
        "classes": pd.DataFrame(metrics.scores_by_class(predictions)),
        "confusion": _confusion_table(matrix, predictions.classes),
        "confusion_fractions": _confusion_table(normalize_rows(matrix).round(6), predictions.classes),
        "confused_pairs": pairs,
        "reliability": metrics.reliability(predictions),
        "abstention": metrics.abstention(predictions),
    }
    small, names = condense(matrix, predictions.classes, MAX_CONFUSED)
    tables |= {
        "plot_classes": tables["classes"].sort_values(["accuracy", "gem"]).head(MAX_CONFUSED)[["gem", "accuracy"]],
        "plot_confusion": _within(rows[["actual", "predicted"]], names),
    }
    error = metrics.calibration_error(predictions)
    diagrams = {
        "confusion": confusion_heatmap(
            matrix[order][:, order], [predictions.classes[index] for index in order], table="confusion.csv"
        ),
        "confusion_worst": confusion_heatmap(
            matrix[order][:, order],
            [predictions.classes[index] for index in order],
            table="confusion.html",
            max_classes=MAX_EXTRACT,
        ),
        "reliability": plots.reliability_diagram(tables["reliability"], predictions.confidence, error),
        "abstention": plots.abstention_curve(tables["abstention"]),
    }
    pictures = {
        "mistakes": galleries.mistakes(rows, photos, examples, max_photos=params.mistakes),
        "confused_pairs": galleries.confused(pairs.head(params.pairs), rows, photos, examples),
        "random": galleries.random_sample(rows, photos, seed=seed),
    } | {f"panel_{name}": galleries.panel(gems, rows, photos) for name, gems in params.panels.items()}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    for name, diagram in diagrams.items():
        save(diagram, folder / f"{name}.png", dpi=120)
    for name, gallery in pictures.items():
        gallery.picture().save(folder / f"{name}.jpg", quality=QUALITY)
    files.write_json(
        folder / "galleries.json",
        {name: html.tile_groups(gallery.tiles, gallery.group) for name, gallery in pictures.items()},
    )
    confusion_page.write(folder / "confusion.html", predictions, photos)
    return tables | {"confusion_summary": _confusion_table(small, names)}


def for_review(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the predictions for a page that shows a table as a whole: the wrong ones first, then the least sure.

    The probabilities of the other gems are left out, and all but `MAX_ROWS` photos.
    """
    columns = ["file", "actual", "predicted", "right", "probability"]
    return rows[columns].sort_values(["right", "probability", "file"], kind="stable").head(MAX_ROWS)


def _within(gems: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Returns a table of gems in which the last name of a condensed matrix stands for the gems that it lacks."""
    return gems.where(gems.isin(list(names)), names[-1])


def _confusion_table(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    column = "actual"
    while column in names:  # a class may have this name too
        column = f"({column})"
    table = pd.DataFrame(matrix, columns=list(names))
    table.insert(0, column, list(names))
    return table
