"""Split: training, validation and test part."""

from pathlib import Path

from gemmodel import params
from gemmodel.data import folders, splitting
from stages import command


def main(
    clean: Path, train: Path, val: Path, test: Path, folds: Path, report: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Deal the photos of each class out to three parts, by split-folders."""
    parts = {"train": train, "val": val, "test": test}
    found = splitting.split(clean, parts, folds, params.load(params_file).split)
    folders.write_json(report, found)
    print(f"split: {', '.join(f'{number} {part}' for part, number in found['photos'].items())}{splitting.told(found)}")


if __name__ == "__main__":
    command(main)
