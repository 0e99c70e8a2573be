"""Describe: a report on the data, as an HTML page."""

from pathlib import Path

from gemmodel import devices
from gemmodel.core import params
from gemmodel.describe import report
from stages import command


def main(
    raw: Path, clean: Path, split: Path, page: Path, pictures: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Write a page on the data: how much there is, what it looks like, and which files were rejected and why."""
    settings = params.load(params_file)
    devices.prepare(settings.base)
    parts = {name: split / name for name in ("train", "val", "test")}
    report.write(
        raw, clean, parts, settings.augment,
        image_size=settings.base.image_size, seed=settings.base.seed, page=page, pictures=pictures,
    )  # fmt: skip
    print(f"describe: {page}, {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
