"""The crawl's report as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_LISTED, MAX_GEMS = 50, 250  # lines of a list, and of the one of gems; crawl.json has the rest


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the report of `sources.crawl` as Markdown."""
    changes = report["changes"]
    counts = [
        ("pictures", report["pictures"]),
        ("gems", report["gems"]),
        ("megabytes", f"{report['bytes'] / 1e6:.1f}"),
        ("thumbnails, where the full picture is missing", report["thumbnails"]),
        ("new, changed and vanished pictures", " / ".join(str(len(changes[kind])) for kind in changes)),
        ("pages read", report["pages"]),
        ("requests sent", report["requests"]),
        ("megabytes received", f"{report['bytes_received'] / 1e6:.1f}"),
        ("responses from the cache, including unchanged ones", report["cached"]),
        ("requests retried after an error", report["retried"]),
        ("skipped because of robots.txt", report["skipped_by_robots"]),
        ("failures", sum(report["failed"].values())),
        ("gems without pictures", len(report["gems_without_pictures"])),
        ("seconds", report["seconds"]),
    ]
    return "\n".join(
        [
            "# Crawl",
            f"From {', '.join(report['sources'])}.\n",
            *_table(("", ""), counts),
            *_section("Failures by reason", _table(("reason", "count"), report["failed"].items())),
            *_section("Failures", _table(("URL", "reason"), (f.values() for f in report["failures"]))),
            *_section("Gems without pictures", [f"- {_plain(gem)}" for gem in report["gems_without_pictures"]]),
            *_section("Guesses", [f"- {_plain(guess)}" for guess in report["guesses"]]),
            *_section("Names taken as one gem", _table(("name", "gem"), report["joined"].items())),
            *_section("Names that are no folder names", _table(("gem", "folder"), report["renamed"].items())),
            *_section(
                "Other files and unexpected markup", _table(("what", "count"), report["unmatched_markup"].items())
            ),
            *(
                line
                for kind, paths in changes.items()
                if len(paths) < report["pictures"]  # in a first crawl all are new
                for line in _section(f"{kind.capitalize()} pictures", [f"- {_plain(path)}" for path in paths])
            ),
            *_section(
                "Pictures per gem", _table(("gem", "pictures"), report["by_gem"].items()), max_lines=MAX_GEMS + 2
            ),
            "",
        ]
    )


def _section(title: str, lines: Sequence[str], *, max_lines: int = MAX_LISTED + 2) -> list[str]:
    if not lines:
        return []
    shown = lines[:max_lines]
    more = [f"\n… and {len(lines) - len(shown)} more in crawl.json"] if len(shown) < len(lines) else []
    return [f"\n## {title}", *shown, *more]


def _table(head: tuple[str, str], rows: Iterable[Iterable[Any]]) -> list[str]:
    lines = [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "| --- | --- |", *lines] if lines else []


def _plain(cell: Any) -> str:
    """Returns text from a site, escaped so that it cannot act as Markdown or HTML."""
    text = " ".join(str(cell).split())
    for char in "\\`*_[]<>|":
        text = text.replace(char, {"<": "&lt;", ">": "&gt;"}.get(char, f"\\{char}"))
    return text[:300]
