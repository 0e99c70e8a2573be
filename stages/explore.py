"""Explore: the features as components, clusters and maps."""

from pathlib import Path

from gemmodel.core import files, params
from gemmodel.explore import exploration, report
from stages import command


def main(
    features: Path, split: Path, hierarchy: Path, out: Path, metrics: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Show what the features of the training and validation photos know without a classifier."""
    settings = params.load(params_file)
    whole = exploration.read(features, ("train", "val"))
    known = exploration.subsample(whole, seed=settings.base.seed)
    classes = files.read_json(hierarchy)
    found = exploration.explore(known, classes, settings.explore, seed=settings.base.seed)
    report.write(out, known, classes, found, split, settings.explore)
    files.write_json(metrics, found.scores)
    some = f", of {len(known.gems)} photos drawn from {len(whole.gems)}" if known is not whole else ""
    print(f"explore: {out / 'index.html'}, {(out / 'index.html').stat().st_size / 1e6:.1f} MB{some}")


if __name__ == "__main__":
    command(main)
