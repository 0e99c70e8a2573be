"""The explore stage on features of three separate groups, and its page in a browser."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemmodel.embed import feature_set

GEMS = ["Ruby", "Opal", "Emerald"]
EXPLORE = {"explore.elbow": [2, 3, 4, 6], "explore.neighbours": 8, "explore.thumbnail": 16}


@pytest.fixture(scope="module")
def explored(
    new_project: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]
) -> Any:
    """A project with features of three well-separated gems, explored."""
    project = new_project(tmp_path_factory.mktemp("explored"))
    project.set(**{name.replace(".", "__"): value for name, value in EXPLORE.items()})
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 3, (3, 60))
    (project.root / "data" / "features").mkdir(parents=True)
    for part, number in (("train", 14), ("val", 3)):
        labels = np.repeat(np.arange(3, dtype=np.int32), number)
        features = rng.normal(centres[labels]).astype(np.float32)
        files = [f"{GEMS[label]}/{i}.jpg" for i, label in enumerate(labels)]
        photos = feature_set.FeatureSet(features, labels, np.array(files), GEMS, {"maps": 60})
        feature_set.write(project.root / "data" / "features" / part, photos)
        for i, file in enumerate(files):
            path = project.root / "data" / "split" / part / file
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(i).save(path)
    classes = {"Ruby": "Corundum", "Opal": "Silica</script>", "Emerald": "Beryl"}
    (project.root / "data" / "split" / "hierarchy.json").write_text(json.dumps(classes), encoding="utf-8")
    project.run("explore")
    return project


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_clusters_match_well_separated_gems(explored: Any) -> None:
    scores = json.loads((explored.root / "reports" / "exploration.json").read_text(encoding="utf-8"))
    assert (scores["photos"], scores["gems"], scores["mineral_classes"], scores["clusters"]) == (51, 3, 3, 3)
    for space in ("pca", "umap"):
        assert scores[space]["gem_adjusted_rand_index"] == scores[space]["gem_mutual_information"] == 1
        assert scores[space]["elbow"] == 3
        assert scores[space]["silhouette"] > 0.1
    fractions = [
        float(line.split(",")[1])
        for line in (explored.root / "reports/exploration/variance.csv").read_text(encoding="utf-8").split()[1:]
    ]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert fractions[scores["components"] - 2] < 0.95 <= fractions[scores["components"] - 1]


def test_another_process_gives_the_same_bytes(explored: Any) -> None:
    before = digests(explored.root / "reports" / "exploration")
    assert set(before) == {"index.html", "umap.png", "tsne.png", "variance.csv", "elbow.csv"}
    explored.run("explore")
    assert digests(explored.root / "reports" / "exploration") == before


def test_the_page_shows_the_photo_under_the_pointer_and_needs_no_network(explored: Any, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    address = (explored.root / "reports" / "exploration" / "index.html").as_uri()
    page.goto(address)
    dots = page.locator("#map .scatterlayer .trace").first.locator(".points path")
    assert dots.count() == 51
    assert page.locator("#UMAP .sankey-node").count() == page.locator("#PCA .sankey-node").count() == 6
    dots.first.hover(force=True)
    shown = page.locator("#photo img")
    shown.wait_for(state="visible")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    assert "gem: Ruby" in page.locator("#photo").inner_text()
    page.fill("#find", "silica</script>")
    assert page.locator("#count").inner_text() == "17 of 51 photos"
    page.select_option("#colour", "mineral class")
    page.select_option("#layout", "t-SNE")
    assert page.locator("#legend button").all_inner_texts() == ["Beryl (17)", "Corundum (17)", "Silica</script> (17)"]
    colour = "dot => getComputedStyle(dot).backgroundColor"
    legend = page.locator("#legend i")
    before = [dot.evaluate(colour) for dot in legend.all()]
    page.emulate_media(forced_colors="active")
    assert [dot.evaluate(colour) for dot in legend.all()] == before
    assert errors == []
    assert [url for url in requested if not url.startswith("data:")] == [address]


def test_more_clusters_than_photos_are_refused_in_one_line(explored: Any, refused: Callable[..., None]) -> None:
    explored.set(explore__clusters=51)
    refused(explored.stage("explore"), "explore", "explore.clusters is 51", "51")
    explored.set(**{name.replace(".", "__"): value for name, value in EXPLORE.items()})
