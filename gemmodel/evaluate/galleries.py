"""Photos with what a model says of them, side by side; each function returns a Pillow picture.

Tables of answers have a row a photo: `file`, `actual`, `predicted` and `probability`. A frame is green around a photo
that is named rightly, red around one that is not, grey around an example of a gem.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from gemmodel.figures import tiles

Examples = Mapping[str, Sequence[Path]]  # training photos by gem


def mistakes(answers: pd.DataFrame, photos: Path, examples: Examples, *, most: int) -> Image.Image:
    """Lays out the photos that are named wrongly, the surest first, each beside a photo of the gem it is taken for.

    Args:
        answers: the answers.
        photos: the folder that their files lie in.
        examples: of each gem.
        most: how many of them.

    Returns:
        The picture, four mistakes a row.
    """
    wrong = answers[answers["actual"] != answers["predicted"]]
    wrong = wrong.sort_values("probability", ascending=False, kind="stable").head(most)
    cells = [tile for row in wrong.itertuples() for tile in (_answered(row, photos), _example(row.predicted, examples))]
    return tiles.sheet(cells)


def confused(pairs: pd.DataFrame, answers: pd.DataFrame, photos: Path, examples: Examples) -> Image.Image:
    """Lays out pairs of gems, a pair a row: four photos of the one and four of the other, those mixed up first.

    Args:
        pairs: a row a pair: `gem` and `other`.
        answers: the answers.
        photos: the folder that their files lie in.
        examples: of each gem.

    Returns:
        The picture.
    """
    cells: list[tiles.Tile] = []
    for pair in pairs.itertuples():
        for gem, other in ((pair.gem, pair.other), (pair.other, pair.gem)):
            mixed = answers[(answers["actual"] == gem) & (answers["predicted"] == other)].head(3)
            shown = [_answered(row, photos) for row in mixed.itertuples()]
            cells += shown + [_example(gem, examples, place) for place in range(4 - len(shown))]
    return tiles.sheet(cells)


def panel(gems: Sequence[str], answers: pd.DataFrame, photos: Path) -> Image.Image:
    """Lays out photos of chosen gems, a gem a row.

    Args:
        gems: the names.
        answers: the answers.
        photos: the folder that their files lie in.

    Returns:
        The picture, without the gems that have no photos.
    """
    of_gems = [answers[answers["actual"] == gem].head(8) for gem in gems]
    rows = [[_answered(row, photos) for row in of_gem.itertuples()] for of_gem in of_gems if len(of_gem)]
    blank = Image.new("RGB", (1, 1), "white"), ""
    level = zip(*zip_longest(*rows, fillvalue=blank), strict=True)
    return tiles.sheet([tile for row in level for tile in row], columns=max(map(len, rows), default=1))


def random_sample(answers: pd.DataFrame, photos: Path, *, seed: int, number: int = 25) -> Image.Image:
    """Lays out photos drawn at random, five a row.

    Args:
        answers: the answers.
        photos: the folder that their files lie in.
        seed: of the draw.
        number: of photos; all where there are fewer.

    Returns:
        The picture.
    """
    some = answers.sample(min(number, len(answers)), random_state=seed)
    return tiles.sheet([_answered(row, photos) for row in some.itertuples()], columns=5)


def _answered(row: Any, photos: Path) -> tiles.Tile:
    frame = tiles.GREEN if row.predicted == row.actual else tiles.RED
    return tiles.framed_tile(photos / row.file, frame, f"is {row.actual}\n{row.probability:.2f} {row.predicted}")


def _example(gem: str, examples: Examples, place: int = 0) -> tiles.Tile:
    return tiles.framed_tile(examples[gem][place % len(examples[gem])], tiles.GREY, f"example of\n{gem}")
