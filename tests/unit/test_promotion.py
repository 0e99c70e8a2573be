"""Which model becomes champion."""

import pandas as pd
import pytest

from gemmodel.core.params import RegisterParams
from gemmodel.register import promotion
from gemmodel.register.comparison import Comparison, compare

BOTH, NEITHER = 3, 2  # photos that both models, or neither, have right: they must not count


def compared(gained: int, lost: int) -> Comparison:
    """Return the comparison of two models' answers."""
    before = ["Onyx"] * gained + ["Ruby"] * lost + ["Ruby"] * BOTH + ["Onyx"] * NEITHER
    now = ["Ruby"] * gained + ["Opal"] * lost + ["Ruby"] * BOTH + ["Opal"] * NEITHER
    photos = pd.DataFrame({"file": [f"{place}.jpg" for place in range(len(now))], "actual": "Ruby"})
    return compare(photos.assign(predicted=now), photos.assign(predicted=before))


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (2, 2, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 1, 2 * (1 + 9) / 512),
        (7, 2, 2 * (1 + 9 + 36) / 512),
    ],
)
def test_p_values_by_hand(gained: int, lost: int, p_value: float) -> None:
    found = compared(gained, lost)
    assert (len(found.gained), len(found.lost)) == (gained, lost)
    assert found.p_value == pytest.approx(p_value)


@pytest.mark.parametrize(
    ("gained", "lost", "rule", "significance", "wins", "told"),
    [
        (8, 1, "mcnemar", 0.05, True, "better: 8 test photos gained and 1 lost against the champion, p = 0.03906"),
        (1, 8, "mcnemar", 0.05, False, "not more right"),
        (7, 2, "mcnemar", 0.05, False, "by chance: 7 test photos gained and 2 lost against the champion, p = 0.1797"),
        (7, 2, "mcnemar", 0.2, True, "better"),
        (1, 0, "mcnemar", 1.0, True, "better"),
        (0, 0, "mcnemar", 1.0, False, "not more right"),
        (4, 4, "mcnemar", 1.0, False, "not more right"),
        (8, 1, "manual", 0.05, False, "register.rule"),
    ],
)
def test_only_a_better_model_wins(
    gained: int, lost: int, rule: str, significance: float, wins: bool, told: str
) -> None:
    verdict = promotion.decide(compared(gained, lost), RegisterParams("gemstones", rule, significance))  # type: ignore[arg-type]
    assert verdict.champion is wins
    assert told in verdict.reason


def test_a_test_part_is_known_by_its_photos_and_classes() -> None:
    photos = pd.DataFrame({"file": ["a.jpg", "b.jpg"], "photo": ["1", "2"], "actual": ["Ruby", "Onyx"]})
    renamed = photos.assign(file=["x.jpg", "y.jpg"]).iloc[::-1]
    assert promotion.test_set_digest(photos) == promotion.test_set_digest(renamed)
    assert promotion.test_set_digest(photos) != promotion.test_set_digest(photos.assign(actual=["Onyx", "Ruby"]))
    assert promotion.test_set_digest(photos) != promotion.test_set_digest(photos[:1])
