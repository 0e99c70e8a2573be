"""The stages on a few sample gems: a project folder that many tests share."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest

from tests.conftest import made_once, stage_options
from tests.tiny_backbone import LAST_LAYER
from tests.tiny_backbone import NAME as TINY_BACKBONE

SIDE, CLASSES = 32, ["Agate", "Ruby", "Topaz"]  # of `tiny_model`
GEMS = ["Ruby", "Citrine", "Turquoise", "Malachite"]
TINY = {
    "crawl.only": GEMS,
    "crawl.max_per_gem": 12,
    "base.image_size": 64,
    "base.threads": 2,
    "augment.images_per_class": 2,
    "embed.backbone": TINY_BACKBONE,
    "embed.views": ["photo"],
    "model.fusion.penalties": [0.1, 0.3],
    "train.epochs": 2,
    "train.device": "cpu",
    "model.cnn.filters": [4, 8],
    "model.cnn.pooling": ["max", "average"],
    "model.cnn.dense": 16,
    "model.residual.filters": [4, 8],
    "model.residual.dense": 8,
    "model.transfer.backbone": TINY_BACKBONE,
    "model.transfer.unfreeze": LAST_LAYER,
    "train.batch_size": 16,
}

MARK = "marked-s3cret"
SECRETS = {  # in the environment of the finished project's stages, though its store and remote need none
    name: f"{MARK}-{name}"
    for name in (
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    )
} | {"MLFLOW_READ_REPLICA_BACKEND_STORE_URI": f"postgresql://me:{MARK}@db.example/runs"}  # which is ignored, and said


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
        variables = {"MLFLOW_TRACKING_URI": self.store} | variables
        return self.python("-m", f"stages.{name}", *stage_options(name), *options, cwd=self.root, **variables)

    def run(self, *names: str, options: Sequence[str] = (), **variables: str) -> None:
        """Run stages one after the other, each with the options of `stage`; all must succeed.

        What they print is kept in log/output.txt.
        """
        printed = ""
        for name in names:
            ended = self.stage(name, *options, **variables)
            assert ended.returncode == 0, f"{name}\n{ended.stdout}\n{ended.stderr}"
            printed += ended.stdout + ended.stderr
        (self.root / "log" / "output.txt").write_text(printed, encoding="utf-8")


@pytest.fixture(scope="session")
def new_project(forked: Any, write_params: Any, tiny_backbone: Path, empty_store: Path) -> Callable[[Path], Project]:
    """Create a folder that the stages can run in."""

    def project(root: Path) -> Project:
        made = Project(root, forked, write_params)
        made.set()
        shutil.copytree(tiny_backbone, root / "backbones", dirs_exist_ok=True)
        (root / "log").mkdir(exist_ok=True)
        if not (root / "log" / "runs.db").exists():
            shutil.copy(empty_store, root / "log" / "runs.db")
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

    def make(folder: Path) -> None:
        new_project(folder).run("crawl", "clean", "split", "augment", "describe")

    root = tmp_path_factory.mktemp("project")
    shutil.copytree(made_once(tmp_path_factory, "split_project", make), root, dirs_exist_ok=True)
    return new_project(root)


@pytest.fixture(scope="session")
def finished_project(
    split_project: Project, tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]
) -> Project:
    """Return a git repository after all stages but explain, as `dvc repro` runs them; who shares it only reads it."""

    def make(folder: Path) -> None:
        project = new_project(folder)
        for name in ("data", "reports"):
            shutil.copytree(split_project.root / name, folder / name)
        for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "settings"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        outs = [{"path": f"data/split/{part}", "md5": f"{part}.dir"} for part in ("train", "val", "test")]
        (folder / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"split": {"outs": outs}}}))
        evaluated = ("evaluate", "evaluate")  # twice: rows are not logged twice
        stages = ("embed", "train", *evaluated, "explore", "register", "report")
        project.run(*stages, DVC_STAGE="any", **SECRETS)

    return new_project(made_once(tmp_path_factory, "finished_project", make))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model of CLASSES that is not trained; the tests that share it only read it."""

    def make(folder: Path) -> None:
        import keras

        from gemmodel.models import saving
        from gemmodel.models.conformal import ReferenceSet, Thresholds
        from gemmodel.models.metadata import ModelMetadata

        keras.utils.set_random_seed(1)
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8), keras.layers.Flatten()]
        network = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *layers, keras.layers.Dense(3, activation="softmax")])
        reference = ReferenceSet(np.eye(3, 48, dtype=np.float32), np.arange(3, dtype=np.int32), np.array(CLASSES))
        metadata = ModelMetadata(CLASSES, dict.fromkeys(CLASSES, "Stone"), Thresholds(0.9, 0.3, 1, 2.0), reference)
        saving.save(network, CLASSES, folder / "models", metadata=metadata)

    return made_once(tmp_path_factory, "tiny_model", make) / "models"


@pytest.fixture(scope="module")
def forked_crawls(forked_python: str) -> Iterator[None]:
    """Let `loopback.crawl` run in forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loopback, "PYTHON", forked_python)
        yield


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
