"""One page that leads to everything a run has shown."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmodel.core import files
from gemmodel.figures import html

TEMPLATE = Path(__file__).with_suffix(".html")
PRIVATE = {"contact"}  # parameters that are nobody else's business


@dataclass(frozen=True)
class Section:
    """A part of the page: what it says, and patterns of files below the reports, of which any may be absent.

    Attributes:
        title: the heading.
        text: what the reader looks at.
        tables: JSON files whose figures are shown.
        pictures: shown in the page, in this order.
        links: files to go on to.
    """

    title: str
    text: str
    tables: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "How good is it?",
        "Scores on the test part: photos that nothing learnt from. An interval is one of 95 %.",
        tables=("metrics.json",),
        pictures=("evaluation/*.png", "evaluation/*.jpg"),
        links=("evaluation/*.html", "evaluation/*.csv", "evaluation/*.json"),
    ),
    Section(
        "Why does it say so?",
        "Which pixels the answers rest on, and what is left of them without colour, form or texture.",
        tables=("explanation.json",),
        pictures=("explanation/*.png", "explanation/*.jpg"),
        links=("explanation/*.html", "explanation/*.csv", "explanation/*.json"),
    ),
    Section(
        "What do the features know?",
        "Maps and clusters of the photos' features, made without any gem's name. The page shows each photo.",
        tables=("exploration.json",),
        pictures=("exploration/*.png",),
        links=("exploration/*.html", "exploration/*.csv"),
    ),
    Section(
        "How did it learn?",
        "The epoch that was kept; DVC and MLflow draw the curves.",
        tables=("training.json",),
        pictures=("curves.png",),
        links=("curves.csv",),
    ),
    Section(
        "From which photos?",
        "What came, what was set aside and why, and who is in which part.",
        pictures=("data/counts.png", "data/samples.jpg"),
        links=("data.html", "crawl.md", "clean.json", "split.json"),
    ),
    Section(
        "What became of it?",
        "Its place in the model registry, and the model card that is stored there with it.",
        tables=("registration.json",),
        links=("model_card.md",),
    ),
)


def write(page: Path, *, origin: Mapping[str, str | None], parameters: Mapping[str, Any]) -> None:
    """Writes the page: every section of which something is there, pictures inside, the rest by relative links.

    Args:
        page: in the folder of reports; it becomes a page of HTML that loads nothing but itself.
        origin: what the run came from, in words; None where it is not known.
        parameters: sections by name, nested.
    """
    reports = page.parent
    sections = []
    for section in SECTIONS:
        tables = [rows(files.read_json(path)) for path in _found(reports, section.tables)]
        pictures = [(path.stem.replace("_", " "), html.data_url(path)) for path in _found(reports, section.pictures)]
        links = [path.relative_to(reports).as_posix() for path in _found(reports, section.links)]
        if tables or pictures or links:
            sections.append((section, tables, pictures, links))
    shown = [(name, value) for name, value in flat(parameters) if name.split(".")[-1] not in PRIVATE]
    html.write(page, TEMPLATE, sections=sections, origin=origin, parameters=shown)


def rows(values: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Returns each figure of a report: its name, value, and interval where `intervals` tells its `low` and `high`."""
    bounds = values.get("intervals", {})
    intervals = {name: f"{found['low']:.3f} to {found['high']:.3f}" for name, found in bounds.items()}
    figures = {name: value for name, value in values.items() if name != "intervals"}
    return [(name.replace("_", " "), value, intervals.get(name, "")) for name, value in flat(figures)]


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of a nested mapping by their names, joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _found(reports: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(reports.glob(pattern))]
