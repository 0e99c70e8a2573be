"""Augmented copies to disk, images a second on one and two cores, against the same photos only decoded and encoded.

The yardstick is a plain Pillow loop in one thread: decode, resize to 224 pixels, encode as JPEG, a copy at a time.
The two take turns, since machines drift. Linux alone can bind a process to cores.

Run it after `make repro`, or on a folder of photos: python benchmarks/augmentation.py [--photos ../shared/gemstones]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gemmodel.core import image_folder, params
from gemmodel.core.errors import cli_errors
from gemmodel.images import decode

GEMS, PHOTOS, COPIES, SIDE, RUNS = 20, 20, 20, 224, 3


def plain(train: Path, out: Path) -> int:
    paths = [path for paths in image_folder.list_images(train).values() for path in paths[:COPIES]]
    for number, path in enumerate(paths):
        decode.read(path).resize((SIDE, SIDE)).save(out / f"{number}.jpg", **decode.JPEG)
    return len(paths)


def measure(train: Path) -> None:
    from gemmodel import devices
    from gemmodel.images import augment

    settings = params.load(Path("params.yaml"))
    devices.prepare(settings.base, device="cpu")
    speeds: dict[str, list[float]] = {"augment": [], "plain": []}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            copies = augment.write_copies(train, Path(out, "copies"), settings.augment, image_size=SIDE, seed=1)
            speeds["augment"].append(sum(copies.values()) / (time.perf_counter() - start))
            start = time.perf_counter()
            speeds["plain"].append(plain(train, Path(out)) / (time.perf_counter() - start))
    cores = len(os.sched_getaffinity(0))
    ratios = [new / old for new, old in zip(speeds["augment"], speeds["plain"], strict=True)]
    told = "  ".join(f"{name} {statistics.median(found):6.1f}" for name, found in speeds.items())
    print(f"{cores} cores  {told} images a second  ratio {statistics.median(ratios):.2f}  (medians of {RUNS})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, default=Path("data/clean"))
    parser.add_argument("--cores", type=int, help="measure on so many cores, in this process")
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        measure(arguments.photos)
        return
    with tempfile.TemporaryDirectory() as some:
        for name, paths in list(image_folder.list_images(arguments.photos).items())[:GEMS]:
            for path in paths[:PHOTOS]:
                Path(some, name).mkdir(exist_ok=True)
                shutil.copy(path, Path(some, name))
        for cores in (1, 2):
            subprocess.run([sys.executable, __file__, "--photos", some, "--cores", str(cores)], check=True)


if __name__ == "__main__":
    with cli_errors("augmentation"):
        main()
