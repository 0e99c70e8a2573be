"""Explore: components, clusters and maps of the features, without a classifier."""

from pathlib import Path

from gemmodel.core import files, params
from gemmodel.explore import exploration, report
from stages import command


def main(
    features: Path, split: Path, hierarchy: Path, out: Path, metrics: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Show which gems the features of the training and validation photos separate without a classifier."""
    settings = params.load(params_file)
    seed = settings.base.seed
    table = exploration.read(features, ("train", "val"), seed=seed)
    mineral_classes = files.read_json(hierarchy)
    result = exploration.explore(table, mineral_classes, settings.explore, seed=seed)
    report.write(out, table, mineral_classes, result, split, settings.explore)
    files.write_json(metrics, result.scores)
    sample = f", a random sample of {len(table.gems)} of {table.total} photos" if table.total else ""
    print(f"explore: {out / 'index.html'}, {(out / 'index.html').stat().st_size / 1e6:.1f} MB{sample}")


if __name__ == "__main__":
    command(main)
