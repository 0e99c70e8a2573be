"""Time and memory of each stage and of DVC's commands for a number of photos, as a Markdown table.

python benchmarks/scaling.py [--photos ../shared/gemstones] [--number 30000] [--set embed.views=[photo]]

If --number is larger than the number of photos, the others are rotated, cropped and tinted copies. They differ so much
from their originals that cleaning does not remove them as duplicates, so the scores mean nothing. Everything is in a
temporary folder, which takes 0.15 GB per thousand photos of 22 KB. Memory is that of the largest process.

Expected on two cores with one view: 4 minutes for 2,856 photos, 15 minutes for 30,000 with a softmax head.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from joblib import Parallel, delayed
from PIL import Image

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError
from gemmodel.images import decode

ROOT = Path(__file__).parents[1]
STAGES = ["crawl", "clean", "split", "describe", "augment", "embed", "train", "evaluate", "explore"]


def copy(source: Path, target: Path, i: int) -> None:
    """Writes copy `i` of a photo; from the second on it is rotated, cropped to about half of its area, and tinted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if i:
        with suppress(DataError):  # a damaged file is copied as it is
            changed(decode.read(source), random.Random(f"{source.name} {i}")).save(target, "JPEG", quality=88)
            return
    files.copy(source, target)


def changed(picture: Image.Image, rng: random.Random) -> Image.Image:
    rotated = picture.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))
    width, height = (round(side * rng.uniform(0.65, 0.8)) for side in picture.size)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    cropped = rotated.crop((left, top, left + width, top + height)).resize(picture.size, Image.Resampling.BICUBIC)
    gains = [rng.uniform(0.7, 1.2) for _ in range(3)]
    return cropped.point([min(255, round(value * gain)) for gain in gains for value in range(256)])


def make(photos: Path, out: Path, number: int) -> None:
    """Writes a number of photos in class folders; 0: as many as there are."""
    originals = [path for paths in image_folder.list_images(photos).values() for path in paths]
    tasks = [(originals[i % len(originals)], i // len(originals)) for i in range(number or len(originals))]
    Parallel(n_jobs=-1)(
        delayed(copy)(path, out / path.parent.name / f"{path.stem}-{i}{path.suffix}", i) for path, i in tasks
    )


def project(out: Path, photos: Path, changes: dict[str, Any]) -> None:
    """Copies the checkout with some parameters changed, and without dvc.lock."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if name != "dvc.lock" and (ROOT / name).is_file():
            files.copy(ROOT / name, out / name)
    values = yaml.safe_load((out / "params.yaml").read_text(encoding="utf-8"))
    for name, value in ({"crawl.source": "folder", "crawl.folder": str(photos)} | changes).items():
        *sections, key = name.split(".")
        node = values
        for section in sections:
            node = node[section]
        if key not in node:
            raise SystemExit(f"scaling: params.yaml has no {name}")
        node[key] = value
    (out / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=out, check=True)


def measure(name: str, command: list[str], folder: Path) -> None:
    """Runs a command and prints its row."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables | {"PYTHONPATH": str(folder)}, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        last = output.read().decode(errors="replace").strip().splitlines()[-1:]
    scale = 1e9 if sys.platform == "darwin" else 1e6
    processor, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / scale
    failed = f" failed ({process.returncode}):" if process.returncode else ""
    print(f"| {name} | {seconds:.0f} | {processor:.0f} | {memory:.2f} |{failed} {''.join(last)[:160]} |", flush=True)
    if process.returncode:
        raise SystemExit(f"scaling: {name} failed")


def size(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{sum(sizes) / 1e9:.2f} GB in {len(sizes):,} files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT.parent / "shared" / "gemstones")
    parser.add_argument("--number", type=int, default=0, help="of photos; 0: as many as there are")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="parameters of params.yaml")
    parser.add_argument("--stages", nargs="*", default=STAGES)
    given = parser.parse_args()
    changes = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in given.set)}
    with tempfile.TemporaryDirectory() as folder:
        photos, work, store = (Path(folder).resolve() / name for name in ("photos", "work", "store"))
        make(given.photos, photos, given.number)
        project(work, photos, changes)
        print(f"{size(photos)}; {' '.join(given.set) or 'default parameters'}; {os.cpu_count()} cores\n")
        print(
            "| | seconds | processor seconds | peak memory, GB | output |\n| --- | --- | --- | --- | --- |", flush=True
        )
        stages = yaml.safe_load((work / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        for stage in given.stages:
            measure(stage, [sys.executable, *shlex.split(stages[stage]["cmd"])[1:]], work)
        dvc = [sys.executable, "-m", "dvc"]
        measure("dvc commit: hashes and caches all outputs", [*dvc, "commit", "-q", "-f", *given.stages], work)
        measure("dvc status, nothing to do", [*dvc, "status", *given.stages], work)
        measure("dvc repro, nothing to do", [*dvc, "repro", *given.stages], work)
        subprocess.run([*dvc, "remote", "add", "-q", "-d", "store", str(store)], cwd=work, check=True)
        measure("dvc push to a folder", [*dvc, "push", *given.stages], work)
        measure("dvc push again", [*dvc, "push", *given.stages], work)
        print(f"\nDVC's cache: {size(work / '.dvc' / 'cache')}; working folders: {size(work / 'data')}")


if __name__ == "__main__":
    main()
