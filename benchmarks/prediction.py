"""Prediction with LiteRT: start-up time, photos a second, and the difference from Keras.

python benchmarks/prediction.py [--model models] [--photos ../shared/gemstones] [--number 200]

Expected on two cores: the first prediction of a new process takes 0.3 to 0.4 s, 7 % of `import tensorflow`; 50 to 65
photos a second (target: 80), against 20 to 35 for Keras without decoding. It takes some two minutes, after
`dvc repro`. Times are wall-clock times; on a busy machine compare the processor times.
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
    """Returns the median wall-clock time of a new Python process."""
    durations = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def speed(predictor: Predictor, photos: list[Path]) -> str:
    list(predictor.predict(photos[:8]))
    start, processor = time.perf_counter(), time.process_time()
    list(predictor.predict(photos))
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    return f"{len(photos) / wall:.1f} photos a second, {1000 * processor / len(photos):.1f} ms of processor time each"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models"))
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder per class")
    parser.add_argument("--number", type=int, default=200, help="of photos")
    arguments = parser.parse_args()
    paths = [path for by_class in image_folder.list_images(arguments.photos).values() for path in by_class]
    photos = paths[:: max(1, len(paths) // arguments.number)][: arguments.number]
    print(f"{os.cpu_count()} cores, {len(photos)} photos, {arguments.model / 'model.tflite'}")
    command = ["-m", "gemmodel.cli", "predict", "--model", str(arguments.model), str(photos[0])]
    first, bare = seconds(*command), seconds("-c", "import tensorflow")
    print(f"first prediction of a process  {first:.2f} s, `import tensorflow` {bare:.2f} s: {first / bare:.1%}")
    print(f"gemmodel --help                {seconds('-m', 'gemmodel.cli', '--help'):.2f} s")
    print(f"one photo on each core         {speed(Predictor(arguments.model), photos)}")
    print(f"one photo on all cores         {speed(Predictor(arguments.model, workers=1), photos)}")
    from gemmodel import devices  # noqa: F401  # not earlier: TensorFlow's threads would slow the others down
    from gemmodel.models import saving

    predictor = Predictor(arguments.model)
    pixels = np.stack([predictor.pixels(path) for path in photos])
    both = saving.load(arguments.model, embedding=True)[0]
    start = time.perf_counter()
    expected, embedding = both.predict(pixels.astype(np.float32), batch_size=8, verbose=0)
    print(
        f"Keras, batches of 8            {len(photos) / (time.perf_counter() - start):.1f} photos a second, no decoding"
    )
    outputs = [predictor.outputs(photo) for photo in pixels]
    probs_error = np.abs(np.concatenate([probs for probs, _ in outputs]) - expected).max()
    error = np.abs(np.concatenate([embedded for _, embedded in outputs]) - embedding).max() / np.abs(embedding).max()
    print(f"largest difference from Keras  probabilities {probs_error:.1e}, embedding {error:.1e} of its largest value")


if __name__ == "__main__":
    main()
