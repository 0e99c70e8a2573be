"""Which model is the champion: the rules, without a registry."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from gemmodel.core.params import RegisterParams

if TYPE_CHECKING:
    from gemmodel.register.comparison import Comparison

REMEDY = "compare the two on other photos, then `gemmodel promote`"
# Of decisions that version 0.1 stored: former keys and values.
FORMER_KEYS = {"seen_by_champion": "leaked_test_photos"}
FORMER_RULES = {"by_hand": "manual"}


@dataclass(frozen=True)
class Decision:
    """Whether a new version becomes champion, why, and the statistics behind it."""

    champion: bool
    reason: str
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RegistryState:
    """What the registry holds when a version is decided on.

    Attributes:
        version: the number of the new version.
        champion: the number of the present champion; None where there is none.
        champion_sha256: the hash of the champion's model.
        champion_recorded: whether the champion's training photos and test predictions are stored.
        leaked: test photos that the champion was trained on.
        champion_error: why the champion fails to predict; None where it does not.
        champion_accuracy: on the test photos.
        comparison: of the new version's predictions with the champion's.
    """

    version: str
    champion: str | None
    champion_sha256: str | None = None
    champion_recorded: bool = True
    leaked: tuple[str, ...] = ()
    champion_error: str | None = None
    champion_accuracy: float = 0.0
    comparison: "Comparison | None" = None


def decide(state: RegistryState, rule: RegisterParams, *, test_photos: int) -> Decision:
    """Decides whether the new version becomes champion.

    Args:
        state: of the registry.
        rule: the parameters.
        test_photos: the number of test photos.
    """
    if state.champion is None:
        return Decision(True, "first model of this name")
    if state.champion == state.version:
        return Decision(True, "champion already")
    statistics: dict[str, Any] = {"champion_sha256": state.champion_sha256}
    if not state.champion_recorded:
        return Decision(False, f"the champion's training photos are not recorded; {REMEDY}", statistics)
    if state.leaked:
        count = len(state.leaked)
        reason = f"the champion was trained on {count} of the {test_photos} test photos, e.g. {state.leaked[0]}"
        return Decision(False, f"{reason}; {REMEDY}", statistics | {"leaked_test_photos": count})
    if state.champion_error is not None or state.comparison is None:
        return Decision(False, f"the champion fails to predict ({state.champion_error}); {REMEDY}", statistics)
    decision = decide_by_comparison(state.comparison, rule)
    statistics["champion_accuracy"] = state.champion_accuracy
    return Decision(decision.champion, decision.reason, statistics | decision.statistics)


def decide_by_comparison(comparison: "Comparison", rule: RegisterParams) -> Decision:
    """Decides between the champion and a new version by their predictions for the same test photos.

    Args:
        comparison: of the two.
        rule: the parameters.
    """
    gained, lost = len(comparison.gained), len(comparison.lost)
    statistics = {"gained": gained, "lost": lost, "p_value": round(comparison.p_value, 6)}
    counts = f"{gained} test photos gained and {lost} lost against the champion, p = {comparison.p_value:.4g}"
    if gained <= lost:
        return Decision(False, f"not more correct than the champion: {counts}", statistics)
    if comparison.p_value > rule.significance:
        return Decision(False, f"may be better by chance: {counts}, above {rule.significance:g}", statistics)
    if rule.rule == "manual":
        return Decision(False, f"better, but promotion is manual (register.rule): {counts}", statistics)
    return Decision(True, f"better: {counts}", statistics)


def decision_key(test_predictions: pd.DataFrame, rule: RegisterParams) -> dict[str, Any]:
    """Returns what a decision depends on: a stored decision with the same key is not made again."""
    return asdict(rule) | {"test_sha256": test_set_digest(test_predictions)}


def test_set_digest(photos: pd.DataFrame) -> str:
    """Returns the SHA-256 of a set of photos and their classes, independent of file names."""
    lines = sorted(photos["photo"] + " " + photos["actual"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def with_present_names(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored decision with the present keys and values in place of those of version 0.1."""
    renamed = {FORMER_KEYS.get(key, key): value for key, value in decision.items()}
    if "rule" in renamed:
        renamed["rule"] = FORMER_RULES.get(renamed["rule"], renamed["rule"])
    return renamed
