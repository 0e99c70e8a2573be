"""The index page and the model card, made from small reports."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from scrapy import Selector

from gemmodel.core import hashing, params
from gemmodel.core.errors import DataError
from gemmodel.figures import html
from gemmodel.report import headline, index_page, meanings, model_card
from gemmodel.report.index_page import Reports

METRICS = {"photos": 9, "accuracy": 0.777778, "intervals": {"accuracy": {"low": 0.5, "high": 0.95}}}
CLEAN = {"files": 44, "kept": 40, "gems": 2, "converted": {"wrong suffix": 1}, "rejected": {"near-duplicate": 4}}
CLASSES = """gem,photos,accuracy,low,high,precision,f1,most_often_taken_for
Ruby,5,0.6,0.2,0.9,1.0,0.75,Spinel
Spinel,4,1.0,0.5,1.0,0.666667,0.8,
"""


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    """Reports beside a model folder; those of training, explanation, exploration and data are absent."""
    folder = tmp_path / "reports"
    (folder / "evaluation").mkdir(parents=True)
    contents = {
        "metrics": METRICS,
        "clean": CLEAN,
        "split": {"photos": {"train": 28, "val": 3, "test": 9}},
        "registration": {"name": "gemstones", "champion": True},
    }
    for name, values in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "evaluation" / "classes.csv").write_text(CLASSES, encoding="utf-8")
    (folder / "evaluation" / "label_issues.html").write_text("<html></html>", encoding="utf-8")
    Image.new("RGB", (8, 8)).save(folder / "evaluation" / "reliability.png")
    photo = {"picture": html.data_url(Image.new("RGB", (8, 8))), "caption": "is <Ruby>\n0.93 Spinel"}
    galleries = {"mistakes": [], "panel_#1 of red": [[photo]], "panel_former": [[photo]]}
    (folder / "evaluation" / "galleries.json").write_text(json.dumps(galleries), encoding="utf-8")
    (folder / "crawl #1.md").write_text("# Crawl", encoding="utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "classes.json").write_text('["Ruby", "Spinel"]', encoding="utf-8")
    (tmp_path / "models" / "model.keras").write_bytes(b"weights")
    return Reports(
        crawl=folder / "crawl #1.md", clean=folder / "clean.json", split=folder / "split.json",
        data=folder / "data.html", data_pictures=folder / "data", training=folder / "training.json",
        curves=folder / "curves.csv", metrics=folder / "metrics.json", evaluation=folder / "evaluation",
        explanation=folder / "explanation", exploration_metrics=folder / "exploration.json",
        exploration=folder / "exploration", registration=folder / "registration.json", card=folder / "model_card.md",
    )  # fmt: skip


def write_page(reports: Reports) -> str:
    page = reports.metrics.parent / "index.html"
    index_page.write(
        page, reports, panels=["#1 of red", "another"], provenance={"commit": "0123abc", "data/raw": None},
        parameters={"crawl": {"contact": "me@home.example", "only": ("Ruby", "<i>")}},
    )  # fmt: skip
    return page.read_text(encoding="utf-8")


def test_the_page_shows_and_links_the_reports_that_exist(reports: Reports) -> None:
    text = write_page(reports)
    page = Selector(text=text)
    assert page.css("h2::text").getall() == [
        "In short",
        "How good is the model?",
        "On which photos?",
        "Is it registered?",
        "Where does it come from?",
    ]
    links = [unquote(link) for link in page.css("a::attr(href)").getall() if not link.startswith("#")]
    evaluation = ["evaluation/label_issues.html", "evaluation/classes.csv"]
    assert links == [*evaluation, "crawl #1.md", "clean.json", "split.json"]
    assert page.css("img::attr(alt)").getall() == ["Whether a confidence can be believed", ""]
    assert page.css(".tiles figcaption::text").getall() == ["is <Ruby>\n0.93 Spinel"]
    assert page.css("summary::text").getall()[1] == "Look-alikes: #1 of red"  # no gallery of a former run
    anchors = [link[1:] for link in page.css("nav a::attr(href)").getall()]
    assert anchors == page.css("h2::attr(id)").getall() and len(page.css("main")) == 1
    kinds = [source.partition(",")[0] for source in page.css("img::attr(src)").getall()]
    assert kinds == ["data:image/png;base64", "data:image/jpeg;base64"]
    cells = [row.css("td ::text").getall() for row in page.css("tr")]
    accuracy = "fraction of photos whose most probable gem is the right one"
    assert ["accuracy", "0.7778", "0.500 to 0.950", accuracy] in cells
    assert ["commit", "0123abc"] in cells
    assert ["crawl.only", "Ruby, <i>"] in cells
    assert "me@home.example" not in text


def test_each_score_is_explained(reports: Reports) -> None:
    scores = METRICS | {"label_score": 1.5, "singleton_rate": 0.75, "top_3_accuracy": 0.9}
    reports.metrics.write_text(json.dumps(scores), encoding="utf-8")
    page = Selector(text=write_page(reports))
    cells = {row[0]: row for row in (row.css("td ::text").getall() for row in page.css("table.scores tr")) if row}
    assert cells["label score"][1:] == ["1.5000", meanings.SCORES["label_score"]]
    assert "one gem only" in cells["singleton rate"][-1] and "3 most probable" in cells["top 3 accuracy"][-1]


def test_the_headline_says_what_was_trained_on_what_how_good_it_is_and_when_it_fails(reports: Reports) -> None:
    (reports.evaluation / "confused_pairs.csv").write_text("gem,other,confused\nRuby,Spinel,2\n", encoding="utf-8")
    rows = "file,actual,predicted,probability\na,Ruby,Ruby,0.95\nb,Ruby,Spinel,0.4\n"
    (reports.evaluation / "predictions.csv").write_text(rows, encoding="utf-8")
    parameters = {"crawl": {"source": ["sample"]}, "model": {"name": "fusion"}}
    for registered, role in ((True, "the champion"), (False, "a challenger")):
        reports.registration.write_text(json.dumps({"name": "gemstones", "champion": registered}), encoding="utf-8")
        first = headline.make(
            metrics=reports.metrics, split=reports.split, registration=reports.registration,
            evaluation=reports.evaluation, ablation=reports.explanation / "ablation.csv", parameters=parameters,
        )  # fmt: skip
        text = " ".join(first.sentences)
        assert "A fusion model, trained on 28 photos" in text and "rendered pictures" in text
        assert "7 of 9 test photos rightly: 77.8 %, 95 % interval 50.0 % to 95.0 %" in text
        assert role in text and "says nothing about real stones" in text
    assert first.failures == [
        "Least often right: Ruby (3 of 5 right, otherwise mostly taken for Spinel).",
        "Most often taken for each other: Ruby and Spinel (2 photos).",
        "Right are 1 of the 1 answers with a confidence of 90 % or more, "
        "and 0 of the 1 answers with a confidence below 50 %.",
    ]


def test_the_model_card_has_data_scores_and_limits(
    reports: Reports, tmp_path: Path, settings: Callable[..., params.Params]
) -> None:
    model_card.write(reports, tmp_path / "models", settings(), {"data/raw": "5527.dir", "data/clean": None})
    text = reports.card.read_text(encoding="utf-8")
    for line in (
        "Source: sample. 40 of 44 files were kept, of 2 gems.",
        "is in the test part: near-duplicate 4.",
        "Converted: wrong suffix 1.",
        "| accuracy | 0.7778 | 0.500 to 0.950 |",
        "| Ruby | 5 | 0.60 | 0.20 to 0.90 | Spinel |",
        "- `data/raw`: DVC md5 `5527.dir`",
        "- A gem has as few as 4 test photos, so the score of a single gem is a rough estimate.",
    ):
        assert line in text
    assert "\n| Spinel |" not in text  # all its test photos are predicted correctly
    assert "`data/clean`" not in text  # its hash is unknown
    assert "must not be used" in text
    assert "drawn by the bundled sample site" in text
    assert "It flags some" not in text  # the model has no thresholds
    (tmp_path / "models" / "thresholds.json").write_text("{}", encoding="utf-8")
    model_card.write(reports, tmp_path / "models", settings({"crawl.source": "folder"}), {})
    text = reports.card.read_text(encoding="utf-8")
    assert "sample site" not in text
    assert "It flags some, but not all, photos that are unlike the training photos." in text


def test_a_missing_report_is_named(reports: Reports, tmp_path: Path, settings: Callable[..., params.Params]) -> None:
    reports.split.unlink()
    with pytest.raises(DataError, match=r"split\.json"):
        model_card.write(reports, tmp_path / "models", settings(), {})


def test_a_gem_in_the_model_card_is_no_markdown() -> None:
    assert model_card._markdown("_x_ $1$ [a](b) <b>|#1") == r"\_x\_ \$1\$ \[a\](b) \<b\>\|\#1"
    assert model_card._markdown("Garnet Red") == "Garnet Red"


def test_the_model_card_has_hash_and_licence_of_a_backbone_file(
    reports: Reports, tmp_path: Path, settings: Callable[..., params.Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backbones").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("backbones/dino.onnx").write_bytes(b"weights")
    Path("backbones/dino.yaml").write_text("licence: CC-BY-NC-4.0\n")
    both = settings({"embed.backbone": ["efficientnet_lite0", "backbones/dino.onnx"]})
    model_card.write(reports, tmp_path / "models", both, {})
    text = reports.card.read_text(encoding="utf-8")
    assert "on `efficientnet_lite0` with ImageNet weights and `backbones/dino.onnx`; input photos of 224" in text
    sha256 = hashing.sha256(Path("backbones/dino.onnx"))
    assert f"SHA-256 of `backbones/dino.onnx`: `{sha256}`; licence: CC-BY-NC-4.0." in text
