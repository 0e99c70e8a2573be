"""Galleries of photos with a model's predictions.

Tables of predictions have one row per photo: `file`, `actual`, `predicted` and `probability`. A frame is blue with a
tick around a right prediction, orange with a cross around a wrong one, and grey around an example photo of a gem.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from gemmodel.core.image_folder import matcher
from gemmodel.figures import tiles
from gemmodel.figures.tiles import Gallery

Examples = Mapping[str, Sequence[Path]]  # training photos by gem


def mistakes(predictions: pd.DataFrame, photos: Path, examples: Examples, *, max_photos: int) -> Gallery:
    """Shows misclassified photos, the most confident first, each beside an example of the predicted gem.

    Args:
        predictions: the predictions.
        photos: the folder that their files are relative to.
        examples: of each gem.
        max_photos: the number of misclassified photos shown.

    Returns:
        The gallery, four mistakes per row.
    """
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    wrong = wrong.sort_values("probability", ascending=False, kind="stable").head(max_photos)
    return Gallery(
        [tile for row in wrong.itertuples() for tile in (_prediction(row, photos), _example(row.predicted, examples))],
        group=2,
    )


def confused(pairs: pd.DataFrame, predictions: pd.DataFrame, photos: Path, examples: Examples) -> Gallery:
    """Shows pairs of gems, one pair per row: four photos of each gem, those taken for the other gem first.

    Args:
        pairs: one row per pair: `gem` and `other`.
        predictions: the predictions.
        photos: the folder that their files are relative to.
        examples: of each gem.

    Returns:
        The gallery.
    """
    cells: list[tiles.Tile] = []
    for pair in pairs.itertuples():
        for gem, other in ((pair.gem, pair.other), (pair.other, pair.gem)):
            taken = predictions[(predictions["actual"] == gem) & (predictions["predicted"] == other)].head(3)
            cells += [_prediction(row, photos) for row in taken.itertuples()]
            cells += [_example(gem, examples, i) for i in range(4 - len(taken))]
    return Gallery(cells, group=8)


def panel(gems: Sequence[str], predictions: pd.DataFrame, photos: Path) -> Gallery:
    """Shows photos of some gems, one gem per row.

    Args:
        gems: the names, compared by `class_key`; a gem without photos is left out.
        predictions: the predictions.
        photos: the folder that their files are relative to.

    Returns:
        The gallery, up to eight photos per row.
    """
    find = matcher(predictions["actual"].unique())
    by_gem = [predictions[predictions["actual"] == find(gem)].head(8) for gem in gems]
    rows = [[_prediction(row, photos) for row in table.itertuples()] for table in by_gem if len(table)]
    blank = Image.new("RGB", (1, 1), "white"), ""
    padded = zip(*zip_longest(*rows, fillvalue=blank), strict=True)
    columns = max(map(len, rows), default=1)
    return Gallery([tile for row in padded for tile in row], columns=columns, group=columns)


def random_sample(predictions: pd.DataFrame, photos: Path, *, seed: int, size: int = 25) -> Gallery:
    """Shows a random sample of photos, five per row.

    Args:
        predictions: the predictions.
        photos: the folder that their files are relative to.
        seed: of the sample.
        size: the number of photos; all where there are fewer.

    Returns:
        The gallery.
    """
    sample = predictions.sample(min(size, len(predictions)), random_state=seed)
    return Gallery([_prediction(row, photos) for row in sample.itertuples()], columns=5)


def _prediction(row: Any, photos: Path) -> tiles.Tile:
    frame = tiles.RIGHT if row.predicted == row.actual else tiles.WRONG
    return tiles.framed_tile(photos / row.file, frame, f"is {row.actual}\n{row.probability:.2f} {row.predicted}")


def _example(gem: str, examples: Examples, i: int = 0) -> tiles.Tile:
    return tiles.framed_tile(examples[gem][i % len(examples[gem])], tiles.EXAMPLE, f"example of\n{gem}")
