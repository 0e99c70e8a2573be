"""Which model is the champion."""

from collections.abc import Mapping
from typing import Any


def decide(new: Mapping[str, Any], champion: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Decides whether a new model takes the champion's place.

    Scores are compared only where both stand for the same test photos.

    Args:
        new: `accuracy` on its test part, and `test_md5`, the DVC hash of that part.
        champion: the same of the present champion, as text or number; None where there is none.

    Returns:
        Whether it becomes champion, and why.
    """
    if champion is None:
        return True, "first model of this name"
    if new["test_md5"] is None or champion.get("test_md5") != new["test_md5"] or "accuracy" not in champion:
        return (
            False,
            "the champion was scored on other test photos, or none known; compare the two, then promote by hand",
        )
    before, now = float(champion["accuracy"]), float(new["accuracy"])
    if now > before:
        return True, f"test accuracy {now:.4f} beats the champion's {before:.4f}"
    return False, f"test accuracy {now:.4f} does not beat the champion's {before:.4f}"
