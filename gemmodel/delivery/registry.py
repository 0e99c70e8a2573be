"""Which model is the champion: the rules, without a registry."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from gemmodel.params import RegisterParams


@dataclass(frozen=True)
class Verdict:
    """Whether a new model takes the champion's place, why, and by which figures."""

    champion: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


def compare(before: pd.Series, now: pd.Series) -> dict[str, int | float]:
    """Compares two models photo by photo: McNemar's exact test (1947; two-sided, by the binomial distribution).

    Args:
        before: whether the old model is right, a truth value a photo.
        now: the same of the new one, of the same photos in the same order.

    Returns:
        `gained` and `lost`, the photos that only the new or only the old model has right, and `p_value`: how probable a
        difference as large would be if each of these had fallen to either model with the same chance.
    """
    gained, lost = int((now & ~before).sum()), int((before & ~now).sum())
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p_value": round(float(p_value), 6)}


def decide(actual: pd.Series, before: pd.Series, now: pd.Series, rule: RegisterParams) -> Verdict:
    """Decides between the champion and a new model.

    Args:
        actual: the class of each test photo.
        before: the champion's answers, in the same order; none (NaN) is a wrong one.
        now: the new model's.
        rule: the parameters.
    """
    figures = compare(before == actual, now == actual)
    figures = {"champion_accuracy": round(float((before == actual).mean()), 6)} | figures
    told = (
        f"{figures['gained']} test photos gained and {figures['lost']} lost against the champion, p = "
        f"{figures['p_value']:.4g}"
    )
    if figures["gained"] <= figures["lost"]:
        return Verdict(False, f"not more right than the champion: {told}", figures)
    if figures["p_value"] > rule.significance:
        return Verdict(False, f"may be better by chance: {told}, above {rule.significance:g}", figures)
    if rule.rule == "by_hand":
        return Verdict(False, f"better, and people promote by hand (register.rule): {told}", figures)
    return Verdict(True, f"better: {told}", figures)


def digest(photos: pd.DataFrame) -> str:
    """Returns the SHA-256 of a set of photos and their classes, whatever their files are called."""
    lines = sorted(photos["photo"] + " " + photos["actual"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
