"""The report stage: its page in a browser, what the run holds, and the model card in the registry."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


def test_the_page_shows_the_run_and_needs_no_network(finished_project: Any, browser: Any) -> None:
    page = browser.new_page()
    errors: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    address = (finished_project.root / "reports" / "index.html").as_uri()
    page.goto(address)
    pictures = page.locator("img")
    assert pictures.count() >= 12  # of evaluation, exploration, training and data
    widths = "images => Promise.all(images.map(image => image.decode().then(() => image.naturalWidth)))"
    assert all(width > 100 for width in pictures.evaluate_all(widths))
    assert errors == []
    assert [url for url in requested if not url.startswith("data:")] == [address]
    text = page.locator("body").text_content()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=finished_project.root, capture_output=True, text=True, check=True
    )
    for expected in (head.stdout.strip(), "model_sha256", "model.fusion.landmarks", "explain.photos", "macro f1"):
        assert expected in text
    assert "adjusted rand index" in text
    links = page.eval_on_selector_all("a", "links => links.map(link => link.getAttribute('href'))")
    files = [unquote(link) for link in links if not link.startswith("#")]
    pages = {"exploration/index.html", "data.html", "crawl.md", "model_card.md", "evaluation/label_issues.html"}
    assert pages | {"evaluation/predictions.csv", "curves.csv"} <= set(files)
    assert all((finished_project.root / "reports" / name).is_file() for name in files)


PAGES = (
    "index.html", "data.html", "evaluation/confusion.html", "evaluation/label_issues.html", "exploration/index.html",
)  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_is_accessible_in_both_colour_schemes(
    finished_project: Any, browser: Any, name: str
) -> None:
    for width, scheme in ((390, "dark"), (1280, "light")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto((finished_project.root / "reports" / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("main").count() == 1
        axe = pytest.importorskip("axe_playwright_python").__path__[0]
        page.evaluate((Path(axe) / "axe.min.js").read_text(encoding="utf-8"))
        assert [problem["id"] for problem in page.evaluate("axe.run()")["violations"]] == []
        page.close()


def test_the_photos_of_a_mistake_are_beside_the_confusion_matrix(finished_project: Any, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((finished_project.root / "reports" / "evaluation" / "confusion.html").as_uri())
    cells = page.locator("#matrix .nsewdrag").bounding_box()
    page.mouse.move(cells["x"] + cells["width"] / 8, cells["y"] + cells["height"] / 8)  # the first of four gems
    page.wait_for_function("document.querySelector('#photos img')")
    assert "right: " in page.locator("#cell").inner_text()
    mistake = page.locator("#pairs option").nth(1).inner_text()  # the first one says "choose"
    actual, predicted = re.fullmatch(r"(.+) taken for (.+) \(\d+\)", mistake).groups()
    page.select_option("#pairs", index=1)
    page.wait_for_function("document.querySelector('#cell').innerText.includes('taken for')")
    assert page.locator("#cell").inner_text().startswith(f"{actual}, taken for {predicted}: ")
    assert page.locator("#photos img").count() > 0


def test_in_mlflows_viewer_a_link_to_another_file_is_its_name(finished_project: Any, browser: Any) -> None:
    from playwright.sync_api import expect

    page = browser.new_page()
    page.set_content("<iframe sandbox='allow-scripts'></iframe>")
    show = "text => document.querySelector('iframe').src = URL.createObjectURL(new Blob([text], {type: 'text/html'}))"
    page.evaluate(show, (finished_project.root / "reports" / "index.html").read_text(encoding="utf-8"))
    viewer = page.frame_locator("iframe")
    first = viewer.locator("#scores ~ ul").first
    expect(first).to_contain_text("(evaluation/confusion.html in the list of files)")  # once the page's script has run
    links = viewer.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links and all(link.startswith("#") for link in links)
    viewer.locator("nav a").last.click()
    assert viewer.locator("#provenance").is_visible()


def test_the_run_has_the_report_and_the_registered_model_its_card(finished_project: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(finished_project.store)
    version = client.get_model_version_by_alias("gemstones", "champion")
    assert version.description.lstrip().startswith("# Model card of gemstones")
    assert client.get_registered_model("gemstones").description == version.description
    run = client.get_run(client.get_experiment_by_name("gemstones") and version.run_id)
    logged = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"index.html", "model_card.md", "data.html", "curves.csv", "evaluation", "exploration", "data"} <= logged
    pictures = {file.path for file in client.list_artifacts(run.info.run_id, "data")}
    assert {"data/counts.png", "data/samples.jpg"} <= pictures
    assert run.data.metrics["explore/photos"] > 0


def test_a_long_card_is_cut_to_the_length_that_the_registry_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    from gemmodel.register import registration
    from gemmodel.tracking import runs

    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    with runs.mlflow_store():
        client = runs.mlflow.MlflowClient()
        client.create_registered_model("gemstones")
        client.create_model_version("gemstones", tmp_path.as_uri(), tags={runs.MODEL_TAG: "abc"})
        registration.describe_version("gemstones", {runs.MODEL_TAG: "another"}, "not for this one")
        card = "---\nfront: matter\n---\n# Card\n" + "a line\n" * 2000
        registration.describe_version("gemstones", {runs.MODEL_TAG: "abc"}, card)
        text = client.get_model_version("gemstones", "1").description
        assert text.startswith("# Card\n") and text.endswith("model_card.md.")
        assert 4900 < len(text) <= 5000  # what MLflow's tables hold
        assert not client.get_registered_model("gemstones").description  # the version is not the champion
