"""The report stage: its page in a browser, what the run holds, and the model card in the registry."""

import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


@pytest.fixture(scope="module")
def reported(split_project: Any, new_project: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project in its own git repository, with a registered model and its report."""
    project = new_project(tmp_path_factory.mktemp("reported"))
    for folder in ("data", "reports"):
        (project.root / folder).symlink_to(split_project.root / folder, target_is_directory=True)
    commit = ["-c", "user.name=Test", "-c", "user.email=test@gemmodel.example", "commit", "-qm", "settings"]
    for command in (["init", "-q"], ["add", "params.yaml"], commit):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    project.run("embed", "train", "evaluate", "explore", "register", "report")
    return project


def test_the_page_shows_the_run_and_needs_no_network(reported: Any, browser: Any) -> None:
    page = browser.new_page()
    errors: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    address = (reported.root / "reports" / "index.html").as_uri()
    page.goto(address)
    pictures = page.locator("img")
    assert pictures.count() >= 12  # of evaluation, exploration, training and data
    widths = "images => Promise.all(images.map(image => image.decode().then(() => image.naturalWidth)))"
    assert all(width > 100 for width in pictures.evaluate_all(widths))
    assert errors == []
    assert [url for url in requested if not url.startswith("data:")] == [address]
    text = page.locator("body").text_content()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=reported.root, capture_output=True, text=True, check=True)
    for expected in (head.stdout.strip(), "model_sha256", "model.fusion.landmarks", "explain.photos", "macro f1"):
        assert expected in text
    assert "adjusted rand index" in text
    links = page.eval_on_selector_all("a", "links => links.map(link => link.getAttribute('href'))")
    files = [unquote(link) for link in links if not link.startswith("#")]
    pages = {"exploration/index.html", "data.html", "crawl.md", "model_card.md", "evaluation/label_issues.html"}
    assert pages | {"evaluation/predictions.csv", "curves.csv"} <= set(files)
    assert all((reported.root / "reports" / name).is_file() for name in files)


def test_the_run_has_the_report_and_the_registered_model_its_card(reported: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(reported.store)
    version = client.get_model_version_by_alias("gemstones", "champion")
    assert version.description.lstrip().startswith("# Model card of gemstones")
    assert client.get_registered_model("gemstones").description == version.description
    run = client.get_run(client.get_experiment_by_name("gemstones") and version.run_id)
    logged = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"index.html", "model_card.md", "evaluation", "exploration", "data"} <= logged
    pictures = {file.path for file in client.list_artifacts(run.info.run_id, "data")}
    assert {"data/counts.png", "data/samples.jpg"} <= pictures
    assert run.data.metrics["explore_photos"] > 0


def test_a_long_card_is_cut_to_the_length_that_the_registry_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemmodel.register import registration
    from gemmodel.tracking import runs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    with runs.mlflow_store():
        client = runs.mlflow.MlflowClient()
        client.create_registered_model("gemstones")
        client.create_model_version("gemstones", tmp_path.as_uri(), tags={runs.MODEL_TAG: "abc"})
        registration.describe_version("gemstones", "another", "not for this one")
        registration.describe_version("gemstones", "abc", "---\nfront: matter\n---\n# Card\n" + "a line\n" * 2000)
        text = client.get_model_version("gemstones", "1").description
        assert text.startswith("# Card\n") and text.endswith("model_card.md.")
        assert 4900 < len(text) <= 5000  # what MLflow's tables hold
        assert not client.get_registered_model("gemstones").description  # the version is not the champion
