"""What the web page makes of a model and of photos, without a browser and a network."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemmodel.models import metadata
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata, TrainingPhotos
from gemmodel.serve import about, feedback, predictions, stones
from gemmodel.serve.predictor import Predictor
from gemmodel.serve.recent import ModelPhoto, RecentPhotos

CLASSES = ["Emerald", "Pyrope", "Ruby"]
METADATA = ModelMetadata(
    classes=CLASSES,
    hierarchy={"Emerald": "Beryl", "Pyrope": "Garnet", "Ruby": "Corundum"},
    thresholds=Thresholds(coverage=0.9, set_threshold=0.25, neighbours=1, unknown_distance=0.4),
    reference=ReferenceSet(
        embedding=np.eye(3, dtype=np.float32),
        labels=np.arange(3, dtype=np.int32),
        files=np.array(["Emerald/e.jpg", "Pyrope/p.jpg", "Ruby/r.jpg"]),
    ),
    training=TrainingPhotos(["minerals"], {"Emerald": 4, "Pyrope": 5, "Ruby": 6}),
)
RUBY, PYROPE = np.array([[0.1, 0.1, 0.8]]), np.array([[0.1, 0.5, 0.4]])
NEAR_RUBY, FAR = np.array([[0, 0, 1.0]]), np.array([[0, 0, 0.1]])


def test_equal_photos_of_a_stone_give_the_answer_of_one_of_them() -> None:
    alone = predictions.to_predictions(RUBY, NEAR_RUBY, METADATA)[0]
    joined = stones.join(np.repeat(RUBY, 3, axis=0), np.repeat(NEAR_RUBY, 3, axis=0), METADATA)
    assert joined.gem == alone.gem
    assert joined.probability == pytest.approx(alone.probability)
    assert (joined.prediction_set, joined.unknown, joined.nearest) == (["Ruby"], False, alone.nearest)


def test_photos_of_a_stone_are_joined_by_their_geometric_mean() -> None:
    joined = stones.join(np.concatenate([RUBY, PYROPE]), np.concatenate([NEAR_RUBY, NEAR_RUBY]), METADATA)
    mean = np.sqrt(RUBY * PYROPE)[0]
    assert dict(joined.top) == pytest.approx(dict(zip(CLASSES, mean / mean.sum(), strict=True)))


@pytest.mark.parametrize(("far", "unknown"), [(0, False), (1, False), (2, True), (3, True)])
def test_stone_is_unknown_where_half_of_its_photos_are(far: int, unknown: bool) -> None:
    embedding = np.concatenate([FAR] * far + [NEAR_RUBY] * (4 - far))
    assert stones.join(np.repeat(RUBY, 4, axis=0), embedding, METADATA).unknown == unknown


def test_what_a_model_was_trained_on_is_recorded_and_described(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["Emerald", "Pyrope", "Ruby"]')
    metadata.write(METADATA, tmp_path)
    read = metadata.read(tmp_path)
    assert read.training == METADATA.training
    described = about.describe(read, ["reference/0", "reference/1", "reference/2"])
    assert (described["sources"], described["rendered"], described["photos"]) == (["minerals"], False, 15)
    ruby = {"gem": "Ruby", "mineral_class": "Corundum", "photos": 6, "pictures": ["reference/2"]}
    assert described["gems"][2] == ruby
    (tmp_path / "training.json").unlink()  # a folder of a former version
    described = about.describe(metadata.read(tmp_path), [])
    assert (described["sources"], described["rendered"], described["photos"]) == (None, None, None)
    assert described["gems"][2] == ruby | {"photos": None, "pictures": []}


def test_feedback_is_written_once_and_no_more_than_the_folder_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3000, 100), "red").save(file, "PNG")
    written = [feedback.save(file.getvalue(), gem, tmp_path, classes=CLASSES) for gem in (" ruby ", "RUBY", "Ruby")]
    assert written == [tmp_path / "Ruby" / written[0].name] * 3
    with Image.open(written[0]) as image:
        assert (image.format, image.size) == ("JPEG", (2048, 68))
    monkeypatch.setattr(feedback, "MAX_PHOTOS", 1)
    with pytest.raises(feedback.FolderFullError, match="1 photos wait for a review"):
        feedback.save(file.getvalue(), "Emerald", tmp_path, classes=CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["Ruby"]


def test_photos_are_forgotten_by_number_and_by_age() -> None:
    photo = ModelPhoto(np.zeros((2, 2, 3), np.uint8), RUBY, NEAR_RUBY, Predictor.__new__(Predictor))

    async def keep() -> None:
        few = RecentPhotos(max_photos=2)
        tokens = [few.add(photo) for _ in range(3)]
        assert [few.get(token) is photo for token in tokens] == [False, True, True]
        brief = RecentPhotos(max_age_s=0)
        assert brief.get(brief.add(photo)) is None

    asyncio.run(keep())
