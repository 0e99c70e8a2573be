"""Seconds and memory of fusion's fit by number of photos: random features of 87 gems in shards, as embed writes them.

python benchmarks/shards.py [--number 30000 100000] [--keep FOLDER]

The features have three blocks of the default's widths, 23 KB per photo on disk. Each number is measured in a process of
its own, so that the largest memory is that number's. "spent" are seconds of cores, which other work on the machine
changes less than seconds of the clock.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gemmodel.core import params
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet, ShardedArray
from gemmodel.train.ridge.kernel_ridge import KernelRidge

CLASSES, BLOCKS = 87, {"maps": 3_584, "covariances": 6_328, "colours": 1_536}


def write_features(folder: Path, photos: int) -> None:
    """Writes random features of some photos, around the centre of each class."""
    width, rng = sum(BLOCKS.values()), np.random.default_rng(0)
    centres = 0.3 * rng.standard_normal((CLASSES, width), dtype=np.float32)
    labels = np.sort(np.arange(photos) % CLASSES).astype(np.int32)
    shards = []
    for i, rows in enumerate(feature_set.shard_slices(photos)):
        features = centres[labels[rows]] + rng.standard_normal((rows.stop - rows.start, width), dtype=np.float32)
        shards.append(feature_set.write_shard(folder / feature_set.shard_name(i), features))
    classes = [f"gem {i}" for i in range(CLASSES)]
    table = FeatureSet(ShardedArray((), (), width), labels, np.arange(photos).astype(str), classes, BLOCKS)
    feature_set.write_table(folder, table, shards)


def fit(folder: Path) -> None:
    """Fits the shipped head to features, and prints a row of the table."""
    model = params.load(Path("params.yaml")).model.fusion
    start, spent = time.perf_counter(), time.process_time()
    photos = feature_set.read(folder)
    ridge = KernelRidge(model, classes=CLASSES, blocks=list(BLOCKS.values()), penalty=model.penalties[0])
    ridge.fit(photos.features, photos.labels)
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    accuracy = (ridge.loo_probs_.argmax(axis=1) == photos.labels).mean()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(photos.labels):7}  {seconds:7.0f}  {spent:6.0f}  {memory:6.2f}  {accuracy:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, nargs="+", default=[30_000, 100_000], help="of photos")
    parser.add_argument("--keep", type=Path, help="stores the features in this folder for other runs")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit(arguments.fit)
        return
    print(" photos  seconds   spent      GB  top-1 left out", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for number in arguments.number:
            folder = (arguments.keep or Path(scratch)) / str(number)
            if not folder.is_dir():
                write_features(folder, number)
            subprocess.run([sys.executable, __file__, "--fit", folder], check=True)


if __name__ == "__main__":
    main()
