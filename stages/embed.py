"""Embed: the features of the training and validation photos."""

import shutil
from functools import partial
from pathlib import Path

from gemmodel import devices
from gemmodel.core import files, hashing, image_folder, params
from gemmodel.core.dask_client import dask_client
from gemmodel.embed import dask_shards, embedding, extractor
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
    staged = backup / hashing.run_key([settings.base, settings.embed], inputs)
    parts = {part: staged / part.name for part in (train, val)}
    with dask_client() as client:
        counts = embedding.embed(
            parts, model, classes=classes, settings=extractor.settings(settings.base, settings.embed), resume=True,
            on_workers=partial(dask_shards.embed_shards, client, settings.base, settings.embed) if client else None,
        )  # fmt: skip
    with files.atomic_write(out) as new:
        shutil.move(staged, new)
    for part, count in zip(parts, counts, strict=True):
        print(f"embed: {count} photos of {part} to {model.output_shape[1]} features each")


if __name__ == "__main__":
    command(main)
