"""Embed: the features of the training and validation photos."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from gemmodel import devices
from gemmodel.core import files, hashing, image_folder, params
from gemmodel.core.dask_client import dask_client
from gemmodel.embed import dask_shards, embedding, extractor, feature_set
from gemmodel.embed.backbones.backbone import input_files
from stages import command

EXPORTED = "extractor.tflite"  # beside the features that it computed


def main(
    train: Path, val: Path, out: Path, backup: Path = Path(".train-backup"), params_file: Path = Path("params.yaml")
) -> None:
    """Compute the features of the fusion model, once for all its heads. An interrupted run resumes.

    Each backbone is embedded apart and kept beside the output, so that one more backbone recomputes none of the others.
    """
    settings = params.load(params_file)
    base, embed = settings.base, settings.embed
    extractor.check(embed)
    print(f"embed: on {devices.prepare(base)}")
    classes = list(image_folder.list_images(train))
    photos = [path for part in (train, val) for paths in image_folder.list_images(part).values() for path in paths]
    kept = backup / "features" / hashing.run_key([base, replace(embed, backbone=())], photos)
    folders = {}
    with dask_client() as client:
        for name, one in extractor.apart(embed).items():
            folders[name] = kept / hashing.run_key([one], input_files(one.backbone, one.weights))
            parts = {part: folders[name] / part.name for part in (train, val)}
            parts = {part: folder for part, folder in parts.items() if not embedding.is_complete(folder)}
            exported = folders[name] / EXPORTED
            if not parts and embedding.is_whole(exported):
                print(f"embed: features of {name} are those of an earlier run")
                continue
            model = embedding.first_extractor(one, image_size=base.image_size)
            embedding.export(model, exported)
            embedding.embed(
                parts, model, classes=classes, settings=extractor.settings(base, one), exported=exported, resume=True,
                on_workers=partial(dask_shards.embed_shards, client, base, one, exported) if client else None,
            )  # fmt: skip
    with files.atomic_write(out) as new:
        for part in (train, val):
            sources = {name: folder / part.name for name, folder in folders.items()}
            feature_set.join(sources, new / part.name, settings=extractor.settings(base, embed))
            features = feature_set.read(new / part.name)
            print(f"embed: {len(features.labels)} photos of {part} to {features.sharded().columns} features each")
        for i, folder in enumerate(folders.values()):  # for train
            written, wanted = folder / EXPORTED, new / feature_set.EXTRACTOR.format(i)
            feature_set.link(written, wanted)
            feature_set.link(feature_set.digest_file(written), feature_set.digest_file(wanted))
    for former in set(kept.parent.iterdir()) - {kept}:  # of other photos, code or parameters
        shutil.rmtree(former)


if __name__ == "__main__":
    command(main)
