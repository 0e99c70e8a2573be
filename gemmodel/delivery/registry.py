"""Which model is the champion: the rules, without a registry."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gemmodel.insight.comparison import Comparison
from gemmodel.params import RegisterParams


@dataclass(frozen=True)
class Verdict:
    """Whether a new model takes the champion's place, why, and by which figures."""

    champion: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


def decide(found: Comparison, rule: RegisterParams) -> Verdict:
    """Decides between the champion and a new model.

    Args:
        found: of the new model's and the champion's answers to the same test photos.
        rule: the parameters.
    """
    gained, lost = len(found.gained), len(found.lost)
    figures = {"gained": gained, "lost": lost, "p_value": round(found.p_value, 6)}
    told = f"{gained} test photos gained and {lost} lost against the champion, p = {found.p_value:.4g}"
    if gained <= lost:
        return Verdict(False, f"not more right than the champion: {told}", figures)
    if found.p_value > rule.significance:
        return Verdict(False, f"may be better by chance: {told}, above {rule.significance:g}", figures)
    if rule.rule == "by_hand":
        return Verdict(False, f"better, and people promote by hand (register.rule): {told}", figures)
    return Verdict(True, f"better: {told}", figures)


def digest(photos: pd.DataFrame) -> str:
    """Returns the SHA-256 of a set of photos and their classes, whatever their files are called."""
    lines = sorted(photos["photo"] + " " + photos["actual"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
