"""Speed of training in mixed bfloat16 against float32: the default cnn on random pictures of 160 pixels.

python benchmarks/mixed_precision.py

Expected: 1.9 times the speed on a CPU with AVX512-bf16; less than 1 on one without. It takes some two minutes.
"""

import statistics
import time
from pathlib import Path

from gemmodel import devices
from gemmodel.core import environment, params

SIDE, CLASSES, BATCH, BATCHES, RUNS = 160, 87, 32, 6, 3


def main() -> None:
    settings = params.load(Path("params.yaml"))
    environment.apply_environment()
    print(devices.prepare(settings.base))
    import keras
    import numpy as np
    import tensorflow as tf

    from gemmodel.embed import samples
    from gemmodel.train.cnn import cnn

    random = np.random.default_rng(0)
    pixels = random.uniform(0, 255, (BATCH * BATCHES, SIDE, SIDE, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(CLASSES, size=len(pixels))]
    data = samples.without_autotune(tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH))
    speeds: dict[str, list[float]] = {"float32": [], "mixed_bfloat16": []}
    for _ in range(RUNS):
        for policy, measured in speeds.items():
            keras.config.set_dtype_policy(policy)
            model = cnn(settings.model.cnn, image_size=SIDE, classes=CLASSES)
            model.compile("adam", "categorical_crossentropy")
            model.fit(data.take(1), verbose=0)  # traces the step
            start = time.perf_counter()
            model.fit(data, verbose=0)
            measured.append(len(pixels) / (time.perf_counter() - start))
    for policy, measured in speeds.items():
        print(f"{policy:<15} {statistics.median(measured):6.1f} photos a second (median of {RUNS})")
    ratios = [new / old for old, new in zip(*speeds.values(), strict=True)]
    print(f"ratio           {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
