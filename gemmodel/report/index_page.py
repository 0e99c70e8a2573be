"""The index page of a run: its scores and pictures, and links to all other reports."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmodel.core import files
from gemmodel.figures import html

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
        curves: the table of metrics by epoch; the plot lies beside it.
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
        title: the heading.
        text: below it.
        tables: JSON files whose values are shown.
        pictures: files that are shown.
        links: files that are linked.
    """

    title: str
    text: str
    tables: Sequence[Path] = ()
    pictures: Sequence[Path] = ()
    links: Sequence[Path] = ()


def sections(reports: Reports, panels: Iterable[str]) -> list[Section]:
    """Returns the sections of the page, with every file that the stages may write.

    Args:
        reports: of the other stages.
        panels: the names of `evaluate.panels`.
    """

    def within(folder: Path, names: str) -> list[Path]:
        return [folder / name for name in names.split()]

    return [
        Section(
            "How good is the model?",
            "Scores on the test part, whose photos neither training nor model selection uses. Intervals are 95 %. "
            "A label score counts the right labels of a photo, gem and mineral class: at most 2. A prediction set "
            "contains the true gem with the probability train.coverage; its singleton rate is the fraction of photos "
            "whose set holds one gem only.",
            tables=[reports.metrics],
            pictures=[
                *within(reports.evaluation, "abstention.png confusion.png reliability.png"),
                *within(reports.evaluation, "confused_pairs.jpg mistakes.jpg"),
                *(reports.evaluation / f"panel_{name}.jpg" for name in sorted(panels)),
                reports.evaluation / "random.jpg",
            ],
            links=within(
                reports.evaluation,
                "label_issues.html abstention.csv classes.csv confused_pairs.csv confusion.csv confusion_fractions.csv "
                "label_issues.csv predictions.csv reliability.csv",
            ),
        ),
        Section(
            "Why does it predict so?",
            "The pixels that support a prediction, and the accuracy without colour, shape or texture.",
            pictures=within(reports.explanation, "ablation.png feature_maps.png methods.jpg perturbations.jpg"),
            links=within(reports.explanation, "index.html ablation.csv checks.csv photos.csv"),
        ),
        Section(
            "What do the features separate?",
            "Maps and clusters of the photos' features, computed without labels. The linked page shows each photo.",
            tables=[reports.exploration_metrics],
            pictures=within(reports.exploration, "tsne.png umap.png"),
            links=within(reports.exploration, "index.html elbow.csv variance.csv"),
        ),
        Section(
            "How was it trained?",
            "Metrics of the selected epoch. DVC and MLflow draw the curves.",
            tables=[reports.training],
            pictures=[reports.curves.with_suffix(".png")],
            links=[reports.curves],
        ),
        Section(
            "On which photos?",
            "The photos that were crawled, those that were rejected and why, and the parts of the split.",
            pictures=within(reports.data_pictures, "counts.png samples.jpg"),
            links=[reports.data, reports.crawl, reports.clean, reports.split],
        ),
        Section(
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

    def existing(paths: Iterable[Path]) -> list[Path]:
        return [path for path in paths if path.is_file()]

    content = []
    for section in sections(reports, panels):
        tables = [rows(files.read_json(path)) for path in existing(section.tables)]
        pictures = [(path.stem.replace("_", " "), html.data_url(path)) for path in existing(section.pictures)]
        links = [path.relative_to(page.parent).as_posix() for path in existing(section.links)]
        if tables or pictures or links:
            content.append((section, tables, pictures, links))
    shown = [(name, value) for name, value in flatten(parameters) if name.split(".")[-1] not in PRIVATE]
    html.write(page, TEMPLATE, sections=content, provenance=provenance, parameters=shown)


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
