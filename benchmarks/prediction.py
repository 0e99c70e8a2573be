"""What prediction without TensorFlow costs: the first answer of a new process, photos a second, and Keras' numbers.

python benchmarks/prediction.py [--model models] [--photos ../shared/gemstones] [--number 200]
Some two minutes on two cores. Times are of the wall; on a machine that does other work compare the processor's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gemmodel.core import image_folder
from gemmodel.serve.predictor import Predictor

RUNS = 5


def seconds(*arguments: str) -> float:
    """Returns the median time that a new Python process takes."""
    took = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def speed(predictor: Predictor, photos: list[Path]) -> str:
    list(predictor.predict(photos[:8]))
    start, processor = time.perf_counter(), time.process_time()
    list(predictor.predict(photos))
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    return f"{len(photos) / wall:.1f} photos a second, {1000 * processor / len(photos):.1f} ms of a core each"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models"))
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder a class")
    parser.add_argument("--number", type=int, default=200, help="of photos")
    arguments = parser.parse_args()
    found = [path for paths in image_folder.list_images(arguments.photos).values() for path in paths]
    photos = found[:: max(1, len(found) // arguments.number)][: arguments.number]
    print(f"{os.cpu_count()} cores, {len(photos)} photos, {arguments.model / 'model.tflite'}")
    command = ["-m", "gemmodel.cli", "predict", "--model", str(arguments.model), str(photos[0])]
    first, bare = seconds(*command), seconds("-c", "import tensorflow")
    print(f"first answer of a new process  {first:.2f} s, `import tensorflow` {bare:.2f} s: {first / bare:.1%}")
    print(f"gemmodel --help                {seconds('-m', 'gemmodel.cli', '--help'):.2f} s")
    print(f"a photo on each core           {speed(Predictor(arguments.model), photos)}")
    print(f"one photo on all cores         {speed(Predictor(arguments.model, workers=1), photos)}")
    from gemmodel import devices  # noqa: F401  # only now: TensorFlow's threads take time from others
    from gemmodel.models import saving

    predictor = Predictor(arguments.model)
    pixels = np.stack([predictor.pixels(path) for path in photos])
    both = saving.with_embedding(saving.load(arguments.model)[0])
    start = time.perf_counter()
    expected, embedding = both.predict(pixels.astype(np.float32), batch_size=8, verbose=0)
    print(
        f"Keras, batches of 8            {len(photos) / (time.perf_counter() - start):.1f} photos a second, no decoding"
    )
    told = [predictor.outputs(one) for one in pixels]
    away = np.abs(np.concatenate([one for one, _ in told]) - expected).max()
    far = np.abs(np.concatenate([one for _, one in told]) - embedding).max() / np.abs(embedding).max()
    print(f"largest difference from Keras  probabilities {away:.1e}, embedding {far:.1e} of its largest value")


if __name__ == "__main__":
    main()
