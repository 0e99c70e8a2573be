"""The Makefile's own commands."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FINISHED = {"METADATA": "Name: whole", "RECORD": "whole.py,,\nwhole-1.dist-info/INSTALLER,,\n"}
PACKAGES = {  # what a killed installer leaves: it copies a package's files, then adds commands, then its own lines
    "whole-1.dist-info": FINISHED,
    "copied-1.dist-info": {"METADATA": "Name: copied", "RECORD": "copied.py,,\n"},
    "begun-1.dist-info": {"METADATA": "Name: begun"},
    "~placed-1.dist-info": FINISHED,  # set aside while a newer one is installed
    "~placed": {"module.py": ""},
    "whole": {"module.py": ""},
}
# `make test` passes its own settings on, and another make would say which folder it enters.
ALONE = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_set_up_installs_again_what_a_killed_one_left_unfinished(tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.12" / "site-packages"
    for folder, contents in PACKAGES.items():
        (packages / folder).mkdir(parents=True)
        for name, text in contents.items():
            (packages / folder / name).write_text(text, encoding="utf-8")
    rules = f"include {ROOT / 'Makefile'}\nunfinished: ; $(REMOVE_UNFINISHED)\n"
    subprocess.run(["make", "-f", "-", "unfinished"], cwd=tmp_path, env=ALONE, input=rules, text=True, check=True)
    assert {path.name for path in packages.iterdir()} == {"whole-1.dist-info", "whole"}


@needs_make
def test_set_up_installs_with_the_settings_of_pip(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=tmp_path, check=True)
    index = (tmp_path / "index").as_uri()
    for package, installer, settings in (
        ("ruby", "uv", {"PIP_INDEX_URL": index}),
        ("opal", "pip", {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{index}/opal"}),  # what only pip knows
    ):
        write_wheel(tmp_path / "index" / package, package)
        (tmp_path / "one.lock").write_text(f"{package}==1\n", encoding="utf-8")
        kept = {name: value for name, value in ALONE.items() if not name.startswith(("PIP_", "UV_"))}
        done = subprocess.run(
            ["make", "-f", "-", "one"], cwd=tmp_path, check=True, text=True, capture_output=True,
            input=f"include {ROOT / 'Makefile'}\none:\n\t$(call install,-r one.lock)\n",
            env=kept | {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "UV_OFFLINE": "1"} | settings,
        )  # fmt: skip
        (written,) = tmp_path.glob(f".venv/[lL]ib/**/{package}-1.dist-info/INSTALLER")
        assert written.read_text().strip() == installer
        assert ("pip tries" in done.stderr) == (installer == "pip")


@needs_make
def test_an_environment_of_another_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "my gems"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    install_scripts(folder, dvc="echo pulled")
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    (tmp_path / "linked").mkdir()
    shutil.copy2(folder / "requirements.lock", tmp_path / "linked")
    (tmp_path / "linked" / ".venv").symlink_to(folder / ".venv")
    for name in ("my gems", "linked", "copy"):
        command = ["make", "-f", ROOT / "Makefile", "pull"]
        done = subprocess.run(command, cwd=tmp_path / name, env=ALONE, text=True, capture_output=True)
        assert ("pulled" in done.stdout, done.returncode == 0) == ((name != "copy"),) * 2, done.stderr
    assert done.stderr.startswith("make: .venv is of another folder; rm -r .venv, and run make again\n")


@needs_make
def test_an_interrupted_demo_is_fetched_again(tmp_path: Path) -> None:
    fetch = """for out; do :; done
        mkdir "$out" && echo half > "$out/model"
        [ -e stop ] && kill -9 $$
        echo whole > "$out/model"
    """
    install_scripts(tmp_path, dvc=fetch, gemmodel="cat demo/model")
    for stop in (True, False, False):
        if stop:
            (tmp_path / "stop").touch()
        command = ["make", "-f", ROOT / "Makefile", "demo", "MODEL=x"]
        done = subprocess.run(command, cwd=tmp_path, env=ALONE, text=True, capture_output=True)
        (tmp_path / "stop").unlink(missing_ok=True)
        assert (done.returncode == 0, done.stdout.endswith("whole\n")) == ((not stop),) * 2, done.stderr
    assert "dvc" not in done.stdout  # it is there already


@needs_make
def test_clean_removes_outputs_alone(tmp_path: Path) -> None:
    outputs = ["data/raw/Ruby/1.jpg", "models/model.keras", "logs/crawl.log", "dvc_plots/index.html"]
    outputs += ["reports/crawl.json", "reports/evaluation/confusion.png"]
    kept = [".dvc/cache/files/md5/00/1", ".git/HEAD", ".scrapy/page", ".venv/installed", "mlflow.db", "mlruns/1/model"]
    kept += ["photos/corrections.csv", "reports/metrics.json", "reports/training.json"]
    for name in (*outputs, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):
        subprocess.run(["make", "-f", ROOT / "Makefile", "clean"], cwd=tmp_path, check=True)
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert left == set(kept)
        assert {path.name for path in (tmp_path / "reports").iterdir()} == {"metrics.json", "training.json"}


def test_the_program_of_make_kill_starts_without_a_path_that_tests_set(run: Any) -> None:
    ended = run("-m", "tests.e2e.kill", "--help", cwd=ROOT, PYTHONPATH="")
    assert ended.returncode == 0, ended.stderr
    assert "--kills" in ended.stdout


def install_scripts(folder: Path, **scripts: str) -> None:
    """Write an installed environment whose programs are these of the shell."""
    for name, text in scripts.items():
        for place in (folder / ".venv" / "bin", folder / ".venv" / "Scripts"):
            place.mkdir(exist_ok=True, parents=True)
            (place / name).write_text(f"#!/bin/sh\n{text}\n")
            (place / name).chmod(0o755)
    (folder / "requirements.lock").touch()
    (folder / ".venv" / "installed").touch()


def write_wheel(folder: Path, name: str) -> None:
    """Write a package without files, and the page of an index that names it."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for file, text in (
            ("METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            wheel.writestr(f"{name}-1.dist-info/{file}", text)
    (folder / "index.html").write_text(f'<a href="{name}-1-py3-none-any.whl">{name}</a>', encoding="utf-8")
