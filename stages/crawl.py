"""Crawl: photos of gemstones, as they are, from sites, folders and archives."""

from pathlib import Path

from gemmodel.core import files, params
from scraper import sources
from scraper.report import markdown
from stages import command

LOGS = Path("logs")  # no output of the stage: it tells times


def main(out: Path, report: Path, params_file: Path = Path("params.yaml")) -> None:
    """Fill a raw folder from the sources that crawl.source names, and report what was found and what was not."""
    found = sources.crawl(params.load(params_file).crawl, out, logs=LOGS)
    files.write_json(report, found)
    files.write_text(report.with_suffix(".md"), markdown(found))
    changes = ", ".join(f"{len(paths)} {kind}" for kind, paths in found["changes"].items())
    print(f"crawl: {found['pictures']} pictures of {found['gems']} gems from {', '.join(found['sources'])}: {changes}")


if __name__ == "__main__":
    command(main)
