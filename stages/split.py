"""Split: training, validation and test part."""

from pathlib import Path

from gemmodel.core import files, params
from gemmodel.split import splitting
from gemmodel.split.hierarchy import mineral_classes, read_hierarchy
from stages import command


def main(
    clean: Path, train: Path, val: Path, test: Path, folds: Path, hierarchy: Path, report: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Deal the photos of each class out to three parts, by split-folders, and name each class's mineral class."""
    settings = params.load(params_file).split
    known = read_hierarchy(Path(settings.hierarchy))
    parts = {"train": train, "val": val, "test": test}
    found = splitting.split(clean, parts, folds, settings)
    manifest = files.read_jsonl(clean / "manifest.jsonl")
    files.write_json(hierarchy, mineral_classes(found["classes"], manifest, known))
    files.write_json(report, found)
    print(
        f"split: {', '.join(f'{number} {part}' for part, number in found['photos'].items())}{splitting.summary(found)}"
    )


if __name__ == "__main__":
    command(main)
