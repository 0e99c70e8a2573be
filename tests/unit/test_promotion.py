"""Which model becomes champion."""

import pandas as pd
import pytest

from gemmodel.core.params import RegisterParams
from gemmodel.register import promotion
from gemmodel.register.comparison import Comparison, compare
from gemmodel.register.promotion import RegistryState

BOTH, NEITHER = 3, 2  # photos that both models, or neither, predict correctly: they must not count
RULE = RegisterParams("gemstones", "mcnemar", 0.05)


def comparison(gained: int, lost: int) -> Comparison:
    """Returns the comparison of two models' predictions."""
    before = ["Onyx"] * gained + ["Ruby"] * lost + ["Ruby"] * BOTH + ["Onyx"] * NEITHER
    now = ["Ruby"] * gained + ["Opal"] * lost + ["Ruby"] * BOTH + ["Opal"] * NEITHER
    photos = pd.DataFrame({"file": [f"{i}.jpg" for i in range(len(now))], "actual": "Ruby"})
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
    result = comparison(gained, lost)
    assert (len(result.gained), len(result.lost)) == (gained, lost)
    assert result.p_value == pytest.approx(p_value)


@pytest.mark.parametrize(
    ("gained", "lost", "rule", "significance", "champion", "reason"),
    [
        (8, 1, "mcnemar", 0.05, True, "better: 8 test photos gained and 1 lost against the champion, p = 0.03906"),
        (1, 8, "mcnemar", 0.05, False, "not more correct"),
        (7, 2, "mcnemar", 0.05, False, "by chance: 7 test photos gained and 2 lost against the champion, p = 0.1797"),
        (7, 2, "mcnemar", 0.2, True, "better"),
        (1, 0, "mcnemar", 1.0, True, "better"),
        (0, 0, "mcnemar", 1.0, False, "not more correct"),
        (4, 4, "mcnemar", 1.0, False, "not more correct"),
        (8, 1, "manual", 0.05, False, "register.rule"),
    ],
)
def test_only_a_better_model_becomes_champion(
    gained: int, lost: int, rule: str, significance: float, champion: bool, reason: str
) -> None:
    params = RegisterParams("gemstones", rule, significance)  # type: ignore[arg-type]
    state = RegistryState("2", "1", "abc", champion_accuracy=0.5, comparison=comparison(gained, lost))
    decision = promotion.decide(state, params, test_photos=14)
    assert decision.champion is champion
    assert reason in decision.reason
    assert (decision.statistics["gained"], decision.statistics["lost"]) == (gained, lost)
    assert (decision.statistics["champion_sha256"], decision.statistics["champion_accuracy"]) == ("abc", 0.5)


@pytest.mark.parametrize(
    ("state", "champion", "reason"),
    [
        (RegistryState("1", None), True, "first model of this name"),
        (RegistryState("1", "1"), True, "champion already"),
        (RegistryState("2", "1", champion_recorded=False), False, "training photos are not recorded"),
        (RegistryState("2", "1", leaked=("a.jpg", "b.jpg")), False, "trained on 2 of the 9 test photos, e.g. a.jpg"),
        (RegistryState("2", "1", champion_error="no file"), False, r"fails to predict (no file)"),
    ],
    ids=["none", "same", "unrecorded", "leaked", "damaged"],
)
def test_a_decision_without_a_comparison(state: RegistryState, champion: bool, reason: str) -> None:
    decision = promotion.decide(state, RULE, test_photos=9)
    assert decision.champion is champion
    assert reason in decision.reason
    assert decision.statistics.get("leaked_test_photos", 0) == len(state.leaked)


def test_a_decision_of_version_0_1_has_the_present_names() -> None:
    former = {"rule": "by_hand", "champion": False, "seen_by_champion": 3}
    assert promotion.with_present_names(former) == {"rule": "manual", "champion": False, "leaked_test_photos": 3}


def test_a_test_part_is_identified_by_its_photos_and_classes() -> None:
    photos = pd.DataFrame({"file": ["a.jpg", "b.jpg"], "photo": ["1", "2"], "actual": ["Ruby", "Onyx"]})
    renamed = photos.assign(file=["x.jpg", "y.jpg"]).iloc[::-1]
    assert promotion.test_set_digest(photos) == promotion.test_set_digest(renamed)
    assert promotion.test_set_digest(photos) != promotion.test_set_digest(photos.assign(actual=["Onyx", "Ruby"]))
    assert promotion.test_set_digest(photos) != promotion.test_set_digest(photos[:1])
