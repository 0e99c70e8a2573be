"""The page about the data, as a person opens it."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from scrapy import Selector


@pytest.fixture(scope="module")
def page(split_project: Any) -> Selector:
    return Selector(text=(split_project.root / "reports" / "data.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(page: Selector) -> None:
    sources = page.css("img::attr(src), link::attr(href), script::attr(src)").getall()
    assert all(source.startswith("data:") for source in sources)
    assert not page.css("script")
    pictures = [source.split("base64,")[1] for source in page.css("img::attr(src)").getall()]
    assert len(pictures) >= 7
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).load()
    assert all(page.css("h2 + img::attr(alt)").getall())


def test_every_file_that_was_set_aside_is_shown_with_its_reason(page: Selector, split_project: Any) -> None:
    report = json.loads((split_project.root / "reports" / "clean.json").read_text(encoding="utf-8"))
    shown = page.css("figcaption::text").getall()
    assert report["listed"]
    for row in report["listed"]:
        assert row["source"] in shown
        assert row["reason"] in page.css(".group p::text").getall()


def test_numbers_and_folders_are_those_of_the_split(page: Selector, split_project: Any) -> None:
    split = split_project.root / "data" / "split"
    cells = dict(zip(page.css("td:first-child::text").getall(), page.css("td.number::text").getall(), strict=True))
    for part in ("train", "val", "test"):
        assert int(cells[part]) == len(list((split / part).rglob("*.jpg")))
    assert "Turquoise/" in page.css("pre::text").get("")


def test_its_pictures_stand_beside_it(split_project: Any) -> None:
    names = {path.stem for path in (split_project.root / "reports" / "data").iterdir()}
    assert names == {"counts", "samples", "augmentation", "crop_canny", "crop_otsu", "mean_colours", "sizes"}
