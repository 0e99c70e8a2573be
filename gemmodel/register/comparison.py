"""Two models on the same photos: is one of them better, and on which photos do they differ."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from gemmodel.core.errors import DataError
from gemmodel.figures import tiles


@dataclass(frozen=True)
class Comparison:
    """What a model changed: a row a photo of `file`, `actual`, `before` and `now`, each a gem's name.

    Attributes:
        photos: the number of photos that both answered.
        gained: photos that only the new model names rightly.
        lost: photos that only the old one does.
        p_value: of McNemar's exact test: how likely so unequal a number of gains and losses is by chance alone.
    """

    photos: int
    gained: pd.DataFrame
    lost: pd.DataFrame
    p_value: float

    @property
    def table(self) -> pd.DataFrame:
        """All photos that only one of the models names rightly, with their `change`: `gained` or `lost`."""
        return pd.concat([self.gained.assign(change="gained"), self.lost.assign(change="lost")], ignore_index=True)


def compare(new: pd.DataFrame, old: pd.DataFrame) -> Comparison:
    """Compares the answers of two models to the same photos.

    Args:
        new: a row a photo with `file`, `actual` and `predicted`, as in `reports/evaluation/predictions.csv`.
        old: the same of the model to compare with, in any order.

    Returns:
        The comparison, its rows in the order of the new model's photos. The test is McNemar's (Psychometrika 12, 1947),
        exact: of the photos that one model alone names rightly, each is as likely the one's as the other's.

    Raises:
        DataError: the tables are of other photos, or of other names for the same ones.
    """
    columns = ["file", "actual", "predicted"]
    both = new[columns].merge(old[columns], how="outer", on=["file", "actual"], indicator=True, sort=False)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        raise DataError(
            f"{alone['file'].iloc[0]}: {alone['file'].nunique()} photos, this one first, are not in both tables under "
            "one name; score both models on the same photos"
        )
    both = both.rename(columns={"predicted_x": "now", "predicted_y": "before"}).set_index("file").loc[new["file"]]
    both = both.reset_index()[["file", "actual", "before", "now"]]
    right_now, right_before = both["now"] == both["actual"], both["before"] == both["actual"]
    gained, lost = both[right_now & ~right_before], both[right_before & ~right_now]
    differ = len(gained) + len(lost)
    p_value = binomtest(len(gained), differ).pvalue if differ else 1.0
    return Comparison(len(both), gained.reset_index(drop=True), lost.reset_index(drop=True), float(p_value))


def picture(changed: pd.DataFrame, photos: Path) -> Image.Image:
    """Lays out photos that two models answer differently, each with its gem and both answers.

    Args:
        changed: a row a photo: `file`, `actual`, `before` and `now`, as `comparison.compare` gives them.
        photos: the folder that the files lie in.

    Returns:
        The picture.
    """
    photo_tiles = []
    for row in changed.itertuples():
        frame = tiles.GREEN if row.now == row.actual else tiles.RED
        photo_tiles.append(
            tiles.framed_tile(photos / row.file, frame, f"is {row.actual}\nbefore: {row.before}\nnow: {row.now}")
        )
    return tiles.sheet(photo_tiles)
