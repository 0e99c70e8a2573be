"""Speed of cleaning against a Pillow loop that only decodes, resizes to 224 pixels and encodes each photo.

python benchmarks/cleaning.py [--photos ../shared/gemstones]

Expected: cleaning takes 1.2 times as long on one core and 1.6 times on two; the target is at most 2. It takes some
three minutes for 2,856 photos.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from joblib import Parallel, delayed
from PIL import Image

from gemmodel.clean import cleaning
from gemmodel.core import files, image_folder, params
from gemmodel.images import decode

RUNS = 3


def resize(path: Path, target: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC).save(target, **decode.JPEG)


def loop(paths: list[Path], out: Path, workers: int) -> None:
    out.mkdir()
    Parallel(n_jobs=workers)(delayed(resize)(path, out / f"{i}.jpg") for i, path in enumerate(paths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"))
    photos = parser.parse_args().photos
    settings = params.load(Path("params.yaml")).clean
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        lines = []
        for gem, paths in image_folder.list_images(photos).items():
            for i, path in enumerate(paths):
                name = f"{gem}/{path.name}"
                files.copy(path, raw / name)
                lines.append({"path": name, "number": i})
        files.write_jsonl(raw / "manifest.jsonl", lines)
        names = [raw / line["path"] for line in lines]
        for workers in (1, 2):
            speeds: dict[str, list[float]] = {"loop": [], "clean": []}
            for run in range(RUNS):  # in turn, since the speed of machines drifts
                for kind, measured in speeds.items():
                    target = out / f"{kind}-{workers}-{run}"
                    target.parent.mkdir(exist_ok=True)
                    start = time.perf_counter()
                    if kind == "loop":
                        loop(names, target, workers)
                    else:
                        cleaning.clean(raw, target, settings, workers)
                    measured.append(len(names) / (time.perf_counter() - start))
            ratio = statistics.median(a / b for a, b in zip(speeds["loop"], speeds["clean"], strict=True))
            medians = ", ".join(f"{kind} {statistics.median(values):.0f}" for kind, values in speeds.items())
            print(
                f"{workers} process(es), photos a second: {medians}; clean takes {ratio:.2f} times as long (target: 2)"
            )


if __name__ == "__main__":
    main()
