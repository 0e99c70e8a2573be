"""Time, memory and disk of each stage and of DVC's commands by number of photos, as Markdown tables.

python benchmarks/scaling.py --number 3000 30000 100000 --work FOLDER [--photos ../shared/gemstones] [--set KEY=VALUE]

Of more photos than there are, the others are rotated, cropped and tinted copies. They differ so much from their
originals that cleaning does not remove them as duplicates, so the scores mean nothing.

--work FOLDER keeps the photos, the projects and every row, some 0.16 GB per thousand photos. A second call goes on
where the first one ended, with the code of the checkout as it is then; rows of FOLDER/NUMBER/rows.jsonl that are
deleted are measured again. Without it everything is in a temporary folder.

Seconds of cores and bytes written are those of all processes that a stage starts (on Linux also of those that it does
not wait for). Memory is what all of them together hold at a time, sampled twice a second, without the pages of files
that are mapped: the system drops these when it needs memory. Growth is the exponent between the two largest numbers of
photos, of the seconds of cores, which other programs on the machine disturb less than those of the clock.
"""

import argparse
import ctypes
import json
import math
import os
import random
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError
from gemmodel.images import decode

ROOT = Path(__file__).parents[1]
DVC = [sys.executable, "-m", "dvc"]
STAGES = ["crawl", "clean", "split", "augment", "describe", "embed", "train", "evaluate", "explore"]
COMMIT, STATUS, REPRO, PUSH, PUSH_AGAIN = (
    "dvc commit: hashes and caches all outputs", "dvc status, nothing to do", "dvc repro, nothing to do",
    "dvc push to a folder", "dvc push again",
)  # fmt: skip
INTERVAL = 0.5  # s, between two looks at a stage's memory
MAX_MEMORY, MAX_TRAIN_GROWTH, MAX_TRAIN_MINUTES, MAX_EXPONENT = 6.0, 1.3, 15, 1.1  # the targets; memory in GB
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux' prctl: what a stage does not wait for becomes a child of this process


def copy(task: tuple[Path, Path, int]) -> None:
    """Writes copy `i` of a photo; from the second on it is rotated, cropped to about half of its area, and tinted."""
    source, target, i = task
    with files.atomic_write(target) as new:
        if i:
            with suppress(DataError):  # a damaged file is copied as it is
                picture = changed(decode.read(source), random.Random(f"{source.name} {i}"))
                picture.save(new, "JPEG", quality=88)
                return
        files.copy(source, new)


def changed(picture: Image.Image, rng: random.Random) -> Image.Image:
    rotated = picture.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))
    width, height = (round(side * rng.uniform(0.65, 0.8)) for side in picture.size)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    cropped = rotated.crop((left, top, left + width, top + height)).resize(picture.size, Image.Resampling.BICUBIC)
    gains = [rng.uniform(0.7, 1.2) for _ in range(3)]
    return cropped.point([min(255, round(value * gain)) for gain in gains for value in range(256)])


def make(photos: Path, out: Path, number: int) -> list[Path]:
    """Writes those of the first `number` photos that are not there yet, in class folders, and returns all their paths.

    Args:
        photos: the originals, one folder per class.
        out: the folder to write to.
        number: of photos; 0: as many as there are originals.
    """
    originals = [path for paths in image_folder.list_images(photos).values() for path in paths]
    tasks = []
    for i in range(number or len(originals)):
        path = originals[i % len(originals)]
        tasks.append((path, out / path.parent.name / f"{path.stem}-{i}{path.suffix}", i // len(originals)))
    missing = [task for task in tasks if not task[1].exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(copy, missing, chunksize=64))
    return [target for _, target, _ in tasks]


def link(made: list[Path], photos: Path, out: Path) -> None:
    """Makes a folder of hard links to some of the photos, whole or not at all."""
    if not out.exists():
        with files.atomic_write(out) as new:
            for path in made:
                target = new / path.relative_to(photos)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(path)


def project(out: Path, checkout: Path, changes: dict[str, Any]) -> None:
    """Copies a checkout with some parameters changed, and without dvc.lock."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if name != "dvc.lock" and (checkout / name).is_file():
            files.copy(checkout / name, out / name)
    values = yaml.safe_load((out / "params.yaml").read_text(encoding="utf-8"))
    for name, value in changes.items():
        *sections, key = name.split(".")
        node = values
        for section in sections:
            node = node[section]
        if key not in node:
            raise SystemExit(f"scaling: params.yaml has no {name}")
        node[key] = value
    (out / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=out, check=True)


def memory(pid: int) -> int:
    """Returns the bytes that a process and its children hold, without the pages of mapped files.

    Pages that several of them share count once.
    """
    held = 0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.Error, OSError):
                if sys.platform != "linux":
                    held += process.memory_info().rss
                    continue
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
                sizes = {name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
                held += 1024 * (sizes["Pss_Anon"] + sizes["Pss_Shmem"])
    return held


def measure(name: str, command: list[str], folder: Path) -> dict[str, Any]:
    """Runs a command and returns its row."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    before, start, peak, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0, threading.Event()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables | {"PYTHONPATH": str(folder)}, stdout=output, stderr=output
        )

        def watch() -> None:
            nonlocal peak
            while not ended.wait(INTERVAL):
                peak = max(peak, memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code = process.wait()
        finally:
            process.kill()
            ended.set()
            watcher.join()
        seconds = time.perf_counter() - start
        with suppress(ChildProcessError):
            while True:
                os.wait()
        output.seek(0)
        last = output.read().decode(errors="replace").strip().splitlines()[-1:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"scaling: {name} failed ({code}): {''.join(last)}; a second call goes on from here")
    return {
        "name": name,
        "seconds": seconds,
        "core_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory": peak / 1e9,
        "written": 512 * (after.ru_oublock - before.ru_oublock) / 1e9,
        "output": "".join(last)[:160],
    }


def size(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{sum(sizes) / 1e9:.2f} GB in {len(sizes):,} files"


def measure_all(work: Path, photos: Path, stages: list[str], changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the rows of a number of photos by name; those that an earlier call has measured are read."""
    stored, checkout, store = work / "rows.jsonl", work / "project", work / "store"
    rows = {row["name"]: row for row in files.read_jsonl(stored)} if stored.exists() else {}
    project(checkout, ROOT, {"crawl.source": "folder", "crawl.folder": str(photos)} | changes)
    graph = yaml.safe_load((checkout / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    if not (checkout / ".dvc" / "config.local").exists():
        subprocess.run([*DVC, "remote", "add", "-q", "-d", "--local", "store", str(store)], cwd=checkout, check=True)
    commands = {stage: [sys.executable, *shlex.split(graph[stage]["cmd"])[1:]] for stage in stages}
    commands |= {
        COMMIT: [*DVC, "commit", "-q", "-f", *stages], STATUS: [*DVC, "status", *stages],
        REPRO: [*DVC, "repro", *stages], PUSH: [*DVC, "push", *stages], PUSH_AGAIN: [*DVC, "push", *stages],
    }  # fmt: skip
    for name, command in commands.items():
        if name not in rows:
            rows[name] = measure(name, command, checkout)
            with stored.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[name]) + "\n")
        row = rows[name]
        print(
            f"| {name} | {row['seconds']:.0f} | {row['core_seconds']:.0f} | {row['memory']:.2f} | {row['written']:.2f} "
            f"| {row['output']} |",
            flush=True,
        )
    print(f"\nDVC's cache: {size(checkout / '.dvc' / 'cache')}; working folders: {size(checkout / 'data')}\n")
    return {name: rows[name] for name in commands}


def growth(rows: dict[int, dict[str, dict[str, Any]]], stages: list[str]) -> None:
    """Prints how each row grows between the two largest numbers of photos, and which targets are missed."""
    few, many = sorted(rows)[-2:]
    print(f"| from {few:,} to {many:,} photos | exponent of the time | memory, times | targets missed |")
    print("| --- | ---: | ---: | --- |")
    for name, row in rows[many].items():
        before = rows[few][name]
        exponent = math.log(row["core_seconds"] / before["core_seconds"]) / math.log(many / few)
        times = row["memory"] / max(before["memory"], 1e-3)
        targets = {
            f"at most {MAX_MEMORY:.0f} GB": row["memory"] <= MAX_MEMORY,
            f"exponent at most {MAX_EXPONENT}": exponent <= MAX_EXPONENT,
        }
        if name == "train":
            targets[f"memory at most {MAX_TRAIN_GROWTH} times"] = times <= MAX_TRAIN_GROWTH
            targets[f"at most {MAX_TRAIN_MINUTES} minutes"] = row["seconds"] <= 60 * MAX_TRAIN_MINUTES
        missed = ", ".join(target for target, met in targets.items() if not met) or "none"
        print(f"| {name} | {exponent:.2f} | {times:.2f} | {missed if name in stages else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT.parent / "shared" / "gemstones")
    parser.add_argument("--number", type=int, nargs="+", default=[0], help="of photos; 0: as many as there are")
    parser.add_argument("--work", type=Path, help="keeps photos, projects and rows for further calls")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="parameters of params.yaml")
    parser.add_argument("--stages", nargs="*", default=STAGES)
    given = parser.parse_args()
    changes = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in given.set)}
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.work or Path(temporary)).resolve()
        rows = {}
        for number in given.number:
            made = make(given.photos, folder / "photos", number)
            work = folder / str(len(made))
            link(made, folder / "photos", work / "photos")
            print(f"{size(work / 'photos')}; {' '.join(given.set) or 'default parameters'}; {os.cpu_count()} cores\n")
            print("| | seconds | seconds of cores | peak memory, GB | written, GB | output |")
            print("| --- | ---: | ---: | ---: | ---: | --- |", flush=True)
            rows[len(made)] = measure_all(work, work / "photos", given.stages, changes)
        if len(rows) > 1:
            growth(rows, given.stages)


if __name__ == "__main__":
    main()
