"""Which model becomes champion."""

from typing import Any

import pytest

from gemmodel.delivery.registry import decide

CHAMPION = {"accuracy": "0.8", "test_md5": "abc.dir", "version": "3"}


@pytest.mark.parametrize(
    ("new", "champion", "wins", "told"),
    [
        ({"accuracy": 0.1, "test_md5": "abc.dir"}, None, True, "first"),
        ({"accuracy": 0.81, "test_md5": "abc.dir"}, CHAMPION, True, "0.8100 beats the champion's 0.8000"),
        ({"accuracy": 0.8, "test_md5": "abc.dir"}, CHAMPION, False, "0.8000 does not beat"),
        ({"accuracy": 0.7, "test_md5": "abc.dir"}, CHAMPION, False, "0.7000 does not beat"),
        ({"accuracy": 0.99, "test_md5": "xyz.dir"}, CHAMPION, False, "other test photos"),
        ({"accuracy": 0.99, "test_md5": None}, CHAMPION, False, "other test photos"),
        # Of neither is it known which photos it was scored on.
        ({"accuracy": 0.99, "test_md5": None}, {"accuracy": "0.8", "test_md5": "None"}, False, "test photos"),
        # Somebody made a version champion by hand, without our tags.
        ({"accuracy": 0.99, "test_md5": "abc.dir"}, {"version": "1"}, False, "by hand"),
    ],
)
def test_scores_are_compared_on_the_same_photos_alone(
    new: dict[str, Any], champion: dict[str, str] | None, wins: bool, told: str
) -> None:
    decided, reason = decide(new, champion)
    assert decided is wins
    assert told in reason
