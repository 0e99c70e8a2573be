"""Two models on the same photos, counted by hand."""

import pandas as pd
import pytest

from gemmodel.core.errors import DataError
from gemmodel.register import comparison


def predictions(predicted: str, actual: str = "aaaabbbb") -> pd.DataFrame:
    return pd.DataFrame(
        {"file": [f"{i}.jpg" for i in range(len(actual))], "actual": list(actual), "predicted": list(predicted)}
    )


def test_gained_and_lost_photos() -> None:
    old, new = predictions("abbbbbbb"), predictions("aaaabbba")
    result = comparison.compare(new, old.iloc[::-1])
    assert result.photos == 8
    assert result.gained.to_numpy().tolist() == [[f"{i}.jpg", "a", "b", "a"] for i in (1, 2, 3)]
    assert result.lost.to_numpy().tolist() == [["7.jpg", "b", "b", "a"]]
    assert result.table["change"].tolist() == ["gained"] * 3 + ["lost"]
    assert result.p_value == pytest.approx(2 * (1 + 4) / 2**4)  # of four coins at most one, or at least three, heads


def test_the_same_predictions_are_no_difference() -> None:
    result = comparison.compare(predictions("abababab"), predictions("abababab"))
    assert (len(result.gained), len(result.lost), result.p_value) == (0, 0, 1)


def test_two_different_errors_are_neither_gain_nor_loss() -> None:
    result = comparison.compare(predictions("cccccccc"), predictions("bbbbaaaa"))
    assert (len(result.gained), len(result.lost), result.p_value) == (0, 0, 1)


def test_a_missing_prediction_is_an_error() -> None:
    new, old = predictions("abababab"), predictions("abababab")
    old.loc[0, "predicted"] = None
    assert comparison.compare(new, old).gained["file"].tolist() == ["0.jpg"]


@pytest.mark.parametrize("old", [predictions("abbb", "aabb"), predictions("abababab", "aaaaaabb")])
def test_other_photos_cannot_be_compared(old: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="same photos"):
        comparison.compare(predictions("abababab"), old)
