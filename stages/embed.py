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
    """Compute the features of the fusion model, once for all its heads. An interrupted run resumes."""
    settings = params.load(params_file)
    print(f"embed: on {devices.prepare(settings.base)}")
    model = extractor.extractor(settings.embed, image_size=settings.base.image_size)
    classes = list(image_folder.list_images(train))
    inputs = [path for part in (train, val) for paths in image_folder.list_images(part).values() for path in paths]
    if (weights := Path(settings.embed.weights)).is_file():
        inputs.append(weights)
    shards = backup / hashing.run_key([settings.base, settings.embed], inputs)
    with files.atomic_write(out) as new:
        new.mkdir()
        parts = {part: new / f"{part.name}.npz" for part in (train, val)}
        counts = embedding.embed(parts, model, classes=classes, shards=shards)
        for part, count in zip(parts, counts, strict=True):
            print(f"embed: {count} photos of {part} to {model.output_shape[1]} features each")
    shutil.rmtree(shards, ignore_errors=True)


if __name__ == "__main__":
    command(main)
