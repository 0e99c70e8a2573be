"""What a reader wants to know first: what the model was trained on, how good it is, and when it fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmodel.core import files

SOURCES = {
    "sample": "rendered pictures of the bundled sample site",
    "minerals": "photos of www.minerals.net",
    "rasavgems": "photos of rasavgems.com",
    "folder": "photos of a local folder",
}
WORST, PAIRS = 5, 3  # gems and pairs of gems that are named
CONFIDENT, UNSURE = 0.9, 0.5  # probabilities


@dataclass(frozen=True)
class Headline:
    """The beginning of the index page.

    Attributes:
        sentences: what was trained on what, how good it is, and whether it is the champion.
        cards: name, value and explanation of the main scores.
        failures: sentences on when the model is wrong.
    """

    sentences: Sequence[str]
    cards: Sequence[tuple[str, str, str]]
    failures: Sequence[str]


def make(
    *, metrics: Path, split: Path, registration: Path, evaluation: Path, ablation: Path, parameters: Mapping[str, Any]
) -> Headline:
    """Reads the reports of the other stages, each of which may be absent.

    Args:
        metrics: scores on the test part.
        split: the JSON report of the split stage.
        registration: the outcome of the registration.
        evaluation: the folder of the evaluation's tables.
        ablation: the table of accuracies without colour, shape or texture.
        parameters: sections by name, nested.
    """
    scores, parts, registered = (files.read_json(p) if p.is_file() else {} for p in (metrics, split, registration))
    sources = parameters.get("crawl", {}).get("source", ())
    sentences = [
        sentence
        for sentence in (_trained(parts, sources, parameters), _accuracy(scores), _registered(registered))
        if sentence
    ]
    if "sample" in sources:
        sentences.append(
            "The pictures are rendered, so this model is a demonstration: it says nothing about real stones."
        )
    return Headline(sentences, _cards(scores), _failures(evaluation, ablation))


def _trained(parts: Mapping[str, Any], sources: Sequence[str], parameters: Mapping[str, Any]) -> str:
    if not parts:
        return ""
    counts, gems = parts["photos"], parts.get("classes", {})
    model = parameters.get("model", {}).get("name", "")
    origin = " and ".join(SOURCES.get(source, source) for source in sources)
    subject = f"A {model} model" if model else "A model"
    return (
        f"{subject}{f' of {len(gems)} gems' if gems else ''}, trained on {counts.get('train', 0):,} photos; "
        f"{counts.get('val', 0):,} more are for validation{f'. They are {origin}' if origin else ''}."
    )


def _accuracy(scores: Mapping[str, Any]) -> str:
    if "accuracy" not in scores:
        return ""
    photos, interval = scores.get("photos"), scores.get("intervals", {}).get("accuracy")
    bounds = f", 95 % interval {_percent(interval['low'])} to {_percent(interval['high'])}" if interval else ""
    right = f"{round(scores['accuracy'] * photos):,} of {photos:,} " if photos else ""
    return f"It names {right}test photos rightly: {_percent(scores['accuracy'])}{bounds}. It had not seen these photos."


def _registered(registered: Mapping[str, Any]) -> str:
    if "champion" not in registered:
        return ""
    role = "the champion, which is the model in use" if registered["champion"] else "a challenger, not the model in use"
    reason = f": {registered['reason']}" if registered.get("reason") else ""
    return f"In the registry “{registered.get('name', '')}” it is {role}{reason}."


def _cards(scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    top = next((name for name in scores if name.startswith("top_")), "")
    cards = [
        ("accuracy", "Right", "the gem that it names first is the right one"),
        (top, f"Among the first {top.split('_')[1] if top else ''}", "the right gem is among the most probable ones"),
        ("set_coverage", "Sets that hold the gem", f"with {scores.get('set_size', 0):.2f} gems on average"),
        ("mineral_class_accuracy", "Mineral class right", "for example Corundum, for Ruby and for Sapphire"),
        ("calibration_error", "Off by", "the mean distance of confidence from accuracy: 0 % is best"),
    ]
    return [(title, _percent(scores[name]), text) for name, title, text in cards if name in scores]


def _failures(evaluation: Path, ablation: Path) -> list[str]:
    failures = []
    if (path := evaluation / "classes.csv").is_file():
        gems = files.read_table(path, numbers={"photos": int, "accuracy": float})
        worst = gems[gems["accuracy"] < 1].sort_values(["accuracy", "gem"]).head(WORST)
        named = [
            f"{row.gem} ({round(row.accuracy * row.photos)} of {row.photos} right"
            + (f", otherwise mostly taken for {row.most_often_taken_for})" if row.most_often_taken_for else ")")
            for row in worst.itertuples()
        ]
        if named:
            failures.append("Least often right: " + "; ".join(named) + ".")
    if (path := evaluation / "confused_pairs.csv").is_file():
        pairs = files.read_table(path, numbers={"confused": int}).head(PAIRS)
        named = [f"{row.gem} and {row.other} ({row.confused} photos)" for row in pairs.itertuples()]
        if named:
            failures.append("Most often taken for each other: " + "; ".join(named) + ".")
    if (path := evaluation / "predictions.csv").is_file():
        table = files.read_table(path, numbers={"probability": float})
        right, probability = table["actual"] == table["predicted"], table["probability"]
        named = [
            f"{int(right[rows].sum()):,} of the {int(rows.sum()):,} answers with a confidence {words}"
            for rows, words in (
                (probability >= CONFIDENT, f"of {100 * CONFIDENT:.0f} % or more"),
                (probability < UNSURE, f"below {100 * UNSURE:.0f} %"),
            )
            if rows.any()
        ]
        if named:
            failures.append(f"Right are {', and '.join(named)}.")
    if ablation.is_file():
        rows = files.read_table(ablation, numbers={"accuracy": float, "photos": int}).set_index("perturbation")
        if {"grey", "unchanged"} <= set(rows.index):
            without, whole = rows.at["grey", "accuracy"], rows.at["unchanged", "accuracy"]
            failures.append(f"Photos without their colour: {_percent(without)} right, with it {_percent(whole)}.")
    return failures


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
