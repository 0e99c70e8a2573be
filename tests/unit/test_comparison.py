"""Two models on the same photos, counted by hand."""

import pandas as pd
import pytest

from gemmodel.core.errors import DataError
from gemmodel.register import comparison


def answers(predicted: str, actual: str = "aaaabbbb") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file": [f"{number}.jpg" for number in range(len(actual))],
            "actual": list(actual),
            "predicted": list(predicted),
        }
    )


def test_what_was_gained_and_lost() -> None:
    old, new = answers("abbbbbbb"), answers("aaaabbba")
    found = comparison.compare(new, old.iloc[::-1])
    assert found.photos == 8
    assert found.gained.to_numpy().tolist() == [[f"{number}.jpg", "a", "b", "a"] for number in (1, 2, 3)]
    assert found.lost.to_numpy().tolist() == [["7.jpg", "b", "b", "a"]]
    assert found.table["change"].tolist() == ["gained"] * 3 + ["lost"]
    assert found.p_value == pytest.approx(2 * (1 + 4) / 2**4)  # of four coins at most one, or at least three, heads


def test_the_same_answers_are_no_difference() -> None:
    found = comparison.compare(answers("abababab"), answers("abababab"))
    assert (len(found.gained), len(found.lost), found.p_value) == (0, 0, 1)


def test_both_wrong_in_another_way_is_neither_gain_nor_loss() -> None:
    found = comparison.compare(answers("cccccccc"), answers("bbbbaaaa"))
    assert (len(found.gained), len(found.lost), found.p_value) == (0, 0, 1)


def test_no_answer_is_a_wrong_one() -> None:
    new, old = answers("abababab"), answers("abababab")
    old.loc[0, "predicted"] = None  # the registry could not ask
    assert comparison.compare(new, old).gained["file"].tolist() == ["0.jpg"]


@pytest.mark.parametrize("old", [answers("abbb", "aabb"), answers("abababab", "aaaaaabb")])
def test_other_photos_cannot_be_compared(old: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="same photos"):
        comparison.compare(answers("abababab"), old)
