"""Where the time of a training step goes: the default cnn on random pictures of 160 pixels, by kind of operation.

python benchmarks/training_step.py

Milliseconds of a core per photo, in float32 and mixed bfloat16, with and without `base.deterministic`. TensorFlow has
one thread here. Its profiler says when each operation starts and ends, and a thread reads the processor time of the
process each millisecond: so other processes disturb little. The last row is what oneDNN's own lines (ONEDNN_VERBOSE=1)
say of changes of layout, the shortest time of each.

Expected: nine tenths are convolutions. It takes some two minutes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

SIDE, CLASSES, BATCH, BATCHES = 160, 87, 32, 10
CASES = [(precision, flag) for precision in ("float32", "mixed_bfloat16") for flag in ("true", "false")]
KINDS = {  # what is in the names of the operations; the first that fits counts
    "convolution": "FusedConv2D",
    "gradient of its weights": "Conv2DBackpropFilter",
    "gradient of its input": "Conv2DBackpropInput",
    "gradient of ReLU": "ReluGrad",
    "gradient of pooling": "PoolGrad",
    "pooling": "Pool",
    "dense layers": "MatMul",
    "Adam": "adam/",
    "other operations": "",
}


def profile(precision: str, deterministic: bool) -> dict[str, float]:
    """Trains the network, and returns milliseconds of a core per photo by kind of operation."""
    from gemmodel import devices
    from gemmodel.core import environment, params

    environment.apply_environment()
    settings = params.load(Path("params.yaml"))
    devices.prepare(replace(settings.base, deterministic=deterministic, threads=1), device="cpu")
    import keras
    import numpy as np
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    from gemmodel.embed import samples
    from gemmodel.train.cnn import cnn

    random = np.random.default_rng(0)
    pixels = random.uniform(0, 255, (BATCH * BATCHES, SIDE, SIDE, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(CLASSES, size=len(pixels))]
    data = samples.without_autotune(tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH))
    keras.config.set_dtype_policy(precision)
    model = cnn(settings.model.cnn, image_size=SIDE, classes=CLASSES)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.take(1), verbose=0)  # traces the step

    clock: list[tuple[int, int]] = []
    ended = threading.Event()

    def read_clock() -> None:
        while not ended.wait(0.001):
            clock.append((time.time_ns(), time.process_time_ns()))

    thread = threading.Thread(target=read_clock)
    thread.start()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            model.fit(data, verbose=0)
        ended.set()
        thread.join()
        space = XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    planes = {plane.name: plane for plane in space.planes}
    host, task, times, kinds = planes["/host:CPU"], planes["Task Environment"], np.array(clock), Counter[str]()
    stats = {task.stat_metadata[stat.metadata_id].name: stat.uint64_value for stat in task.stats}
    for line in host.lines:
        for event in line.events:
            name = host.event_metadata[event.metadata_id].name
            if re.fullmatch(r"[^: ]+:\w+", name):  # an operation and its type
                start = stats["profile_start_time"] + line.timestamp_ns + event.offset_ps // 1000
                before, after = np.interp([start, start + event.duration_ps / 1000], times[:, 0], times[:, 1])
                kinds[next(kind for kind, part in KINDS.items() if part in name)] += (after - before) / 1e6
    return {kind: kinds[kind] / len(pixels) for kind in KINDS}


def reorders(lines: list[str]) -> float:
    """Returns milliseconds per photo of oneDNN's changes of layout, from its lines."""
    times = defaultdict(list)
    for line in lines:
        if ",exec,cpu,reorder," in line:
            problem, milliseconds = line.rsplit(",", 1)
            times[problem].append(float(milliseconds))
    return sum(min(values) * len(values) for values in times.values()) / BATCH / (BATCHES + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    if case := parser.parse_args().case:
        print(json.dumps(profile(case[0], case[1] == "true")))
        return
    columns = []
    for case in CASES:  # a process each: determinism cannot be switched off again
        command = [sys.executable, __file__, "--case", *case]
        out = subprocess.run(command, env=os.environ | {"ONEDNN_VERBOSE": "1"}, check=True, capture_output=True)
        *lines, kinds = out.stdout.decode().splitlines()
        columns.append(json.loads(kinds))
        columns[-1] |= {"all": sum(columns[-1].values()), "reorders, by oneDNN": reorders(lines)}
    print(" " * 24, *(f"{precision:>15}" for precision, _ in CASES))
    print(f"{'base.deterministic':<24}", *(f"{flag:>15}" for _, flag in CASES))
    for kind in columns[0]:
        print(f"{kind:<24}", *(f"{column[kind]:15.2f}" for column in columns))


if __name__ == "__main__":
    main()
