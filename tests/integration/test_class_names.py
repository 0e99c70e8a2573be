"""All stages on classes whose names a CSV reader, YAML, Matplotlib, HTML or a shell may take for something else."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import stage_options
from tests.tiny_backbone import NAME as TINY_BACKBONE

NUMBERS = ["1", "2", "10", "01", "1e3", "NA", "null", "True"]
SIGNS = ["Opal $1$", "from $10_$20", "<b>", "a,b", 'O\'Neil "x"', "-x", "_x", "100% A", "actual", "drop", "P(1)"]
SCRIPTS = ["红宝石", "ทับทิม", "ياقوت", "אודם", "माणिक", "Améthyste", "\U0001f48e"]
STORED = {"<b>": "b", 'O\'Neil "x"': "O'Neil x"}  # names that Windows does not take, as the crawl stores them
CLASSES = sorted(STORED.get(name, name) for name in NUMBERS + SIGNS + SCRIPTS)
STAGES = (
    "crawl", "clean", "split", "augment", "describe", "embed", "train", "evaluate", "explain", "explore", "register",
    "report",
)  # fmt: skip
SMALL = {
    "crawl.source": "folder",
    "crawl.folder": "gems",
    "clean.hash_distance": 2,
    "clean.min_side": 32,
    "base.image_size": 64,
    "split.train": 0.5,
    "split.val": 0.17,
    "split.test": 0.33,
    "split.folds": 3,
    "augment.images_per_class": 1,
    "embed.backbone": TINY_BACKBONE,
    "embed.views": ["photo"],
    "embed.covariance_channels": 0,
    "embed.histogram_bins": 2,
    "model.fusion.stacking_penalty": 0.0,
    "model.fusion.degree": 1,
    "evaluate.bootstrap_samples": 2,
    "evaluate.panels": {"red": ["1", "01", "红宝石"]},
    "explain.photos": 2,
    "explain.comparison_photos": 1,
    "explain.ablation_photos": 2,
    "explain.steps": 2,
    "explain.smoothgrad_copies": 1,
    "explain.vargrad_copies": 2,
    "explain.vargrad_steps": 1,
    "explore.elbow": [2, 5],
}


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory,
    forked: Any,
    write_params: Any,
    draw: Any,
    tiny_backbone: Path,
    empty_store: Path,
) -> Path:
    """The folder of a project after all stages."""
    root = tmp_path_factory.mktemp("project")
    for i, name in enumerate(NUMBERS + SIGNS + SCRIPTS):
        (root / "gems" / name).mkdir(parents=True)
        for photo in range(6):
            draw(100 * i + photo, size=(64, 64)).save(root / "gems" / name / f"{photo}.png")
    shutil.copytree(tiny_backbone, root / "backbones")
    shutil.copy(empty_store, root / "mlflow.db")
    (root / "photos").mkdir()
    for name in ("corrections.csv", "test_list.txt"):
        (root / "photos" / name).touch()
    (root / "photos" / "hierarchy.yaml").write_text("1: 0x1\n01: No\nNA: null\n红宝石: 刚玉\n", encoding="utf-8")
    write_params(root, SMALL)
    store = f"sqlite:///{root / 'mlflow.db'}"
    for stage in STAGES:
        ended = forked("-m", f"stages.{stage}", *stage_options(stage), cwd=root, MLFLOW_TRACKING_URI=store)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert "UserWarning" not in ended.stderr  # as Matplotlib says of a letter that no font has
    return Path(root)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_has_the_names_as_they_are_in_one_order(root: Path) -> None:
    reports = root / "reports" / "evaluation"
    assert json.loads((root / "models" / "classes.json").read_text(encoding="utf-8")) == CLASSES
    assert [row["gem"] for row in rows(reports / "classes.csv")] == CLASSES
    assert list(dict.fromkeys(row["actual"] for row in rows(reports / "predictions.csv"))) == CLASSES
    assert [name for name in rows(reports / "predictions.csv")[0] if name.startswith("P(")] == [
        f"P({name})" for name in CLASSES
    ]
    assert [row["(actual)"] for row in rows(reports / "confusion.csv")] == CLASSES
    assert list(rows(reports / "confusion.csv")[0]) == ["(actual)", *CLASSES]
    folds = rows(root / "data" / "split" / "folds.csv")
    assert {row["gem"] for row in folds} == set(CLASSES)
    assert all(row["file"].startswith(f"{row['gem']}/") for row in folds)
    hierarchy = json.loads((root / "data" / "split" / "hierarchy.json").read_text(encoding="utf-8"))
    assert list(hierarchy) == CLASSES
    special = {"1": "0x1", "01": "No", "NA": "null", "红宝石": "刚玉"}
    assert hierarchy == {name: special.get(name, name) for name in CLASSES}


def test_the_log_and_the_registry_have_the_names(root: Path) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    try:
        client = mlflow.MlflowClient()
        version = client.get_model_version_by_alias("gemstones", "champion")
        text = mlflow.artifacts.load_text(f"runs:/{version.run_id}/confusion_matrix.json")
        assert json.loads(text)["columns"] == ["(actual)", *CLASSES]
        assert [row[0] for row in json.loads(text)["data"]] == CLASSES
    finally:
        mlflow.set_tracking_uri(before)


def test_pages_show_the_names(root: Path, browser: Any) -> None:
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    for name in ("data.html", "index.html", "evaluation/label_issues.html", "exploration/index.html"):
        page.goto((root / "reports" / name).as_uri())
        assert page.evaluate("[...document.images].filter(image => image.src && !image.naturalWidth).length") == 0
        assert page.locator("body b b, body button b").count() == 0
    legend = page.locator("#legend button").all_inner_texts()
    assert sorted(text.strip().rpartition(" (")[0] for text in legend) == CLASSES
    assert problems == []
    page.close()


def test_a_reviewed_photo_may_become_any_class(root: Path, run: Any) -> None:
    page = (root / "reports" / "evaluation" / "label_issues.html").read_text(encoding="utf-8")
    gems = json.loads(page.split("gems = ")[1].split(", head")[0])
    assert gems == CLASSES
