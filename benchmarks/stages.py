"""Where the time of each stage goes, as a Markdown table; also beside the code of another checkout.

python benchmarks/stages.py [--photos ../shared/gemstones] [--against FOLDER] [--runs 3] [--stages embed train ...]

Each stage runs as dvc.yaml has it, in a copy of the checkout and outside of DVC: from the sample site, or from a folder
of photos. Seconds, seconds of cores and peak memory in GB are those of `scaling.py`. Of the seconds of cores,
`imports`, `graphs` (Keras models that are built or loaded), `export` (to LiteRT) and `MLflow` are measured by
`stage_parts.py`; the rest is `work`, in other processes too.

With --against, each stage of the other checkout runs directly before that of this one, so what else the machine does
slows both. The ratios are this one's numbers by those; of a busy machine only the seconds of cores say something. With
--runs the numbers are medians.
"""

import argparse
import ctypes
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scaling
import yaml

PARTS = Path(__file__).with_name("stage_parts.py")
COLUMNS = ("seconds", "core_seconds", "memory", "imports", "graphs", "export", "MLflow", "work")


def run(stage: str, checkout: Path) -> dict[str, float]:
    """Runs a stage in a copy of a checkout and returns its row of COLUMNS."""
    command = yaml.safe_load((checkout / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["cmd"]
    module, *arguments = shlex.split(command)[2:]  # after `python -m`
    row = scaling.measure(stage, [sys.executable, str(PARTS), module, *arguments], checkout)
    parts = json.loads(row["output"])
    return row | parts | {"work": row["core_seconds"] - sum(parts.values())}


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Returns the medians of the rows by stage, and their sum as `all`; of the memory, the largest."""
    medians = {
        stage: {name: statistics.median(row[name] for row in runs) for name in COLUMNS} for stage, runs in rows.items()
    }
    whole = {name: sum(row[name] for row in medians.values()) for name in COLUMNS}
    whole["memory"] = max(row["memory"] for row in medians.values())
    return medians | {"all": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of class folders; without it, the sample site")
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--runs", type=int, default=1, help="of each stage, in turn")
    parser.add_argument("--stages", nargs="*", help="all by default; each needs the ones before it")
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(scaling.SUBREAPER, 1, 0, 0, 0)
    sources = [path.resolve() for path in (given.against, scaling.ROOT) if path]
    changes = {"crawl.source": "folder", "crawl.folder": str(given.photos.resolve())} if given.photos else {}
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [Path(folder) / str(i) for i in range(len(sources))]
        for source, checkout in zip(sources, checkouts, strict=True):
            scaling.project(checkout, source, changes)
        stages = given.stages or list(yaml.safe_load((checkouts[-1] / "dvc.yaml").read_text("utf-8"))["stages"])
        rows: list[dict[str, list[dict[str, float]]]] = [{stage: [] for stage in stages} for _ in sources]
        for stage in (stage for _ in range(given.runs) for stage in stages):
            for checkout, by_stage in zip(checkouts, rows, strict=True):
                by_stage[stage].append(run(stage, checkout))
                print(f"{checkout.name} {stage} {by_stage[stage][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    tables = [table(by_stage) for by_stage in rows]
    for source, medians in zip(sources, tables, strict=True):
        print(f"\n{source.name}\n\n| stage | {' | '.join(COLUMNS).replace('_', ' ')} |")
        print(f"| --- |{' ---: |' * len(COLUMNS)}")
        for stage, row in medians.items():
            print(f"| {stage} | {' | '.join(f'{row[name]:.1f}' for name in COLUMNS)} |")
    if given.against:
        before, after = tables
        print("\n| stage | seconds, times | seconds of cores, times |\n| --- | ---: | ---: |")
        for stage in after:
            ratios = (after[stage][name] / before[stage][name] for name in COLUMNS[:2])
            print(f"| {stage} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
