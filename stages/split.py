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
    """Split the photos of each class into three parts, by split-folders, and look up the mineral classes."""
    settings = params.load(params_file).split
    defaults = read_hierarchy(Path(settings.hierarchy))
    parts = {"train": train, "val": val, "test": test}
    result = splitting.split(clean, parts, folds, settings)
    manifest = files.read_jsonl(clean / "manifest.jsonl")
    files.write_json(hierarchy, mineral_classes(result["classes"], manifest, defaults))
    files.write_json(report, result)
    counts = ", ".join(f"{count} {part}" for part, count in result["photos"].items())
    print(f"split: {counts}{splitting.summary(result)}")


if __name__ == "__main__":
    command(main)
