"""Embed: the features of the training and validation photos."""

import shutil
from pathlib import Path

from gemmodel import devices
from gemmodel.core import files, hashing, image_folder, params
from gemmodel.embed import embedding, extractor
from stages import command


def main(
    train: Path, val: Path, out: Path, backup: Path = Path(".train-backup"), params_file: Path = Path("params.yaml")
) -> None:
    """Compute the features that a fusion head is trained on, once for all heads; killed, it goes on where it was."""
    settings = params.load(params_file)
    print(f"embed: on {devices.prepare(settings.base)}")
    extractor = extractor.extractor(settings.embed, image_size=settings.base.image_size)
    classes = list(image_folder.list_images(train))
    read = [path for part in (train, val) for paths in image_folder.list_images(part).values() for path in paths]
    if (weights := Path(settings.embed.weights)).is_file():
        read.append(weights)
    shards = backup / hashing.run_key([settings.base, settings.embed], read)
    with files.atomic_write(out) as new:
        new.mkdir()
        parts = {part: new / f"{part.name}.npz" for part in (train, val)}
        for part, number in zip(parts, embedding.embed(parts, extractor, classes=classes, shards=shards), strict=True):
            print(f"embed: {number} photos of {part} to {extractor.output_shape[1]} features each")
    shutil.rmtree(shards, ignore_errors=True)


if __name__ == "__main__":
    command(main)
