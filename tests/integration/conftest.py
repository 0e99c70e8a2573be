"""The stages on a few sample gems: a project folder that many tests share."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import stage_options

GEMS = ["Ruby", "Citrine", "Turquoise", "Malachite"]
TINY = {
    "crawl.only": GEMS,
    "crawl.max_per_gem": 12,
    "base.image_size": 64,
    "base.threads": 2,
    "augment.images_per_class": 2,
    "embed.views": ["photo"],
    "model.fusion.penalties": [0.1, 0.3],
    "train.epochs": 2,
    "train.device": "cpu",
    "model.cnn.filters": [4, 8],
    "model.cnn.pooling": ["max", "average"],
    "model.cnn.dense": 16,
    "train.batch_size": 16,
}


@dataclass(frozen=True)
class Project:
    """A folder that the stages run in, with its own params.yaml."""

    root: Path
    python: Callable[..., subprocess.CompletedProcess[str]]
    write_params: Callable[..., Path]

    @property
    def store(self) -> str:
        """The MLflow store that the stages of this folder log to."""
        return f"sqlite:///{(self.root / 'log' / 'runs.db').as_posix()}"

    def set(self, **changes: Any) -> None:
        """Write the tiny parameters with some changes; `__` in a name is a dot."""
        self.write_params(self.root, TINY | {name.replace("__", "."): value for name, value in changes.items()})

    def stage(self, name: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a stage with the options of dvc.yaml, then further ones that replace them, and environment variables."""
        (self.root / "log").mkdir(exist_ok=True)
        variables = {"MLFLOW_TRACKING_URI": self.store} | variables
        return self.python("-m", f"stages.{name}", *stage_options(name), *options, cwd=self.root, **variables)

    def run(self, *names: str, options: Sequence[str] = (), **variables: str) -> None:
        """Run stages one after the other, each as `stage` does; all must succeed."""
        for name in names:
            ended = self.stage(name, *options, **variables)
            assert ended.returncode == 0, f"{name}: {ended.stderr}"


@pytest.fixture(scope="session")
def new_project(run: Any, write_params: Any) -> Callable[[Path], Project]:
    """Create a folder that the stages can run in."""

    def project(root: Path) -> Project:
        made = Project(root, run, write_params)
        made.set()
        (root / "photos").mkdir(exist_ok=True)
        for name in ("test_list.txt", "hierarchy.yaml", "corrections.csv"):
            (root / "photos" / name).touch()
        return made

    return project


@pytest.fixture
def project(tmp_path: Path, new_project: Callable[[Path], Project]) -> Project:
    """Return a folder that the stages can run in; it holds only parameters."""
    return new_project(tmp_path)


@pytest.fixture(scope="session")
def split_project(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """Return a folder with raw, clean, split and augmented photos."""
    made = new_project(tmp_path_factory.mktemp("project"))
    made.run("crawl", "clean", "split", "describe", "augment")
    return made


@pytest.fixture(scope="module")
def for_postgres() -> Iterator[Path]:
    """A folder for PostgreSQL's data: started by root it runs as another user, who cannot read pytest's folders."""
    if not (shutil.which("postgres") or list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))):
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg2")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
