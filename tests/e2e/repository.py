"""Repositories with the project's files, and commands that run in them as a user types them."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

from tests import tiny_backbone

ROOT = Path(__file__).parents[2]
SETTINGS = ("MLFLOW_", "AWS_", "SSH_")
SMALL = {
    "crawl": {"only": ["Ruby", "Spinel", "Malachite", "Diamond"], "max_per_gem": 12},
    "base": {"image_size": 64},
    "augment": {"images_per_class": 3},
    "embed": {"backbone": tiny_backbone.NAME, "views": ["photo"], "colour_spaces": ["rgb"]},
    "model": {"fusion": {"degree": [3], "penalties": [0.1, 1]}},  # each penalty counts as an epoch
    "explain": {
        "photos": 2,
        "occlusion": 2,
        "comparison_photos": 1,
        "steps": 2,
        "smoothgrad_copies": 2,
        "vargrad_copies": 2,
        "vargrad_steps": 2,
        "ablation_photos": 2,
        "hue_shifts": [180],
        "patches": [4],
    },
    "explore": {"elbow": [2, 4]},
}
COMMANDS: list[str] = []  # folders whose commands come before those of PATH
Run = Callable[..., str]


def environment() -> dict[str, str]:
    """Return this process's environment, which `isolate` set, without the settings of services."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    variables["PATH"] = os.pathsep.join([*COMMANDS, variables["PATH"]])
    return variables


def runner(folder: Path, **variables: str) -> Run:
    """Return a function that runs a command in a folder and returns its output."""

    def run(*command: str | Path, ok: bool = True) -> str:
        process = subprocess.run(
            command,
            cwd=folder,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # without a terminal, so that no password prompt can wait
        )
        assert (process.returncode == 0) is ok, f"{command}\n{process.stdout}\n{process.stderr}"
        return process.stdout + (process.stderr if not ok else "")

    return run


def copy_project(folder: Path) -> None:
    """Copy the files of this working tree that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def build(folder: Path) -> str:
    """Make a repository with this working tree's files and small settings; returns what `dvc repro` printed."""
    copy_project(folder)
    shrink(folder)
    run = runner(folder)
    run("git", "init", "-q", "-b", "main")
    output = run("dvc", "repro")
    run("git", "add", "-A")
    run("git", "add", "--force", "backbones")  # so that clones and copies for experiments have it
    run("git", "commit", "-qm", "small sample")
    return output


def shrink(folder: Path) -> None:
    """Give a project small settings and a tiny backbone."""
    change(folder, **SMALL)
    tiny_backbone.write(folder / "backbones")


def change(folder: Path, **sections: dict[str, Any]) -> None:
    """Set values in a folder's params.yaml."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in sections.items():
        for key, value in values.items():
            params[section][key] = params[section][key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def stages_run(output: str) -> list[str]:
    """Return the stages that a `dvc repro` ran, in their order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def names(folder: Path, *, grows: Collection[str]) -> set[str]:
    """Return the files and folders of a project, but neither byte code nor the folders in which commands add files."""
    listed = set()
    for path, folders, files in os.walk(folder):
        place = Path(path).relative_to(folder)
        folders[:] = [name for name in folders if (place / name).as_posix() not in grows and name != "__pycache__"]
        listed |= {(place / name).as_posix() for name in (*folders, *files)}
    return listed


def digests(folder: Path, *parts: str) -> dict[str, str]:
    """Return the hash of every output of the pipeline; the reports on one crawl or one commit are not outputs."""
    parts = parts or ("data", "models", "reports")
    files = [file for part in parts for file in (folder / part).rglob("*") if file.is_file()]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.relative_to(folder).as_posix() not in ("reports/crawl.json", "reports/crawl.md", "reports/index.html")
    }
