"""Describe: a report on the data, as an HTML page."""

from pathlib import Path

from gemmodel.describe import report
from stages import command


def main(raw: Path, clean: Path, split: Path, augmented: Path, page: Path, pictures: Path) -> None:
    """Write a page on the data: how much there is, what it looks like, and which files were rejected and why."""
    parts = {name: split / name for name in ("train", "val", "test")}
    report.write(raw, clean, parts, augmented, page=page, pictures=pictures)
    print(f"describe: {page}, {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
