"""The explain stage on an untrained network: its page and its tables."""

import base64
import io
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scrapy import Selector

from gemmodel.core import params
from gemmodel.models import saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.train.cnn import cnn

QUICK = {
    "explain__photos": 4,
    "explain__occlusion": 2,
    "explain__comparison_photos": 1,
    "explain__steps": 2,
    "explain__smoothgrad_copies": 2,
    "explain__vargrad_copies": 2,
    "explain__vargrad_steps": 1,
    "explain__ablation_photos": 3,
}


@pytest.fixture(scope="module")
def explained(split_project: Any) -> Any:
    """The project after the stage. The model is untrained, so most of its predictions are wrong."""
    settings = params.load(split_project.root / "params.yaml")
    keras.utils.set_random_seed(0)
    network = cnn(settings.model.cnn, image_size=64, classes=4)
    gems = ["Citrine", "Malachite", "Ruby", "Turquoise"]
    reference = ReferenceSet(np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32), np.array(["1.png"] * 4))
    described = ModelMetadata(gems, dict.fromkeys(gems, "Stone"), Thresholds(0.9, 0.1, 1, 2.0), reference)
    saving.save(network, gems, split_project.root / "untrained", metadata=described)
    split_project.set(**QUICK)
    split_project.run("explain", options=["--model", "untrained"])
    split_project.set()
    return split_project


@pytest.fixture(scope="module")
def folder(explained: Any) -> Path:
    return Path(explained.root) / "reports" / "explanation"


def test_the_page_contains_all_its_pictures(folder: Path) -> None:
    page = Selector(text=(folder / "index.html").read_text(encoding="utf-8"))
    sources = page.css("img::attr(src), link::attr(href), script::attr(src)").getall()
    assert {source.partition(",")[0] for source in sources} == {
        "data:", "data:image/jpeg;base64", "data:image/png;base64",
    }  # fmt: skip
    pictures = [source.split("base64,")[1] for source in page.css("img::attr(src)").getall()]
    compared, perturbed = 1 * 2 * (1 + 5), len(pd.read_csv(folder / "ablation.csv"))
    assert len(pictures) == 4 + compared + perturbed + 2  # a photo each; ablation, feature maps
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).load()


def test_the_page_shows_the_predicted_gem_of_each_photo_and_the_actual_gem_of_a_wrong_one(folder: Path) -> None:
    page = Selector(text=(folder / "index.html").read_text(encoding="utf-8"))
    photos = pd.read_csv(folder / "photos.csv")
    captions = [caption.css("b::text").getall() for caption in page.css(".gallery figcaption")]
    expected = [[row.predicted] if row.right else [row.predicted, row.actual] for row in photos.itertuples()]
    assert captions == expected
    assert page.css(".gallery figcaption small::text").getall() == photos["file"].tolist()


def test_the_tables_have_the_numbers_of_photos_of_the_parameters(folder: Path) -> None:
    photos, checks, ablation = (pd.read_csv(folder / f"{name}.csv") for name in ("photos", "checks", "ablation"))
    assert len(photos) == 4
    assert photos["right"].tolist() == (photos["actual"] == photos["predicted"]).tolist()
    assert (~photos["right"]).sum() >= 2
    assert list(checks.columns[:3]) == ["photo", "gem", "completeness_error"]
    assert len(checks) == 1
    assert checks["occlusion"].between(-1, 1).all()
    assert ablation["perturbation"].iloc[0] == "unchanged"
    assert set(ablation["photos"]) == {3}


def test_explaining_twice_gives_the_same_bytes(explained: Any, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    explained.set(**QUICK)
    explained.run("explain", options=["--model", "untrained"])
    explained.set()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_damaged_model_is_refused_before_its_predictions(explained: Any, refused: Any) -> None:
    damaged = explained.root / "damaged"
    shutil.copytree(explained.root / "untrained", damaged)
    (damaged / "model.keras").write_bytes(b"damaged")
    ended = explained.stage("explain", "--model", "damaged")
    refused(ended, "explain", "damaged/model.keras: damaged", "`dvc checkout --force` restores models/")
    assert "predictions" not in ended.stdout
