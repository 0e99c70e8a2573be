"""Split: training, validation and test part."""

from pathlib import Path

from gemmodel import params
from gemmodel.data import folders, splitting
from gemmodel.data import hierarchy as primary_labels
from stages import command


def main(
    clean: Path, train: Path, val: Path, test: Path, folds: Path, hierarchy: Path, report: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Deal the photos of each class out to three parts, by split-folders, and name each class's mineral class."""
    settings = params.load(params_file).split
    known = primary_labels.read(Path(settings.hierarchy))
    parts = {"train": train, "val": val, "test": test}
    found = splitting.split(clean, parts, folds, settings)
    manifest = folders.read_lines(clean / "manifest.jsonl")
    folders.write_json(hierarchy, primary_labels.primary_labels(found["classes"], manifest, known))
    folders.write_json(report, found)
    print(f"split: {', '.join(f'{number} {part}' for part, number in found['photos'].items())}{splitting.told(found)}")


if __name__ == "__main__":
    command(main)
