"""Names that are planted wrong are disputed, and a review of them becomes a table of corrections."""

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
from gemmodel.evaluate import label_issues

GEMS = ["Agate", 'Cat\'s Eye, "green"', "Topaz"]
PHOTOS, WRONG = 20, {3: 2, 45: 0}  # of each gem; two photos that show another one


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    """A folder with features of three kinds, whose photos stand under three gems, two of them under a wrong one."""
    root = tmp_path_factory.mktemp("label_issues")
    labels = np.arange(3).repeat(PHOTOS)
    shown = labels.copy()
    shown[list(WRONG)] = list(WRONG.values())
    known = (
        np.random.default_rng(0).normal(np.tile(np.eye(3, 12), 2)[shown] * 8, 1, (3 * PHOTOS, 24)).astype(np.float32)
    )
    val = np.arange(3 * PHOTOS) % 5 == 4
    (root / "features").mkdir()
    rows, lines = [], []
    for part, inside in (("train", ~val), ("val", val)):
        places = np.flatnonzero(inside)
        np.savez(
            root / "features" / f"{part}.npz",
            features=known[places], labels=labels[places], files=places.astype(str), classes=np.array(GEMS),
            blocks=[12, 12],
        )  # fmt: skip
        for place in places:
            gem = GEMS[labels[place]]
            file = f"{gem}/{place}.jpg"
            (root / "clean" / gem).mkdir(parents=True, exist_ok=True)
            draw(int(place), size=(96, 72)).save(root / "clean" / file)
            rows.append((part, file, gem, place // 5 % 4))
            lines.append({"path": file, "sha256": hashlib.sha256(file.encode()).hexdigest()})
    pd.DataFrame(rows, columns=["part", "file", "gem", "fold"]).to_csv(root / "folds.csv", index=False)
    files.write_jsonl(root / "clean" / "manifest.jsonl", lines)
    return root


@pytest.fixture
def write(project: Path, tmp_path: Path, settings: Callable[..., Any]) -> Callable[..., pd.DataFrame]:
    def written(most: int = 50) -> pd.DataFrame:
        return label_issues.write(
            tmp_path / "page.html", features=project / "features", folds=project / "folds.csv",
            clean=project / "clean", params=settings().model.fusion, most=most,
        )  # fmt: skip

    return written


def test_names_planted_wrong_are_disputed(write: Callable[..., pd.DataFrame]) -> None:
    table = write()
    planted = {f"{GEMS[place // PHOTOS]}/{place}.jpg": GEMS[gem] for place, gem in WRONG.items()}
    assert dict(zip(table["path"], table["suggested"], strict=True)) == planted
    assert (table["suggested_prob"] > table["label_prob"]).all()


def test_more_photos_than_a_kernel_is_fitted_to_are_judged_too(
    write: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_issues, "MOST_FITTED", 30)
    assert set(write()["suggested"]) >= {GEMS[gem] for gem in WRONG.values()}


def test_the_page_shows_the_most_disputed_and_needs_no_other_file(
    write: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    table = write(most=1)
    page = Selector(text=(tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.css(".card::attr(data-path)").getall() == table["path"].tolist()[:1]
    assert all(source.startswith("data:") for source in page.css("[src]::attr(src), [href]::attr(href)").getall()
               if not source.startswith("#"))  # fmt: skip
    before = (tmp_path / "page.html").read_bytes()
    write(most=1)
    assert (tmp_path / "page.html").read_bytes() == before


def test_a_review_becomes_a_table_that_cleaning_reads(
    write: Callable[..., pd.DataFrame], browser: Any, tmp_path: Path
) -> None:
    table = write()
    page, told = browser.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on(
        "request", lambda request: told.append(request.url) if not request.url.startswith(("data:", "file:")) else 0
    )
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    first, second = page.locator(".card select").all()
    first.select_option(GEMS[1])
    second.select_option("drop")
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "corrections.csv")
    assert corrections.read(tmp_path / "corrections.csv") == dict(zip(table["photo"], [GEMS[1], "drop"], strict=True))
    assert told == []


def test_folds_of_other_photos_are_refused(
    project: Path, write: Callable[..., pd.DataFrame], tmp_path: Path, settings: Callable[..., Any]
) -> None:
    other = pd.read_csv(project / "folds.csv").iloc[1:]
    other.to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(DataError, match="of other photos than"):
        label_issues.write(
            tmp_path / "page.html", features=project / "features", folds=tmp_path / "folds.csv",
            clean=project / "clean", params=settings().model.fusion, most=5,
        )  # fmt: skip
