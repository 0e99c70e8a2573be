"""The index page of a run: its scores and pictures, and links to all other reports."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmodel.core import files
from gemmodel.figures import html
from gemmodel.report import headline, meanings

TEMPLATE = Path(__file__).with_suffix(".html")
PRIVATE = {"contact"}  # parameters that the page does not show


@dataclass(frozen=True)
class Reports:
    """The reports of the other stages; any of them may be absent.

    Attributes:
        crawl: the page about the crawl.
        clean: the JSON report of the clean stage.
        split: the JSON report of the split stage.
        data: the page about the data.
        data_pictures: the folder of its pictures.
        training: metrics of the selected epoch.
        curves: the table of loss and accuracy by epoch or penalty; the plot lies beside it.
        metrics: scores on the test part.
        evaluation: the folder of tables and pictures.
        explanation: the folder of the page, its tables and pictures.
        exploration_metrics: scores of the exploration.
        exploration: the folder of the page, its tables and plots.
        registration: the outcome of the registration.
        card: the model card.
    """

    crawl: Path
    clean: Path
    split: Path
    data: Path
    data_pictures: Path
    training: Path
    curves: Path
    metrics: Path
    evaluation: Path
    explanation: Path
    exploration_metrics: Path
    exploration: Path
    registration: Path
    card: Path


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: of the heading.
        title: the heading.
        text: below it.
        tables: JSON files whose values are shown.
        pictures: diagrams that are shown.
        galleries: the JSON file of galleries of photos, and the names of those that are shown.
        links: pages that are linked on a card.
        files: tables and other files that are linked in a line.
    """

    id: str
    title: str
    text: str
    tables: Sequence[Path] = ()
    pictures: Sequence[Path] = ()
    galleries: tuple[Path, Sequence[str]] | None = None
    links: Sequence[Path] = ()
    files: Sequence[Path] = ()


def sections(reports: Reports, panels: Iterable[str]) -> list[Section]:
    """Returns the sections of the page, with every file that the stages may write.

    Args:
        reports: of the other stages.
        panels: the names of `evaluate.panels`.
    """

    def within(folder: Path, names: str) -> list[Path]:
        return [folder / name for name in names.split()]

    panel_names = [f"panel_{name}" for name in sorted(panels)]
    return [
        Section(
            "scores",
            "How good is the model?",
            "Scores on the test part, whose photos neither training nor model selection uses.",
            tables=[reports.metrics],
            pictures=within(reports.evaluation, "reliability.png abstention.png confusion_worst.png"),
            galleries=(reports.evaluation / "galleries.json", ["confused_pairs", "mistakes", *panel_names, "random"]),
            links=within(reports.evaluation, "confusion.html label_issues.html"),
            files=within(
                reports.evaluation,
                "abstention.csv classes.csv confused_pairs.csv confusion.csv confusion_fractions.csv confusion.png "
                "label_issues.csv prediction_sets.csv predictions.csv reliability.csv scores.json",
            ),
        ),
        Section(
            "explanation",
            "Why does it predict so?",
            "Accuracy without colour, shape or texture. The linked page shows, by photo, what supports a prediction.",
            pictures=within(reports.explanation, "ablation.png"),
            links=within(reports.explanation, "index.html"),
            files=within(reports.explanation, "ablation.csv checks.csv photos.csv"),
        ),
        Section(
            "exploration",
            "What do the features separate?",
            "Maps and clusters of the photos' features, computed without labels.",
            tables=[reports.exploration_metrics],
            pictures=within(reports.exploration, "tsne.png umap.png"),
            links=within(reports.exploration, "index.html"),
            files=within(reports.exploration, "elbow.csv variance.csv"),
        ),
        Section(
            "training",
            "How was it trained?",
            "Metrics of what was kept.",
            tables=[reports.training],
            pictures=[reports.curves.with_suffix(".png")],
            files=[reports.curves],
        ),
        Section(
            "data",
            "On which photos?",
            "The photos that were crawled, those that were rejected and why, and the parts of the split.",
            galleries=(reports.data_pictures / "samples.json", ["samples"]),
            links=[reports.data],
            files=[reports.crawl, reports.clean, reports.split],
        ),
        Section(
            "registry",
            "Is it registered?",
            "The outcome in the model registry, which stores the model card too.",
            tables=[reports.registration],
            links=[reports.card],
        ),
    ]


def write(
    page: Path, reports: Reports, *, panels: Iterable[str], provenance: Mapping[str, str | None],
    parameters: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes the page, with pictures inside and relative links. Absent files and empty sections are left out.

    Args:
        page: an HTML page that needs no other file and no network.
        reports: of the other stages, below the page's folder.
        panels: the names of `evaluate.panels`.
        provenance: hashes and commit by name; None where one is unknown.
        parameters: sections by name, nested.
    """

    def links(paths: Iterable[Path]) -> list[tuple[str, str]]:
        names = [path.relative_to(page.parent).as_posix() for path in paths if path.is_file()]
        return [(name, meanings.FILES.get(name, name)) for name in names]

    content = []
    for section in sections(reports, panels):
        values = {
            "tables": [_scores(files.read_json(path)) for path in section.tables if path.is_file()],
            "pictures": [
                (html.data_url(path), *meanings.PICTURES[path.stem]) for path in section.pictures if path.is_file()
            ],
            "galleries": _galleries(section.galleries),
            "links": links(section.links),
            "files": links(section.files),
        }
        if any(values.values()):
            content.append((section, values))
    shown = [(name, value) for name, value in flatten(parameters) if name.split(".")[-1] not in PRIVATE]
    first = headline.make(
        metrics=reports.metrics, split=reports.split, registration=reports.registration, evaluation=reports.evaluation,
        ablation=reports.explanation / "ablation.csv", parameters=parameters,
    )  # fmt: skip
    html.write(page, TEMPLATE, headline=first, sections=content, provenance=provenance, parameters=shown)


def _galleries(source: tuple[Path, Sequence[str]] | None) -> list[tuple[str, list[list[dict[str, str]]]]]:
    """Returns the title and the groups of photos of each gallery that has photos."""
    if source is None or not source[0].is_file():
        return []
    galleries = files.read_json(source[0])
    return [
        (meanings.GALLERIES.get(name, f"Look-alikes: {name.removeprefix('panel_')}"), galleries[name])
        for name in source[1]
        if galleries.get(name)
    ]


def _scores(values: Mapping[str, Any]) -> list[tuple[str, Any, str, str]]:
    """Returns the name, value, interval and meaning of each metric."""
    names = [name for name, _ in flatten(values) if not name.startswith("intervals.")]
    return [(*row, meanings.score(name)) for name, row in zip(names, rows(values), strict=True)]


def rows(values: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Returns the name, value and interval of each metric; the interval is empty where `intervals` lacks the metric."""
    bounds = values.get("intervals", {})
    intervals = {name: f"{interval['low']:.3f} to {interval['high']:.3f}" for name, interval in bounds.items()}
    metrics = {name: value for name, value in values.items() if name != "intervals"}
    return [(name.replace("_", " "), value, intervals.get(name, "")) for name, value in flatten(metrics)]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of a nested mapping with their names, joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
