"""The page that leads to all others, and the model card, made from reports of known content."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from scrapy import Selector

from gemmodel.core import params
from gemmodel.core.errors import DataError
from gemmodel.report import index_page, model_card

METRICS = {"photos": 9, "accuracy": 0.777778, "intervals": {"accuracy": {"low": 0.5, "high": 0.95}}}
CLEAN = {"files": 44, "kept": 40, "gems": 2, "conversions": {"wrong suffix": 1}, "rejected": {"near-duplicate": 4}}
CLASSES = """gem,photos,accuracy,low,high,precision,f1,most_often_taken_for
Ruby,5,0.6,0.2,0.9,1.0,0.75,Spinel
Spinel,4,1.0,0.5,1.0,0.666667,0.8,
"""


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """A folder of reports beside a model's, without explanation, exploration and data."""
    folder = tmp_path / "reports"
    (folder / "evaluation").mkdir(parents=True)
    written = {
        "metrics": METRICS,
        "clean": CLEAN,
        "split": {"photos": {"train": 28, "val": 3, "test": 9}},
        "registration": {"name": "gemstones", "champion": True},
    }
    for name, values in written.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "evaluation" / "classes.csv").write_text(CLASSES, encoding="utf-8")
    (folder / "evaluation" / "#1 of 2.html").write_text("<html></html>", encoding="utf-8")
    Image.new("RGB", (8, 8)).save(folder / "evaluation" / "confusion_matrix.png")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "classes.json").write_text('["Ruby", "Spinel"]', encoding="utf-8")
    (tmp_path / "models" / "model.keras").write_bytes(b"weights")
    return folder


def test_the_page_holds_what_is_there_and_links_what_is_there(reports: Path) -> None:
    page = reports / "index.html"
    origin = {"commit": "0123abc", "data/raw": None}
    index_page.write(page, origin=origin, parameters={"crawl": {"contact": "me@home.example", "only": ("Ruby", "<i>")}})
    text = page.read_text(encoding="utf-8")
    shown = Selector(text=text)
    assert shown.css("h2::text").getall() == [
        "How good is it?",
        "From which photos?",
        "What became of it?",
        "Where does it come from?",
    ]
    links = [unquote(link) for link in shown.css("a::attr(href)").getall() if not link.startswith("#")]
    assert links == ["evaluation/#1 of 2.html", "evaluation/classes.csv", "clean.json", "split.json"]
    assert all(source.startswith("data:image/png") for source in shown.css("img::attr(src)").getall())
    assert shown.css("img::attr(alt)").getall() == ["confusion matrix"]
    cells = [row.css("td ::text").getall() for row in shown.css("tr")]
    assert ["accuracy", "0.7778", "0.500 to 0.950"] in cells
    assert ["commit", "0123abc"] in cells
    assert ["crawl.only", "Ruby, <i>"] in cells
    assert "me@home.example" not in text


def test_the_card_tells_of_data_scores_and_limits(reports: Path, settings: Callable[..., params.Params]) -> None:
    card, made = reports / "model_card.md", settings()
    model_card.write(card, reports.parent / "models", made, {"data/raw": "5527.dir", "data/clean": None})
    text = card.read_text(encoding="utf-8")
    for line in (
        "44 files came, 40 of 2 gems were kept.",
        "| accuracy | 0.7778 | 0.500 to 0.950 |",
        "| Ruby | 5 | 0.60 | 0.20 to 0.90 | Spinel |",
        "- `data/raw`: DVC md5 `5527.dir`",
        "- A gem has as few as 4 test photos, so a single gem's score is a rough one.",
    ):
        assert line in text
    assert "\n| Spinel |" not in text  # all its test photos were named rightly
    assert "must not be used" in text
    assert "drawn by the bundled sample site" in text
    model_card.write(card, reports.parent / "models", settings({"crawl.source": "folder"}), {})
    assert "sample site" not in card.read_text(encoding="utf-8")


def test_a_report_that_is_missing_is_named(reports: Path, settings: Callable[..., params.Params]) -> None:
    (reports / "split.json").unlink()
    with pytest.raises(DataError, match=r"split\.json"):
        model_card.write(reports / "model_card.md", reports.parent / "models", settings(), {})
