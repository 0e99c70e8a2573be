"""Explore: the features as components, clusters and maps."""

from pathlib import Path

from gemmodel import params
from gemmodel.data import folders
from gemmodel.insight import exploration, exploration_page
from stages import command


def main(
    features: Path, split: Path, hierarchy: Path, out: Path, metrics: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Show what the features of the training and validation photos know without a classifier."""
    settings = params.load(params_file)
    whole = exploration.read(features, ("train", "val"))
    known = exploration.drawn(whole, seed=settings.base.seed)
    classes = folders.read_json(hierarchy)
    found = exploration.explore(known, classes, settings.explore, seed=settings.base.seed)
    exploration_page.write(out, known, classes, found, split, settings.explore)
    folders.write_json(metrics, found.scores)
    some = f", of {len(known.gems)} photos drawn from {len(whole.gems)}" if known is not whole else ""
    print(f"explore: {out / 'index.html'}, {(out / 'index.html').stat().st_size / 1e6:.1f} MB{some}")


if __name__ == "__main__":
    command(main)
