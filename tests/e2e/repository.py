"""Repositories with the project's files, and commands in them as a user types them."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OWN = ("MLFLOW_", "DVC_", "GIT_", "AWS_", "SSH_")
Run = Callable[..., str]


def environment() -> dict[str, str]:
    """Returns the variables of a user with this environment activated and a name in git, and no service set up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    for role in ("AUTHOR", "COMMITTER"):
        kept |= {f"GIT_{role}_NAME": "Test", f"GIT_{role}_EMAIL": "test@gemmodel.example"}
    return kept


def runner(folder: Path, **variables: str) -> Run:
    """Returns a function that runs a command in a folder and gives back what it printed."""

    def run(*command: str | Path, ok: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # no terminal to ask for a password on
        )
        assert (done.returncode == 0) is ok, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + (done.stderr if not ok else "")

    return run


def copy_project(folder: Path) -> None:
    """Copies this working tree's files, those that git ignores left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def change(folder: Path, **sections: dict[str, Any]) -> None:
    """Sets values in a folder's params.yaml."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in sections.items():
        for key, value in values.items():
            params[section][key] = params[section][key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def stages_run(output: str) -> list[str]:
    """Returns the stages that a `dvc repro` ran, in their order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def digests(folder: Path, *parts: str) -> dict[str, str]:
    """Returns the hash of every output of the pipeline; none is what tells of one crawl, or of the commit."""
    parts = parts or ("data", "models", "reports")
    files = [file for part in parts for file in (folder / part).rglob("*") if file.is_file()]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.relative_to(folder).as_posix() not in ("reports/crawl.json", "reports/crawl.md", "reports/index.html")
    }
