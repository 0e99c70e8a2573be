"""Crawl: original photos of gemstones from web sites, folders and archives."""

from pathlib import Path

from gemmodel.core import files, params
from scraper import sources
from scraper.report import markdown
from stages import command

LOGS = Path("logs")  # not an output of the stage: logs contain times
LISTED = {
    "joined": "names taken as one gem",
    "renamed": "names that are no folder names",
    "failed": "reasons for photos left out",
    "unmatched_markup": "kinds of other files or markup",
}
MAX_LISTED = 5  # of each; the report has all


def main(out: Path, report: Path, params_file: Path = Path("params.yaml")) -> None:
    """Fill a raw folder from the sources that crawl.source names, and report what was stored and what failed."""
    crawl_report = sources.crawl(params.load(params_file).crawl, out, logs=LOGS)
    files.write_json(report, crawl_report)
    files.write_text(report.with_suffix(".md"), markdown(crawl_report))
    counts = f"{crawl_report['pictures']} pictures of {crawl_report['gems']} gems"
    changes = ", ".join(f"{len(paths)} {kind}" for kind, paths in crawl_report["changes"].items())
    print(f"crawl: {counts} from {', '.join(crawl_report['sources'])}: {changes}")
    for guess in crawl_report["guesses"]:
        print(f"crawl: guessed: {guess}")
    for kind, label in LISTED.items():
        if crawl_report[kind]:
            listed = ", ".join(f"{name} ({value})" for name, value in list(crawl_report[kind].items())[:MAX_LISTED])
            print(f"crawl: {len(crawl_report[kind])} {label}: {listed}; see {report.with_suffix('.md')}")


if __name__ == "__main__":
    command(main)
