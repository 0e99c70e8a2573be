"""Which model is the champion: the rules, without a registry."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gemmodel.core.params import RegisterParams
from gemmodel.register.comparison import Comparison


@dataclass(frozen=True)
class Decision:
    """Whether a new model takes the champion's place, why, and by which figures."""

    champion: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


def decide(found: Comparison, rule: RegisterParams) -> Decision:
    """Decides between the champion and a new model.

    Args:
        found: of the new model's and the champion's answers to the same test photos.
        rule: the parameters.
    """
    gained, lost = len(found.gained), len(found.lost)
    figures = {"gained": gained, "lost": lost, "p_value": round(found.p_value, 6)}
    told = f"{gained} test photos gained and {lost} lost against the champion, p = {found.p_value:.4g}"
    if gained <= lost:
        return Decision(False, f"not more right than the champion: {told}", figures)
    if found.p_value > rule.significance:
        return Decision(False, f"may be better by chance: {told}, above {rule.significance:g}", figures)
    if rule.rule == "manual":
        return Decision(False, f"better, and people promote by hand (register.rule): {told}", figures)
    return Decision(True, f"better: {told}", figures)


def test_set_digest(photos: pd.DataFrame) -> str:
    """Returns the SHA-256 of a set of photos and their classes, whatever their files are called."""
    lines = sorted(photos["photo"] + " " + photos["actual"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
