"""What a backbone costs: milliseconds and memory a photo, and the size of its export, with random weights.

python benchmarks/backbones.py [--only efficientnet_lite0@224 ...] [--photos 20]

Nothing is downloaded: the networks have their published sizes, but random weights, so this says nothing of accuracy.
Each one is exported as `embed` does, in the views of params.yaml, and computed in a process without TensorFlow. Time
is processor time on one thread; on a busy machine it grows too. The presets of keras-hub need `pip install -e
'.[hub]'`. It needs Linux, and takes a minute for each backbone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

APPLICATIONS = [
    "efficientnet_lite0@224", "efficientnet_lite2@260", "mobilenet_v3_large@224", "efficientnet_v2_b0@224",
    "efficientnet_v2_s@384", "resnet50@224", "convnext_tiny@224", "convnext_base@224",
]  # fmt: skip
MEASURE = """\
import json, re, statistics, sys, time
from pathlib import Path
import numpy as np
from gemmodel.embed.litert import Graph
graph = Graph(Path(sys.argv[1]))
photos = np.random.default_rng(0).integers(0, 256, (int(sys.argv[2]) + 1, graph.size, graph.size, 3))
times = []
for photo in photos:
    start = time.process_time()
    graph(photo)
    times.append(time.process_time() - start)
# Not by getrusage, which counts what the process that started this one had.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps([1000 * statistics.median(times[1:]), peak]))
"""


def dinov2_small() -> Any:
    """Returns DINOv2 ViT-S/14 with random weights (Maxime Oquab and others, arXiv 2304.07193), for 224 pixels."""
    import keras_hub

    return keras_hub.models.DINOV2Backbone(
        patch_size=14, num_layers=12, hidden_dim=384, num_heads=6, intermediate_dim=1536, image_shape=(224, 224, 3)
    )


def siglip2_base() -> Any:
    """Returns the image tower of SigLIP 2 B/16 with random weights (Michael Tschannen and others, 2502.14786)."""
    import keras_hub

    images = keras_hub.models.SigLIPVisionEncoder(
        patch_size=16, num_layers=12, hidden_dim=768, num_heads=12, intermediate_dim=3072, image_shape=(224, 224, 3)
    )
    text = keras_hub.models.SigLIPTextEncoder(  # as small as possible: no photo needs it
        vocabulary_size=8, embedding_dim=768, hidden_dim=768, num_layers=1, num_heads=1, intermediate_dim=8
    )
    return keras_hub.models.SigLIPBackbone(images, text)


PRESETS: dict[str, Callable[[], Any]] = {"dinov2_small@224": dinov2_small, "siglip2_base_patch16_224": siglip2_base}


def preset(name: str, folder: Path) -> str:
    """Writes a preset with random weights, and returns its folder."""
    import keras_hub

    model = PRESETS[name]()
    model.save_to_preset(folder)
    kinds = keras_hub.layers
    converter = kinds.DINOV2ImageConverter if "dino" in name else kinds.SigLIPImageConverter
    converter(image_size=(224, 224), scale=1 / 127.5, offset=-1).save_to_preset(folder)
    return str(folder)


def measure(name: str, scratch: Path, photos: int) -> dict[str, Any]:
    """Returns the costs of one backbone."""
    import keras

    from gemmodel.core import params
    from gemmodel.embed import extractor, litert

    label, _, side = name.partition("@")
    backbone = preset(name, scratch / label) if name in PRESETS else name
    embed = replace(params.load(Path("params.yaml")).embed, backbone=(backbone,), weights="none")
    model = extractor.extractor(embed, image_size=int(side or 224))
    pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
    litert.export({"output": model(pixels)}, pixels, file := scratch / f"{label}.tflite")
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file), str(photos)], capture_output=True, text=True, check=True
    )
    milliseconds, peak = json.loads(ended.stdout)
    size = file.stat().st_size / 1e6
    return {"name": name, "features": model.output_shape[1], "ms": milliseconds, "MiB": peak, "MB": size}


def main() -> None:
    """Prints a row for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*APPLICATIONS, *PRESETS], metavar="NAME")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        from gemmodel import devices  # noqa: F401  # as a stage, without TensorFlow's messages

        with tempfile.TemporaryDirectory() as scratch:
            row = measure(arguments.one, Path(scratch), arguments.photos)
        print("| {name} | {features:,} | {ms:.0f} | {MiB:.0f} | {MB:.0f} | not measured |".format(**row), flush=True)
        return
    print(
        "| backbone | features | ms a photo | memory, MiB | model, MB | top-1 |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in arguments.only:  # a process each: TensorFlow keeps the memory of the networks before
        subprocess.run([sys.executable, __file__, "--one", name, "--photos", str(arguments.photos)], check=True)


if __name__ == "__main__":
    main()
