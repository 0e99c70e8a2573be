"""A photo is known again, whatever its file is called or how it was saved."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from gemmodel.core.errors import DataError
from gemmodel.register import fingerprints

Draw = Callable[..., Image.Image]


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures into a folder of one class each, as PNG, so that pixels stay."""

    def write(name: str, *pictures: Image.Image) -> Path:
        for number, picture in enumerate(pictures):
            path = tmp_path / name / "Ruby" / f"{name}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        return tmp_path / name

    return write


def test_the_same_pixels_are_seen(part: Callable[..., Path], draw: Draw) -> None:
    train, test = part("train", draw(1), draw(2)), part("test", draw(3), draw(2))
    learnt, asked = fingerprints.table(train), fingerprints.table(test)
    assert fingerprints.find_leaked(asked, learnt, learnt) == ["Ruby/test_1.png"]
    assert fingerprints.find_leaked(asked, learnt[:1], learnt[:1]) == []


@pytest.mark.parametrize("change", ["half", "mirrored"])
def test_a_changed_copy_is_seen_unless_cleaning_has_compared_the_two(
    part: Callable[..., Path], draw: Draw, change: str
) -> None:
    picture = draw(2, size=(320, 240))
    copy = ImageOps.mirror(picture) if change == "mirrored" else picture.resize((160, 120))
    learnt, asked = fingerprints.table(part("train", draw(1), picture)), fingerprints.table(part("test", copy))
    assert fingerprints.find_leaked(asked, learnt, learnt[:1]) == ["Ruby/test_0.png"]
    assert fingerprints.find_leaked(asked, learnt, learnt) == []


def test_answers_to_other_photos_are_refused(part: Callable[..., Path], draw: Draw, tmp_path: Path) -> None:
    test, answers = part("test", draw(1), draw(2)), tmp_path / "predictions.csv"
    with pytest.raises(DataError, match="no such file"):
        fingerprints.with_predictions(test, answers)
    answers.write_text("file,predicted\nRuby/test_1.png,NA\nRuby/test_0.png,Ruby\n")
    assert fingerprints.with_predictions(test, answers)["predicted"].tolist() == ["Ruby", "NA"]
    answers.write_text("file,predicted\nRuby/test_1.png,Ruby\n")
    with pytest.raises(DataError, match="dvc repro evaluate"):
        fingerprints.with_predictions(test, answers)
