"""Two models on the same photos: whether one is better, and on which photos they differ."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from gemmodel.core.errors import DataError
from gemmodel.figures import tiles

MAX_SHOWN = 160  # photos in a picture


@dataclass(frozen=True)
class Comparison:
    """What a new model changed. The tables have one row per photo: `file`, and the gems `actual`, `before` and `now`.

    Attributes:
        photos: the number of photos that both models predicted.
        gained: photos that only the new model predicts correctly.
        lost: photos that only the old model predicts correctly.
        p_value: of McNemar's exact test: the probability of so unequal numbers of gains and losses by chance.
    """

    photos: int
    gained: pd.DataFrame
    lost: pd.DataFrame
    p_value: float

    @property
    def table(self) -> pd.DataFrame:
        """All photos that only one model predicts correctly, with their `change`: `gained` or `lost`."""
        return pd.concat([self.gained.assign(change="gained"), self.lost.assign(change="lost")], ignore_index=True)


def compare(new: pd.DataFrame, old: pd.DataFrame) -> Comparison:
    """Compares the predictions of two models for the same photos.

    Args:
        new: one row per photo with `file`, `actual` and `predicted`, as in `reports/evaluation/predictions.csv`.
        old: the same table of the model to compare with, in any order.

    Returns:
        The comparison, with rows in the order of the new model's photos. The test is McNemar's (Psychometrika 12,
        1947), exact: a photo that only one model predicts correctly is equally likely to be either model's.

    Raises:
        DataError: the tables have different photos, or different names for the same photos.
    """
    columns = ["file", "actual", "predicted"]
    both = new[columns].merge(old[columns], how="outer", on=["file", "actual"], indicator=True, sort=False)
    unmatched = both[both["_merge"] != "both"]
    if len(unmatched):
        raise DataError(
            f"{unmatched['file'].iloc[0]}: {unmatched['file'].nunique()} photos, this one first, are not in both "
            "tables under one name; score both models on the same photos"
        )
    both = both.rename(columns={"predicted_x": "now", "predicted_y": "before"}).set_index("file").loc[new["file"]]
    both = both.reset_index()[["file", "actual", "before", "now"]]
    correct_now, correct_before = both["now"] == both["actual"], both["before"] == both["actual"]
    gained, lost = both[correct_now & ~correct_before], both[correct_before & ~correct_now]
    changed = len(gained) + len(lost)
    p_value = binomtest(len(gained), changed).pvalue if changed else 1.0
    return Comparison(len(both), gained.reset_index(drop=True), lost.reset_index(drop=True), float(p_value))


def picture(changed: pd.DataFrame, photos: Path) -> Image.Image:
    """Returns photos that two models predict differently, each with its gem and both predictions, at most `MAX_SHOWN`.

    Args:
        changed: one row per photo: `file`, `actual`, `before` and `now`, as in a `Comparison`.
        photos: the folder that the files are relative to.
    """
    photo_tiles = []
    for row in changed.head(MAX_SHOWN).itertuples():
        frame = tiles.RIGHT if row.now == row.actual else tiles.WRONG
        caption = f"is {row.actual}\nbefore: {row.before}\nnow: {row.now}"
        photo_tiles.append(tiles.framed_tile(photos / row.file, frame, caption))
    note = f"{MAX_SHOWN} of {len(changed)} photos; the table has all" if len(changed) > MAX_SHOWN else ""
    return tiles.sheet(photo_tiles, note=note)
