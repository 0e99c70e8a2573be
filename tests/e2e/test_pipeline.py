"""The whole pipeline from the command line, on a small sample, in a fresh repository with the project's files."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT, SMALL, build, change, digests, environment, runner, stages_run

STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def mlflow_runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
    experiment = client.get_experiment_by_name("gemstones")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, forked_commands: None, cached_pages: Path) -> Path:
    """A repository with this working tree's files and small settings, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("e2e") / "project"
    shutil.copytree(cached_pages, folder / ".scrapy")
    assert stages_run(build(folder)) == STAGES
    return folder


@pytest.fixture
def project(built: Path) -> Iterator[Path]:
    """The built repository; the changes of a test are undone after it."""
    run = runner(built)
    commit, outputs = run("git", "rev-parse", "HEAD").strip(), digests(built)
    yield built
    run("git", "checkout", "-q", "--force", "-B", "main", commit)
    if digests(built) != outputs:
        run("dvc", "checkout", "-q", "--force")
        assert digests(built) == outputs


def test_second_repro_runs_nothing(project: Path) -> None:
    output = runner(project)("dvc", "repro")
    assert stages_run(output) == []
    assert "up to date" in output


def test_forced_repro_makes_the_same_bytes_and_no_second_version(project: Path) -> None:
    from mlflow import MlflowClient

    before, lock = digests(project), (project / "dvc.lock").read_bytes()
    assert stages_run(runner(project)("dvc", "repro", "--force")) == STAGES
    assert digests(project) == before
    assert (project / "dvc.lock").read_bytes() == lock
    crawled = json.loads((project / "reports" / "crawl.json").read_text(encoding="utf-8"))
    assert crawled["changes"] == {"new": [], "changed": [], "vanished": []}
    registered = MlflowClient(f"sqlite:///{(project / 'mlflow.db').as_posix()}").get_registered_model("gemstones")
    assert registered.aliases == {"challenger": 1, "champion": 1}


def test_changed_values_rerun_only_downstream_stages(project: Path) -> None:
    run = runner(project)
    change(project, evaluate={"top": 2}, explain={"photos": 1})
    status = json.loads(run("dvc", "status", "--json"))
    changed = {stage: list(changes["changed deps"]["params.yaml"]) for stage, [changes] in status.items()}
    assert changed == {"evaluate": ["evaluate"], "explain": ["explain"], "report": ["evaluate", "explain"]}
    run("git", "checkout", "-q", "params.yaml")
    change(project, register={"name": "other"})
    assert stages_run(run("dvc", "repro")) == ["register", "report"]


def test_edited_files_rerun_the_stages_that_import_them(project: Path) -> None:
    pictures = ["crawl", "clean", "describe", "augment", "embed", "train", "evaluate", "explain", "explore", "register"]
    expected = {
        "gemmodel/clean/cleaning.py": {"clean"},
        "gemmodel/images/decode.py": set(pictures),
        "gemmodel/train/cnn.py": {"train"},
        "gemmodel/register/promotion.py": {"register"},
        "sample_site/render/cuts.py": {"crawl"},
        "gemmodel/core/params.py": set(),
        "gemmodel/cli.py": set(),
    }
    for file in expected:
        with (project / file).open("a", encoding="utf-8") as source:
            source.write("\n# edited\n")
    status = json.loads(runner(project)("dvc", "status", "--json"))
    changed = {(stage, dep) for stage, [changes] in status.items() for dep in changes["changed deps"]}
    rerun = {file: {stage for stage, dep in changed if Path(file).is_relative_to(dep)} for file in expected}
    assert rerun == expected


def test_a_pinned_test_part_reruns_split_alone_and_stays(project: Path) -> None:
    run = runner(project)

    def test_part() -> dict[str, str]:
        return {name: digest for name, digest in digests(project).items() if name.startswith("data/split/test/")}

    before = test_part()
    assert before
    run(sys.executable, "-m", "gemmodel.cli", "pin-test")
    assert set(json.loads(run("dvc", "status", "--json"))) == {"split"}  # not crawl, which depends on the list's folder
    change(project, split={"seed": 7})
    assert stages_run(run("dvc", "repro", "split")) == ["split"]
    assert test_part() == before


def test_an_edit_that_changes_no_output_stops_there(project: Path) -> None:
    with (project / "gemmodel/clean/cleaning.py").open("a", encoding="utf-8") as source:
        source.write("\n# edited\n")
    assert stages_run(runner(project)("dvc", "repro")) == ["clean"]


def test_experiments_in_other_folders_log_to_the_same_store(project: Path) -> None:
    run = runner(project)
    before = len(mlflow_runs(project))
    run("dvc", "exp", "run", "--temp", "--name", "in-temp", "-S", "model.fusion.clip=4", "evaluate")
    for i in (1, 2):
        option = f"model.fusion.stacking_penalty=10{i}"
        run("dvc", "exp", "run", "--queue", "--name", f"in-queue-{i}", "-S", option, "train")
    run("dvc", "queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 900  # `dvc queue logs --follow` fails where no worker has started yet
    while sum(run_.info.status != "RUNNING" for run_ in mlflow_runs(project)) < before + 3:  # faster to ask than DVC
        assert time.monotonic() < deadline, run("dvc", "queue", "status")
        time.sleep(1)
    while {"Queued", "Running"} & set((status := run("dvc", "queue", "status")).split()):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status.split().count("Success") == 2, status
    runs = mlflow_runs(project)
    assert len(runs) == before + 3
    experiments = {"in-temp", "in-queue-1", "in-queue-2"}
    assert {run_.data.tags.get("dvc_experiment") for run_ in runs} >= experiments
    for run_ in runs:
        assert run_.info.artifact_uri.startswith((project / "mlruns").as_uri())
        files = {file.name for file in Path(run_.info.artifact_uri.removeprefix("file://")).rglob("*")}
        queued = run_.data.tags.get("dvc_experiment", "").startswith("in-queue")
        assert ("curves.png" if queued else "confusion.png") in files
    table = run("dvc", "exp", "show", "--csv")
    assert all(name in table for name in experiments)
    assert "accuracy" in table.splitlines()[0] and "model.fusion.clip" in table.splitlines()[0]


def test_another_training_reruns_what_depends_on_it_and_metrics_and_plots_compare_both(project: Path) -> None:
    run = runner(project)
    change(project, model={"fusion": {"penalties": [10.0]}})
    assert stages_run(run("dvc", "repro")) == ["train", "evaluate", "explain", "register", "report"]
    changed = json.loads(run("dvc", "metrics", "diff", "--json"))
    assert changed["reports/training.json"]["epochs"] == {"old": 2, "new": 1, "diff": -1}
    run("dvc", "plots", "show", "--out", "plots")
    page = (project / "plots" / "index.html").read_text(encoding="utf-8")
    plots = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    titles = {
        name: plot["title"]
        for entry in plots
        if isinstance(entry, dict)
        for name, plot in entry.items()
        if "title" in plot
    }
    for name in ("Loss", "Accuracy", "Confusion", "Accuracy by gem"):
        assert titles[name] in page
    assert "<script src" not in page  # Vega is in the page: it is drawn offline
    shutil.rmtree(project / "plots")


def test_a_teammate_pulls_and_reruns_nothing(project: Path, tmp_path: Path) -> None:
    run = runner(project)
    run("dvc", "remote", "add", "--default", "--force", "folder", tmp_path / "remote")
    run("dvc", "push")
    run("git", "commit", "-qam", "a remote")
    run("git", "clone", "-q", project, tmp_path / "teammate")
    teammate = runner(tmp_path / "teammate")
    teammate("dvc", "pull")
    assert stages_run(teammate("dvc", "repro")) == []
    assert digests(tmp_path / "teammate") == digests(project)
    run("git", "tag", "-a", "gemstones@v1.0.0", "-m", "published")
    run("dvc", "artifacts", "get", project, "gemstones", "--out", tmp_path / "demo")  # as `make demo` does
    for file in (project / "models").iterdir():
        assert (tmp_path / "demo" / file.name).read_bytes() == file.read_bytes()


def test_raw_data_alone_saves_a_teammate_the_crawl(project: Path, tmp_path: Path) -> None:
    run = runner(project)
    run("dvc", "remote", "add", "--default", "--force", "folder", tmp_path / "remote")
    run("dvc", "push", "data/raw")
    run("git", "commit", "-qam", "a remote")
    run("git", "clone", "-q", project, tmp_path / "teammate")
    teammate = runner(tmp_path / "teammate")
    teammate("dvc", "pull", "data/raw")
    change(tmp_path / "teammate", clean={"min_side": 100})
    assert stages_run(teammate("dvc", "repro", "clean")) == ["clean"]
    assert not (tmp_path / "teammate" / "reports" / "crawl.json").exists()
    scores = json.loads(teammate("dvc", "metrics", "diff", "--json", "HEAD^", "HEAD", "--all"))  # from git alone
    assert scores["reports/metrics.json"]["accuracy"]["new"] > 0
    teammate("dvc", "exp", "run", "-S", "clean.min_side=101", "clean")  # whose later stages have not run here


def test_a_failed_crawl_leaves_the_raw_data(project: Path) -> None:
    before = digests(project)
    change(project, crawl={"source": "minerals"})  # without the contact address that a live site requires
    assert "crawl.contact" in runner(project)("dvc", "repro", ok=False)
    assert digests(project) == before


def test_a_change_in_a_folder_of_photos_reruns_the_crawl(project: Path, tmp_path: Path) -> None:
    run = runner(project)
    photos = tmp_path / "photos"
    for gem in ("Ruby", "Diamond"):
        shutil.copytree(project / "data" / "clean" / gem, photos / gem)
    change(project, crawl={"source": "folder", "folder": str(photos), "only": [], "max_per_gem": 0})
    assert stages_run(run("dvc", "repro", "crawl")) == ["crawl"]
    copied = sorted(photos.rglob("*.jpg"))
    assert stages_run(run("dvc", "repro", "crawl")) == []
    shutil.copy(copied[0], copied[0].with_name("added.jpg"))
    assert stages_run(run("dvc", "repro", "crawl")) == ["crawl"]
    shutil.copy(copied[1], copied[0])
    assert stages_run(run("dvc", "repro", "crawl")) == ["crawl"]
    copied[0].unlink()
    assert stages_run(run("dvc", "repro", "crawl")) == ["crawl"]
    assert len(list((project / "data" / "raw").rglob("*.jpg"))) == len(copied)


def test_scores_on_two_versions_of_the_photos(project: Path, draw: Any) -> None:
    run = runner(project)
    run("git", "tag", "data-1")
    before = digests(project)
    for gem in SMALL["crawl"]["only"]:
        shutil.copytree(project / "data" / "raw" / gem, project / "stones" / gem)
    (project / "stones" / "Topaz").mkdir()
    for seed in range(20):
        draw(seed, tint=(0.2, 0.6, 1)).save(project / "stones" / "Topaz" / f"{seed}.jpg")
    run("git", "switch", "-qc", "topazes")
    run("dvc", "add", "-q", "stones")
    change(project, crawl={"source": "folder", "folder": "stones", "only": []})
    run("dvc", "repro", "evaluate")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "20 topazes")
    run("git", "tag", "data-2")

    scores = json.loads(run("dvc", "metrics", "diff", "--json", "data-1", "data-2"))["reports/metrics.json"]
    assert scores["test_photos"]["new"] > scores["test_photos"]["old"] > 0
    assert "accuracy" in scores
    run("git", "switch", "-q", "main")
    run("dvc", "checkout", "-q")
    assert digests(project) == before
    assert not (project / "stones").exists()


def test_ci_reports_how_a_pull_request_changes_the_scores(project: Path, tmp_path: Path) -> None:
    workflow = yaml.safe_load((project / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = {step["name"]: step["run"] for step in workflow["jobs"]["pipeline"]["steps"] if "name" in step}
    run = runner(project, GITHUB_STEP_SUMMARY=str(tmp_path / "summary"), GITHUB_OUTPUT=str(tmp_path / "output"))
    run("git", "switch", "-qc", "change")
    change(project, evaluate={"top": 3})  # a value that DVC's run cache does not have from another test
    run("git", "commit", "-qam", "top 3")
    run("git", "switch", "-q", "main")
    run("git", "merge", "-q", "--no-ff", "--no-edit", "change")  # the commit that CI checks out for a pull request
    shutil.rmtree(project / "reports")
    assert stages_run(run("bash", "-e", "-c", steps["Scores of the base branch"])) == []
    ran = run("bash", "-e", "-c", steps["Pipeline"])
    assert stages_run(ran) == ["evaluate", "report"]
    assert "champion" in ran
    run("bash", "-e", "-c", steps["Compare the scores"])
    summary = (tmp_path / "summary").read_text(encoding="utf-8")
    assert "| reports/metrics.json |" in summary and "top" in summary
    assert summary in (tmp_path / "output").read_text(encoding="utf-8")


def test_make_ui_shows_the_run_and_the_registered_model(project: Path, chromium: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with start(project, "make", "-o", ".venv/installed", "ui", f"PORT={port}"):
        wait_for(f"{address}/health")
        shown = mlflow_runs(project)[-1]  # the oldest: the first `dvc repro`

        def page(route: str) -> str:
            """Return the page's elements after its scripts have run."""
            options = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
            options += ["disable-background-networking", "disable-component-update", "virtual-time-budget=30000"]
            options += ["dump-dom", f"user-data-dir={tmp_path / 'profile'}"]
            return runner(project)(chromium, *(f"--{option}" for option in options), f"{address}/#{route}")

        run_page = page(f"/experiments/{shown.info.experiment_id}/runs/{shown.info.run_id}")
        for text in ("data/split/train", "model_sha256", "gemstones", "accuracy", "CPU"):
            assert text in run_page
        model_page = page("/models/gemstones")
        for text in ("champion", "challenger", "Version 1"):
            assert text in model_page


@contextmanager
def start(folder: Path, *command: str) -> Iterator[None]:
    """Run a server in a process group of its own until the context ends."""
    no_output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True, **no_output)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for(url: str, seconds: float = 120) -> None:
    """Return once a server responds."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
