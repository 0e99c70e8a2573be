"""A photo is recognised whatever its file is called and however it was saved."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from gemmodel.core.errors import DataError
from gemmodel.register import fingerprints

Draw = Callable[..., Image.Image]


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    """Writes pictures of one class into a part's folder, as PNG, so that pixels stay the same."""

    def write(name: str, *pictures: Image.Image) -> Path:
        for i, picture in enumerate(pictures):
            path = tmp_path / name / "Ruby" / f"{name}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        return tmp_path / name

    return write


def test_the_same_pixels_are_a_leak(part: Callable[..., Path], draw: Draw) -> None:
    train = fingerprints.table(part("train", draw(1), draw(2)))
    test = fingerprints.table(part("test", draw(3), draw(2)))
    assert fingerprints.find_leaked(test, train, train) == ["Ruby/test_1.png"]
    assert fingerprints.find_leaked(test, train[:1], train[:1]) == []


@pytest.mark.parametrize("change", ["half", "mirrored"])
def test_a_changed_copy_is_a_leak_unless_cleaning_has_compared_the_two(
    part: Callable[..., Path], draw: Draw, change: str
) -> None:
    picture = draw(2, size=(320, 240))
    copy = ImageOps.mirror(picture) if change == "mirrored" else picture.resize((160, 120))
    train, test = fingerprints.table(part("train", draw(1), picture)), fingerprints.table(part("test", copy))
    assert fingerprints.find_leaked(test, train, train[:1]) == ["Ruby/test_0.png"]
    assert fingerprints.find_leaked(test, train, train) == []


def test_predictions_for_other_photos_are_refused(part: Callable[..., Path], draw: Draw, tmp_path: Path) -> None:
    test, predictions = part("test", draw(1), draw(2)), tmp_path / "predictions.csv"
    with pytest.raises(DataError, match="no such file"):
        fingerprints.with_predictions(test, predictions)
    predictions.write_text("file,predicted\nRuby/test_1.png,NA\nRuby/test_0.png,Ruby\n")
    assert fingerprints.with_predictions(test, predictions)["predicted"].tolist() == ["Ruby", "NA"]
    predictions.write_text("file,predicted\nRuby/test_1.png,Ruby\n")
    with pytest.raises(DataError, match="dvc repro evaluate"):
        fingerprints.with_predictions(test, predictions)
