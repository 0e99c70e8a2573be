"""Split: training, validation and test part."""

from pathlib import Path

from gemmodel import params
from gemmodel.data import splitting
from stages import command


def main(clean: Path, train: Path, val: Path, test: Path, params_file: Path = Path("params.yaml")) -> None:
    """Deal the photos of each class out to three parts, by split-folders."""
    counts = splitting.split(clean, {"train": train, "val": val, "test": test}, params.load(params_file).split)
    print(f"split: {', '.join(f'{number} {part}' for part, number in counts.items())}")


if __name__ == "__main__":
    command(main)
