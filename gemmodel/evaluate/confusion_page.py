"""The confusion matrix as an interactive page, with the photos of each cell."""

from pathlib import Path

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from plotly.offline import get_plotlyjs

from gemmodel.evaluate import metrics
from gemmodel.figures import html, tiles
from gemmodel.figures.plots import condense, normalize_rows

TEMPLATE = Path(__file__).with_suffix(".html")
MAX_CLASSES = 250  # with a row of their own, those with the most errors
MAX_PHOTOS = 1_500  # on the page, wrong predictions first: some 3 kB each
SIDE = 96  # pixels of a photo


def write(page: Path, predictions: metrics.Predictions, photos: Path) -> None:
    """Writes the page. Look-alikes are neighbours, as in `confusion.png`.

    Args:
        page: an HTML page that needs no other file and no network.
        predictions: of the test part.
        photos: the folder that their files are relative to.
    """
    order = metrics.look_alike_order(predictions)
    matrix = metrics.confusion(predictions)[order][:, order]
    counts, names = condense(matrix, [predictions.classes[index] for index in order], MAX_CLASSES)
    rows = {name: i for i, name in enumerate(names)}
    group = np.array([rows.get(name, len(names) - 1) for name in predictions.classes])
    shown = np.argsort(predictions.right, kind="stable")[:MAX_PHOTOS]
    cells: dict[str, list[int]] = {}
    for i, index in enumerate(shown.tolist()):
        cell = f"{group[predictions.actual[index]]},{group[predictions.predicted[index]]}"
        cells.setdefault(cell, []).append(i)
    classes = predictions.classes
    values = {
        "names": names,
        "counts": counts.tolist(),
        "fractions": normalize_rows(counts).round(3).tolist(),
        "cells": cells,
        "photos": [
            {
                "picture": html.data_url(tiles.thumbnail(photos / predictions.files[index], SIDE)),
                "caption": f"{predictions.files[index]}: {predictions.confidence[index]:.0%} "
                f"{classes[predictions.predicted[index]]}",
            }
            for index in shown.tolist()
        ],
    }
    html.write(
        page,
        TEMPLATE,
        plotly=get_plotlyjs(),
        values=htmlsafe_json_dumps(values),
        right=int(predictions.right.sum()),
        photos=len(predictions.files),
        shown=len(shown),
        gems=len(classes),
        max_classes=MAX_CLASSES,
    )
