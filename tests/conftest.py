"""What several test files share: settings, drawn pictures, the real photos, and commands run as users run them."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from gemmodel.core import environment, params
from tests.forks import Ended, forks

ROOT = Path(__file__).parents[1]
COMMANDS = "GEMMODEL_TEST_COMMANDS"  # the variable that names the folder of `Forks.commands`
LITERT_ATOL = 1e-4  # of probabilities: LiteRT adds float32 in another order than Keras, and so does each CPU


def stage_options(stage: str) -> list[str]:
    """Return the arguments that dvc.yaml gives a stage, as `["--out", "data/raw", ...]`."""
    python, m, module, *options = _stages()[stage]["cmd"].split()
    assert [python, m, module] == ["python", "-m", f"stages.{stage}"]
    return options


def stage_params(stage: str) -> list[str]:
    """Return the parameters that dvc.yaml lists for a stage."""
    return list(_stages()[stage]["params"])


def _stages() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def shipped_params(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the shipped parameters with some keys, named as `section.key`, changed."""
    values = copy.deepcopy(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    for name, value in changes.items():
        *sections, key = name.split(".")
        node = values
        for section in sections:
            node = node[section]
        node[key] = value
    return values


@pytest.fixture(scope="session")
def write_params() -> Callable[..., Path]:
    """Write the shipped params.yaml to a folder, with some keys, named as `section.key`, changed."""

    def write(folder: Path, changes: dict[str, Any]) -> Path:
        path = folder / "params.yaml"
        path.write_text(yaml.safe_dump(shipped_params(changes), sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def settings(tmp_path: Path, write_params: Callable[..., Path]) -> Callable[..., params.Params]:
    """Load the shipped parameters with some keys, named as `section.key`, changed."""

    def load(changes: dict[str, Any] | None = None) -> params.Params:
        return params.load(write_params(tmp_path, changes or {}))

    return load


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """Draw a picture of smooth blobs, determined by a seed, of any size, in a tint."""

    def picture(seed: int, *, size: tuple[int, int] = (160, 120), tint: tuple[float, ...] = (1, 1, 1)) -> Image.Image:
        blobs = np.random.default_rng(seed).uniform(20, 235, (6, 8, 1)) * np.array(tint)
        small = Image.fromarray(np.clip(blobs, 0, 255).astype(np.uint8))
        return small.resize(size, Image.Resampling.BICUBIC)

    return picture


def user_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, see `isolate`, without services and proxies, and with the project importable.

    joblib counts one core: `clean` then starts no processes, which takes longer than a few photos.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") and "proxy" not in k.lower()}
    own = {"PYTHONPATH": str(ROOT), "no_proxy": "*", "LOKY_MAX_CPU_COUNT": "1"}
    return inherited | own | variables


def runner(executable: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a Python with arguments in a folder, with the folder's own tracking store."""

    def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [executable, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=user_environment(**variables), capture_output=True, text=True)

    return python


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python <arguments>` in a folder, with the folder's own tracking store."""
    return runner(sys.executable)


def isolate(folder: Path) -> None:
    """Let what this process starts find this environment's programs, and in git and DVC a user with a name alone.

    Settings of the account and the machine, such as signed commits or a shared cache, would change what tests do, and
    DVC would leave a folder in /var/tmp for each repository: what it keeps for an account goes to the given folder.
    """
    for name in [name for name in os.environ if name.startswith(("DVC_", "GIT_"))]:
        del os.environ[name]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        os.environ |= {f"GIT_{role}_NAME": "Test", f"GIT_{role}_EMAIL": "test@gemmodel.example"}
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        os.environ[name] = str(folder / name)
    os.environ["DVC_NO_ANALYTICS"] = "1"  # else a process for each command, in a project without our settings of DVC


def pytest_configure(config: pytest.Config) -> None:
    """Set what tests inherit, and start a process whose forks run programs, one for all of pytest-xdist's processes."""
    environment.keep_freed_memory()  # here and in what tests start, such as sample sites
    if hasattr(config, "workerinput"):
        return
    os.environ |= environment.DEFAULTS | os.environ  # as commands have it
    stack = ExitStack()
    config.add_cleanup(stack.close)
    isolate(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    if hasattr(os, "fork"):
        os.environ[COMMANDS] = str(stack.enter_context(forks(user_environment())).commands)


@pytest.fixture(scope="session")
def forked_python() -> str:
    """A `python` that runs `-m` and `-c` in a fork of a process that has imported the project: seconds faster."""
    if COMMANDS not in os.environ:
        pytest.skip("no os.fork here")
    return str(Path(os.environ[COMMANDS], "python"))


@pytest.fixture(scope="session")
def forked(forked_python: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Do what `run` does, in a fork."""
    return runner(forked_python)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of pytest-xdist's processes makes, and that the others wait for."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file to copy: an MLflow store without runs, which MLflow takes seconds to make."""

    def make(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{folder / 'runs.db'}").search_experiments()

    return made_once(tmp_path_factory, "empty_store", make) / "runs.db"


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder to copy as `backbones`, with a tiny one."""
    from tests import tiny_backbone

    return made_once(tmp_path_factory, "backbones", tiny_backbone.write)


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    """Check that a command failed with one line on standard error that names what is wrong."""

    def check(ended: subprocess.CompletedProcess[str] | Ended, command: str, *named: str) -> None:
        lines = ended.stderr.splitlines()
        assert ended.returncode != 0
        assert "Traceback" not in ended.stderr, ended.stderr
        assert len(lines) == 1, ended.stderr
        assert lines[0].startswith(f"{command}: ")
        for name in named:
            assert name in lines[0]

    return check


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the system's Chromium or Chrome, as the crawl finds it, or skip the test."""
    pytest.importorskip("scrapy_playwright")
    from scraper.browser import executable

    return executable() or pytest.skip("no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A headless Chromium with a fake camera; one per test file, since a process may open only one."""
    from playwright.sync_api import sync_playwright

    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", *camera])
        yield opened
        opened.close()


def shared(name: str) -> Path:
    """Return a folder of real photos, or skip the test."""
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no real photos: the folder shared/{name} beside the project is absent")
    return folder


@pytest.fixture(scope="session")
def real_gems() -> Path:
    """Return the folder of real gem photos: 87 class folders."""
    return shared("gemstones")


@pytest.fixture(scope="session")
def cats_dogs() -> Path:
    """Return the folder of real photos of cats and dogs."""
    return shared("cats_dogs")
