"""The crawl's report for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LISTED = 50  # lines of a list; the rest stands in crawl.json


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the report of `sources.crawl` as a page of Markdown."""
    changes = report["changes"]
    figures = [
        ("pictures", report["pictures"]),
        ("gems", report["gems"]),
        ("megabytes", f"{report['bytes'] / 1e6:.1f}"),
        ("thumbnails, where the full picture is missing", report["thumbnails"]),
        ("new, changed and vanished pictures", " / ".join(str(len(changes[kind])) for kind in changes)),
        ("pages read", report["pages"]),
        ("requests sent", report["requests"]),
        ("megabytes received", f"{report['bytes_received'] / 1e6:.1f}"),
        ("answers from the cache, unchanged ones among them", report["cached"]),
        ("requests repeated after an error", report["retried"]),
        ("left alone because of robots.txt", report["skipped_by_robots"]),
        ("could not be had", sum(report["failed"].values())),
        ("gems without pictures", len(report["gems_without_pictures"])),
        ("seconds", report["seconds"]),
    ]
    return "\n".join(
        [
            "# Crawl",
            f"From {', '.join(report['sources'])}.\n",
            *_table(("", ""), figures),
            *_section("Could not be had", _table(("reason", "number"), report["failed"].items())),
            *_section("Each of them", _table(("address", "reason"), (f.values() for f in report["failures"]))),
            *_section("Gems without pictures", [f"- {_plain(gem)}" for gem in report["gems_without_pictures"]]),
            *_section("Markup that was not as expected", _table(("what", "times"), report["unmatched_markup"].items())),
            *(
                line
                for kind, paths in changes.items()
                if len(paths) < report["pictures"]  # of a first crawl all are new
                for line in _section(f"{kind.capitalize()} pictures", [f"- {_plain(path)}" for path in paths])
            ),
            *_section("Pictures of each gem", _table(("gem", "pictures"), report["by_gem"].items()), whole=True),
            "",
        ]
    )


def _section(title: str, lines: Sequence[str], *, whole: bool = False) -> list[str]:
    if not lines:
        return []
    shown = list(lines) if whole else list(lines[: LISTED + 2])
    more = [f"\n… and {len(lines) - len(shown)} more in crawl.json"] if len(shown) < len(lines) else []
    return [f"\n## {title}", *shown, *more]


def _table(head: tuple[str, str], rows: Iterable[Iterable[Any]]) -> list[str]:
    lines = [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "| --- | --- |", *lines] if lines else []


def _plain(cell: Any) -> str:
    """Returns what a site sent so that it cannot act as Markdown or HTML."""
    shown = " ".join(str(cell).split())
    for sign in "\\`*_[]<>|":
        shown = shown.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return shown[:300]
