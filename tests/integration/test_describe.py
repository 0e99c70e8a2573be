"""The data report, as a browser shows it."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scrapy import Selector

from gemmodel.core import hashing


@pytest.fixture(scope="module")
def described(split_project: Any, new_project: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project with an exact copy, a photo under two gems and a file that is not an image."""
    project = new_project(tmp_path_factory.mktemp("described"))
    raw = project.root / "data" / "raw"
    shutil.copytree(split_project.root / "data" / "raw", raw)
    lines = [json.loads(line) for line in (raw / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    ruby, citrine = ([line for line in lines if line["gem"] == gem] for gem in ("Ruby", "Citrine"))
    for source, path, number in ((ruby[0], "Ruby/copy.jpg", 90), (citrine[0], "Malachite/copy.jpg", 91)):
        shutil.copy(raw / source["path"], raw / path)
        lines.append(source | {"path": path, "gem": path.split("/")[0], "number": number})
    page = raw / "Ruby" / "<b>page.jpg"
    page.write_text("<html>")
    lines.append(ruby[0] | {"path": "Ruby/<b>page.jpg", "number": 92, "sha256": hashing.sha256(page)})
    (raw / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    project.run("clean", "split", "augment", "describe")
    return Path(project.root)


@pytest.fixture(scope="module")
def page(described: Path) -> Selector:
    return Selector(text=(described / "reports" / "data.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(page: Selector) -> None:
    sources = page.css("img::attr(src), link::attr(href), script::attr(src)").getall()
    assert all(source.startswith("data:") for source in sources)
    assert len(page.css("script")) == 1  # of every page: names of files in place of links where it has no neighbours
    pictures = [source.split("base64,")[1] for source in page.css("img::attr(src)").getall()]
    assert len(pictures) >= 7
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).load()
    captions = page.css(".tiles figcaption::text").getall()
    assert len(captions) == len(page.css(".tiles img")) >= 4 + 4 * 8 + 2 * 4 and all(captions)


def test_its_colours_stay_where_the_user_chooses_the_others(described: Path, browser: Any) -> None:
    shown = browser.new_page()
    shown.goto((described / "reports" / "data.html").as_uri())
    colours = "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    for part in (".bar i", ".key i", ".patches i"):
        before = shown.locator(part).evaluate_all(colours)
        shown.emulate_media(forced_colors="active")
        assert shown.locator(part).evaluate_all(colours) == before and len(set(before)) > 1
        shown.emulate_media(forced_colors="none")
    shown.close()


def test_every_rejected_file_is_shown_with_its_reason(page: Selector, described: Path) -> None:
    report = json.loads((described / "reports" / "clean.json").read_text(encoding="utf-8"))
    figures = page.css(".group figcaption")
    shown = dict(zip(figures.xpath("text()").getall(), figures.css("b::text").getall(), strict=True))
    assert len(report["rejected_files"]) == 4
    for row in report["rejected_files"]:
        assert shown[row["source"]] == row["reason"]
    assert "kept" in shown.values()


def test_counts_and_folders_are_those_of_the_split(page: Selector, described: Path) -> None:
    split = described / "data" / "split"
    cells = dict(zip(page.css("td:first-child::text").getall(), page.css("td.number::text").getall(), strict=True))
    ruby = page.xpath("//table[@class='bars']//tr[th='Ruby']")
    photos = {path for part in ("train", "val", "test") for path in (split / part / "Ruby").iterdir()}
    report = json.loads((described / "reports" / "clean.json").read_text(encoding="utf-8"))
    rejected = [row for row in report["rejected_files"] if row["source"].startswith("Ruby/")]
    assert int(ruby.css(".total::text").get("")) == len(photos) + len(rejected)
    for part in ("train", "val", "test"):
        assert int(cells[part]) == len(list((split / part).rglob("*.jpg")))
    assert "Turquoise/" in page.css("pre::text").get("")


def test_its_pictures_are_files_too(described: Path) -> None:
    names = {path.stem for path in (described / "reports" / "data").iterdir()}
    assert names == {"counts", "samples", "augmentation", "crop_canny", "crop_otsu", "sizes"}


def test_photos_under_several_gems_have_a_section_of_their_own(page: Selector) -> None:
    conflicts = page.xpath("//h2[@id='conflicts']/following-sibling::div[1]")
    figures = conflicts.css("figcaption::text").getall()
    assert "Malachite/copy.jpg" in figures and len(figures) == 2
    assert all(text == "under several gems: Citrine, Malachite" for text in conflicts.css("b::text").getall())
    rejected = page.xpath("//h2[@id='rejected']/following-sibling::div[1]").css("figcaption::text").getall()
    assert {"Ruby/copy.jpg", "Ruby/<b>page.jpg"} <= set(rejected)
    assert not set(rejected) & set(figures)
