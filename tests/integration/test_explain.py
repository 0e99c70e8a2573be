"""The stage that explains, on an untrained network: its page as a person opens it."""

import base64
import io
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import pytest
from PIL import Image
from scrapy import Selector

from gemmodel.core import params
from gemmodel.models import saving
from gemmodel.train.cnn import cnn

QUICK = {
    "explain__photos": 4,
    "explain__occlusion": 2,
    "explain__compared": 1,
    "explain__steps": 2,
    "explain__smoothgrad_copies": 2,
    "explain__vargrad_copies": 2,
    "explain__vargrad_steps": 1,
    "explain__measured": 3,
}


@pytest.fixture(scope="module")
def explained(split_project: Any) -> Any:
    """The project after the stage; its model knows nothing, so that most of its answers are wrong."""
    settings = params.load(split_project.root / "params.yaml")
    keras.utils.set_random_seed(0)
    network = cnn(settings.model.cnn, image_size=64, classes=4)
    saving.save(network, ["Citrine", "Malachite", "Ruby", "Turquoise"], split_project.root / "untrained")
    split_project.set(**QUICK)
    split_project.run("explain", options=["--model", "untrained"])
    split_project.set()
    return split_project


@pytest.fixture(scope="module")
def folder(explained: Any) -> Path:
    return Path(explained.root) / "reports" / "explanation"


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    page = Selector(text=(folder / "index.html").read_text(encoding="utf-8"))
    sources = page.css("img::attr(src), link::attr(href), script::attr(src)").getall()
    assert all(source.startswith("data:") for source in sources)
    pictures = [source.split("base64,")[1] for source in page.css("img::attr(src)").getall()]
    assert len(pictures) == 4 + 4
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).load()
    assert len(page.css("figcaption b::text").getall()) >= 4


def test_its_tables_hold_what_was_asked_for(folder: Path) -> None:
    photos, checks, changes = (pd.read_csv(folder / f"{name}.csv") for name in ("photos", "checks", "ablation"))
    assert len(photos) == 4
    assert (photos["right"] == (photos["actual"] == photos["predicted"])).all()
    assert (~photos["right"]).sum() >= 2
    assert len(checks) == 1
    assert checks["occlusion"].between(-1, 1).all()
    assert changes["change"].iloc[0] == "unchanged"
    assert set(changes["photos"]) == {3}


def test_explaining_twice_gives_the_same_bytes(explained: Any, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    explained.set(**QUICK)
    explained.run("explain", options=["--model", "untrained"])
    explained.set()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
