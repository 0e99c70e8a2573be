"""Speed of augmented copies on disk, on one and on two cores, against a loop that only decodes and encodes.

python benchmarks/augmentation.py [--photos data/clean]

The loop is plain Pillow in one thread: it decodes each photo, resizes it to 224 pixels and encodes it as JPEG. The two
are measured in turn, since the speed of machines drifts. Linux only, since the processes are bound to cores.

Expected: some 140 images a second on one core and 190 on two, 0.3 and 0.45 times the rate of the loop. It takes a
minute or two. Run it after `make repro`, or on any folder of class folders.
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
from gemmodel.images import augment, decode

GEMS, PHOTOS, COPIES, SIDE, RUNS = 20, 20, 20, 224, 3


def plain(train: Path, out: Path) -> int:
    paths = [path for paths in image_folder.list_images(train).values() for path in paths[:COPIES]]
    for i, path in enumerate(paths):
        decode.read(path).resize((SIDE, SIDE)).save(out / f"{i}.jpg", **decode.JPEG)
    return len(paths)


def measure(train: Path) -> None:
    settings = params.load(Path("params.yaml"))
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
    medians = "  ".join(f"{name} {statistics.median(values):6.1f}" for name, values in speeds.items())
    print(f"{cores} cores  {medians} images a second  ratio {statistics.median(ratios):.2f}  (medians of {RUNS})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("data/clean"))
    parser.add_argument(
        "--cores", type=int, help="measure in this process, on this number of cores (default: both 1 and 2)"
    )
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        measure(arguments.photos)
        return
    with tempfile.TemporaryDirectory() as sample:
        for name, paths in list(image_folder.list_images(arguments.photos).items())[:GEMS]:
            for path in paths[:PHOTOS]:
                Path(sample, name).mkdir(exist_ok=True)
                shutil.copy(path, Path(sample, name))
        for cores in (1, 2):
            subprocess.run([sys.executable, __file__, "--photos", sample, "--cores", str(cores)], check=True)


if __name__ == "__main__":
    with cli_errors("augmentation"):
        main()
