"""Cropping: the box fits the stone closely, and a photo without a stone is not cropped."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from gemmodel.clean import cleaning
from gemmodel.core import files
from gemmodel.core.params import Params
from gemmodel.describe import plots
from gemmodel.images import crop, decode

METHODS = ("canny", "otsu")
Stone = Callable[..., Image.Image]


def stone(
    *, box: tuple[int, int, int, int] = (200, 90, 440, 330), colour: Any = (170, 20, 60), background: Any = "white"
) -> Image.Image:
    """An ellipse that fills a box, on a plain background of 640 x 400 pixels."""
    picture = Image.new("RGB", (640, 400), background)
    ImageDraw.Draw(picture).ellipse((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(1))


def noise() -> Image.Image:
    values = np.random.default_rng(0).normal(200, 3, (400, 640, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("background", ["white", (125, 125, 125), (15, 15, 15)])
@pytest.mark.parametrize("box", [(200, 90, 440, 330), (20, 40, 150, 360), (300, 150, 600, 250)])
def test_the_box_fits_a_coloured_stone(method: Any, background: Any, box: crop.Box) -> None:
    picture = stone(box=box, colour=(230, 40, 60), background=background)
    cropped, (left, top, right, bottom) = crop.crop(picture, method)
    # Otsu's box has a margin of 3 %, and both methods work on 330 pixels a side.
    assert np.abs(np.subtract((left, top, right, bottom), box)).max() <= 0.05 * max(picture.size)
    assert left - 2 <= box[0] and top - 2 <= box[1] and right + 2 >= box[2] and bottom + 2 >= box[3]
    assert cropped.size == (right - left, bottom - top)
    assert cropped.tobytes() == picture.crop((left, top, right, bottom)).tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_the_box_is_in_pixels_of_the_photo(method: Any) -> None:
    picture = stone()
    small, large = (crop.crop(picture.resize(size), method)[1] for size in ((320, 200), (2560, 1600)))
    assert small is not None and large is not None
    # Three of the 330 pixels of a side: edges of resized images differ by a pixel or two.
    assert np.abs(np.array(small) / 320 - np.array(large) / 2560).max() < 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("picture", [Image.new("RGB", (640, 400), "red"), noise(), Image.new("RGB", (64, 64))])
def test_a_photo_without_a_stone_is_not_cropped(method: Any, picture: Image.Image) -> None:
    assert crop.crop(picture, method) == (picture, None)


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_the_crop_does_not_depend_on_the_number_of_threads(method: Any, draw: Callable[..., Image.Image]) -> None:
    threads = cv2.getNumThreads()
    for picture in (stone(), draw(1, size=(900, 700), tint=(1, 0.4, 0.1)), noise()):
        first = crop.crop(picture, method)
        for count in (1, 2, 4):
            cv2.setNumThreads(count)
            again = crop.crop(picture, method)
            assert (again[0].tobytes(), again[1]) == (first[0].tobytes(), first[1])
    cv2.setNumThreads(threads)


@pytest.mark.parametrize("grey", ["white", (90, 90, 90), (10, 10, 10), (190, 196, 199)])
def test_a_grey_stone_is_not_cropped_by_colour(grey: Any) -> None:
    assert crop.otsu_box(stone(colour=grey, background=(235, 235, 235))) is None


def test_a_grey_stone_is_cropped_by_its_edges() -> None:
    box = crop.canny_box(stone(colour=(60, 60, 60)))
    assert box is not None
    assert np.abs(np.subtract(box, (200, 90, 440, 330))).max() <= 8


def test_a_coloured_background_is_not_a_stone() -> None:
    assert crop.otsu_box(stone(colour=(120, 120, 120), background=(30, 60, 200))) is None


def test_the_box_holds_two_stones_but_no_speck() -> None:
    picture = stone(box=(60, 100, 260, 300))
    ImageDraw.Draw(picture).ellipse((340, 100, 540, 300), fill=(20, 120, 40))
    ImageDraw.Draw(picture).ellipse((600, 370, 610, 380), fill=(20, 120, 40))
    box = crop.otsu_box(picture)
    assert box is not None
    assert box[0] <= 60 and 541 <= box[2] < 590
    assert box[3] < 340


@pytest.mark.parametrize("count", [10, 11])
def test_canny_needs_more_than_one_edge_pixel_in_ten_thousand(monkeypatch: Any, count: int) -> None:
    """330 x 330 / 10,000 = 10.89, so ten edge pixels are too few and eleven are enough."""
    mask = np.zeros((crop.SIDE, crop.SIDE), bool)
    mask.ravel()[np.linspace(100 * crop.SIDE + 50, 200 * crop.SIDE + 250, count).astype(int)] = True
    monkeypatch.setattr(crop, "edges", lambda image: mask)
    box = crop.canny_box(Image.new("RGB", (crop.SIDE, crop.SIDE)))
    assert (box is None) == (count == 10)


def test_edges_are_detected_between_colours() -> None:
    """Two colours of one brightness have an edge between them, which a grey image would not have."""
    picture = Image.new("RGB", (crop.SIDE, crop.SIDE), (210, 60, 60))
    picture.paste((0, 167, 60), (100, 100, 200, 200))
    assert np.ptp(np.asarray(picture.convert("L"))) <= 1
    assert crop.canny_box(picture) is not None


@pytest.mark.parametrize("method", METHODS)
def test_a_line_is_not_a_stone(method: Any) -> None:
    picture = Image.new("RGB", (640, 400), "white")
    picture.paste((200, 0, 0), (0, 200, 640, 212))
    assert crop.crop(picture, method)[1] is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("picture", [stone(), Image.new("RGB", (640, 400), "red")], ids=["stone", "flat"])
def test_the_panels_show_original_mask_box_and_crop(method: Any, picture: Image.Image) -> None:
    (original, _), (mask, words), (boxed, _), (panel, size) = plots.crop_panels(picture, method)
    assert words == {"canny": "edges", "otsu": "stone (white)"}[method]
    assert original.size == mask.size == boxed.size == picture.size
    cropped, box = crop.crop(picture, method)
    assert (boxed.tobytes() == picture.tobytes()) == (box is None)
    assert panel.size == cropped.size
    assert f"{cropped.width} x {cropped.height}" in size


def test_opencv_is_not_imported_without_a_crop(run: Callable[..., Any], tmp_path: Path) -> None:
    ended = run("-c", "import stages.clean, sys; print('cv2' in sys.modules)", cwd=tmp_path)
    assert ended.stdout.strip() == "False", ended.stderr
    assert "cv2" in sys.modules


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_cleaning_writes_the_crop(tmp_path: Path, settings: Callable[..., Params], method: str) -> None:
    (tmp_path / "raw/Gem").mkdir(parents=True)
    rotated = Image.Exif()
    rotated[274] = 6  # by a quarter turn
    stone().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "raw/Gem/turned.jpg", exif=rotated, **decode.JPEG)
    noise().save(tmp_path / "raw/Gem/whole.jpg", **decode.JPEG)
    lines = [
        {"path": f"Gem/{name}.jpg", "gem": "Gem", "number": number} for number, name in enumerate(("turned", "whole"))
    ]
    files.write_jsonl(tmp_path / "raw/manifest.jsonl", lines)
    cleaning.clean(
        tmp_path / "raw", tmp_path / "clean", settings({"clean.crop": method, "clean.min_contrast": 0}).clean
    )
    turned, whole = files.read_jsonl(tmp_path / "clean/manifest.jsonl")
    assert "box" not in whole and whole["conversions"] == []
    assert (tmp_path / "clean/Gem/gem_1.jpg").read_bytes() == (tmp_path / "raw/Gem/whole.jpg").read_bytes()
    with Image.open(tmp_path / "clean/Gem/gem_0.jpg") as written:
        assert written.format == "JPEG"
        if method == "none":
            assert "box" not in turned and turned["conversions"] == ["turned upright"]
            assert written.size == (640, 400)
        else:
            left, top, right, bottom = turned["box"]
            assert turned["conversions"] == ["turned upright", "cropped"]
            assert written.size == (right - left, bottom - top)
            assert np.abs(np.subtract(turned["box"], (200, 90, 440, 330))).max() <= 32  # 5 % of the width, as above


@pytest.mark.photos
@pytest.mark.parametrize("method", METHODS)
def test_most_real_stones_are_cropped(real_gems: Path, method: Any) -> None:
    cropped = 0
    for folder in sorted(real_gems.iterdir())[::3]:
        picture = decode.read(sorted(folder.iterdir())[0])
        cut_out, box = crop.crop(picture, method)
        cropped += box is not None
        left, top, right, bottom = box or (0, 0, *picture.size)
        assert 0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height
        assert cut_out.size == (right - left, bottom - top)
        assert cut_out.width >= 0.1 * picture.width and cut_out.height >= 0.1 * picture.height
    assert cropped > 0.7 * 29
