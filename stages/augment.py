"""Augment: transformed copies of the training photos."""

from pathlib import Path

from gemmodel.core import params
from gemmodel.images import augment
from stages import command


def main(train: Path, out: Path, examples: Path, params_file: Path = Path("params.yaml")) -> None:
    """Write augmented copies of the training photos, as many per class as the parameters say."""
    settings = params.load(params_file)
    base = settings.base
    copies = augment.write_copies(train, out, settings.augment, image_size=base.image_size, seed=base.seed)
    augment.write_examples(train, examples, settings.augment, image_size=base.image_size, seed=base.seed)
    print(f"augment: {sum(copies.values())} copies for {len(copies)} classes")


if __name__ == "__main__":
    command(main)
