"""Planted wrong labels are disputed, and their review becomes a table of corrections."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scrapy import Selector

from gemmodel.clean import corrections
from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.embed import feature_set
from gemmodel.evaluate import label_issues

GEMS = ["Agate", 'Cat\'s Eye, "green"', "Topaz"]
PHOTOS = 20  # of each gem
WRONG = {3: 2, 45: 0}  # by photo, the gem that it shows instead of its label


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    """A folder with features of photos of three gems, two of which have a wrong label."""
    root = tmp_path_factory.mktemp("label_issues")
    labels = np.arange(3).repeat(PHOTOS)
    shown = labels.copy()
    shown[list(WRONG)] = list(WRONG.values())
    centres = np.tile(np.eye(3, 12), 2)[shown] * 8
    features = np.random.default_rng(0).normal(centres, 1, (3 * PHOTOS, 24)).astype(np.float32)
    val = np.arange(3 * PHOTOS) % 5 == 4
    (root / "features").mkdir()
    rows, lines = [], []
    for part, inside in (("train", ~val), ("val", val)):
        photos = np.flatnonzero(inside)
        part_features = feature_set.FeatureSet(
            features[photos], labels[photos], photos.astype(str), GEMS, {"maps": 12, "colours": 12}
        )
        feature_set.write(root / "features" / part, part_features)
        for photo in photos:
            gem = GEMS[labels[photo]]
            file = f"{gem}/{photo}.jpg"
            (root / "clean" / gem).mkdir(parents=True, exist_ok=True)
            draw(int(photo), size=(96, 72)).save(root / "clean" / file)
            rows.append((part, file, gem, photo // 5 % 4))
            lines.append({"path": file, "sha256": hashlib.sha256(file.encode()).hexdigest()})
    pd.DataFrame(rows, columns=["part", "file", "gem", "fold"]).to_csv(root / "folds.csv", index=False)
    files.write_jsonl(root / "clean" / "manifest.jsonl", lines)
    return root


@pytest.fixture
def write(project: Path, tmp_path: Path, settings: Callable[..., Any]) -> Callable[..., pd.DataFrame]:
    def written(max_shown: int = 50, **options: Any) -> pd.DataFrame:
        return label_issues.write(
            tmp_path / "page.html", features=project / "features", folds=options.pop("folds", project / "folds.csv"),
            clean=project / "clean", params=settings().model.fusion, max_shown=max_shown, **options,
        )  # fmt: skip

    return written


def test_planted_wrong_labels_are_disputed(write: Callable[..., pd.DataFrame]) -> None:
    table = write()
    planted = {f"{GEMS[photo // PHOTOS]}/{photo}.jpg": GEMS[gem] for photo, gem in WRONG.items()}
    assert dict(zip(table["path"], table["suggested"], strict=True)) == planted
    assert (table["suggested_prob"] > table["label_prob"]).all()


def test_photos_beyond_the_number_that_is_fitted_are_checked_too(
    write: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    assert set(write(max_fitted=30)["suggested"]) >= {GEMS[gem] for gem in WRONG.values()}
    assert "a random sample of 30 photos" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_shows_the_most_likely_issue_and_needs_no_other_file(
    write: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    table = write(max_shown=1)
    assert len(table) == len(WRONG)
    page = Selector(text=(tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.css(".card::attr(data-path)").getall() == table["path"].tolist()[:1]
    addresses = page.css("[src]::attr(src), [href]::attr(href)").getall()
    # The icon, links and the photo; a script puts in the example photos, which it holds.
    links = ["../index.html", "#issues", "#outcome", "#outcome"]
    assert [address.partition(",")[0] for address in addresses] == ["data:", *links, "data:image/jpeg;base64"]
    examples = page.css("script::text").re(r'"(data:image/jpeg;base64,[^"]+)"')
    assert len(examples) == 2  # of the label and of the suggested gem
    before = (tmp_path / "page.html").read_bytes()
    write(max_shown=1)
    assert (tmp_path / "page.html").read_bytes() == before


def test_a_review_becomes_a_table_that_cleaning_reads(
    write: Callable[..., pd.DataFrame], browser: Any, tmp_path: Path
) -> None:
    table = write()
    page, problems = browser.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("data:", "file:")) else problems.append(request.url)
    )
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    first, second = page.locator(".card select").all()
    assert first.locator("option").count() == 3
    first.focus()
    assert first.locator("option").count() == len(GEMS) + 1  # keep, each other gem, and drop
    first.select_option(GEMS[1])
    second.select_option("drop")
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "corrections.csv")
    assert corrections.read(tmp_path / "corrections.csv") == dict(zip(table["photo"], [GEMS[1], "drop"], strict=True))
    assert problems == []


def test_folds_of_other_photos_are_refused(project: Path, write: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    other = pd.read_csv(project / "folds.csv").iloc[1:]
    other.to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(DataError, match="of other photos than"):
        write(folds=tmp_path / "folds.csv")
