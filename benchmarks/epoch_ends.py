"""Time from the last batch of an epoch to its end, with and without TensorFlow's autotuning of data sets.

python benchmarks/epoch_ends.py

It trains the default cnn on random pictures of 160 pixels, in epochs of different lengths, with and without autotuning
in turn. Expected: the epochs with autotuning take 1.1 to 1.3 times as long in total. It takes some three minutes.
"""

import time
from pathlib import Path

from gemmodel import devices
from gemmodel.core import environment, params

SIDE, CLASSES, BATCH, BATCHES = 160, 87, 32, (2, 3, 4, 6, 8, 10, 12, 14, 16)


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
    pixels = random.integers(0, 256, (BATCH * max(BATCHES), SIDE, SIDE, 3), np.uint8)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(CLASSES, size=len(pixels))]
    autotuned = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    model = cnn(settings.model.cnn, image_size=SIDE, classes=CLASSES)
    model.compile("adam", "categorical_crossentropy")
    model.fit(autotuned.take(1), verbose=0)  # traces the step

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self.last_batch = time.perf_counter()

    totals = {"autotuned": 0.0, "fixed": 0.0}
    for batches in BATCHES:
        for name, data in (
            ("autotuned", autotuned.take(batches)),
            ("fixed", samples.without_autotune(autotuned.take(batches))),
        ):
            clock, start = Clock(), time.perf_counter()
            model.fit(data, callbacks=[clock], verbose=0)
            end = time.perf_counter()
            totals[name] += end - start
            print(f"{name:<9} {clock.last_batch - start:6.2f} s to the last batch, {end - start:6.2f} s to the end")
    print(f"ratio     {totals['autotuned'] / totals['fixed']:6.2f} of the time of all epochs")


if __name__ == "__main__":
    main()
