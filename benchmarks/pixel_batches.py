"""Photos a second that a network trains on, with pixels in memory, in a file, and decoded in each epoch.

python benchmarks/pixel_batches.py [--photos ../shared/gemstones] [--number 256] [--side 0] [--network cnn transfer]

The first is what a training does up to 8 GiB of pixels, the second what it does above. Each is measured in turn, in
epochs after its first one; also without a network: how fast the batches are made, with and without augmentation. --side
scales the photos to that many pixels first: those of 2,048, which `clean.max_side` allows, take longer to decode.

The first columns are photos a second by the clock. The last two are seconds of cores, as a multiple of those from
memory, which other programs on the machine disturb less. Expected on a CPU: 1.0 and up for a file.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from gemmodel import devices
from gemmodel.core import environment, image_folder, params
from gemmodel.images import decode

RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"))
    parser.add_argument("--number", type=int, default=256, help="of photos in an epoch")
    parser.add_argument("--side", type=int, default=0, help="of the photos in pixels; 0: as they are")
    parser.add_argument("--network", nargs="*", default=["cnn", "transfer"], choices=["cnn", "residual", "transfer"])
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    environment.apply_environment()
    print(devices.prepare(settings.base))
    import keras
    import tensorflow as tf

    from gemmodel.embed import samples
    from gemmodel.train import augmentation, batches, transfer
    from gemmodel.train.network import NETWORKS
    from gemmodel.train.pixel_file import PixelFile

    by_class = list(image_folder.list_images(arguments.photos).values())
    paths = [path for photos in by_class for path in photos]
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, arguments.number).astype(int)]
    labels, size = np.arange(len(paths)) % len(by_class), settings.base.image_size

    def seconds(data: tf.data.Dataset, model: keras.Model | None) -> np.ndarray:
        start = np.array([time.perf_counter(), time.process_time()])
        if model is None:
            for _ in data:
                pass
        else:
            model.fit(data, verbose=0)
        return np.array([time.perf_counter(), time.process_time()]) - start

    with tempfile.TemporaryDirectory() as folder:
        if arguments.side:
            for i, path in enumerate(paths):
                paths[i] = Path(folder) / f"{i}.jpg"
                decode.read(path).resize((arguments.side, arguments.side)).save(paths[i], quality=90)
        print("| | " + " | ".join(["memory", "file", "decoded", "cores: file", "cores: decoded"]) + " |")
        print("| --- |" + 5 * " ---: |")
        for name in ("batches alone", "batches alone, augmented", *arguments.network):
            options = {
                "classes": len(by_class), "image_size": size, "batch_size": 32,
                "shuffle_seed": tf.Variable(1, dtype=tf.int64),
                "augmenter": None if name == "batches alone" else augmentation.augmenter(settings.augment, seed=1),
            }  # fmt: skip
            pixels = PixelFile(paths, image_size=size, folder=Path(folder))
            ways = {
                "memory": samples.batches(paths, labels, **options, cache=True),
                "file": batches.batches_from_file(pixels, labels, **options),
                "decoded": samples.batches(paths, labels, **options),
            }
            model = None
            if name in NETWORKS:
                model = NETWORKS[name](getattr(settings.model, name), image_size=size, classes=len(by_class))
                if name == "transfer":
                    transfer.freeze(model, below=settings.model.transfer.unfreeze)
                model.compile("adam", "categorical_crossentropy")
            taken: dict[str, list[np.ndarray]] = {way: [] for way in ways}
            for run in range(RUNS + 1):
                for way, data in ways.items():
                    used = seconds(data, model)
                    taken[way] += [used] if run else []
            clock, cores = np.median([taken[way] for way in ways], axis=1).T
            columns = [f"{len(paths) / value:.0f}" for value in clock]
            columns += [f"{value / cores[0]:.2f}" for value in cores[1:]]
            print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
