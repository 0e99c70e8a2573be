"""Duplicates: copies are found, other stones are not, and the number of candidates grows linearly."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from gemmodel.clean import duplicates
from gemmodel.core.params import CleanParams, Params
from gemmodel.images import decode

Draw = Callable[..., Image.Image]


@pytest.fixture
def limits(settings: Callable[..., Params]) -> CleanParams:
    return settings().clean


def test_a_descriptor_is_small_and_predicts_that_of_the_mirror_image(draw: Draw) -> None:
    descriptor, mirrored = (duplicates.describe(picture) for picture in (draw(1), ImageOps.mirror(draw(1))))
    assert [view.shape for view in descriptor.views] == [(1, 16, 16), (1, 32, 32), (3, 64, 64)]
    # Grey levels: the thumbnails are rounded to whole ones, twice.
    np.testing.assert_allclose(descriptor.layout * duplicates.MIRRORED, mirrored.layout, atol=0.5)
    assert descriptor.hashes[::-1].tolist() == mirrored.hashes.tolist()
    assert descriptor.layout[0] == pytest.approx(np.asarray(draw(1).convert("L")).mean(), abs=1)


def test_candidates_are_unique_and_few(limits: CleanParams) -> None:
    layouts = np.random.default_rng(0).normal(0, 3, (3000, 12))
    pairs = duplicates.candidates(layouts)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs) <= 2 * duplicates.NEIGHBOURS * len(layouts)
    assert len(duplicates.candidates(np.zeros((3000, 12)))) <= 2 * duplicates.NEIGHBOURS * 3000
    assert len(duplicates.candidates(layouts[:2] + np.array([[0], [100]]))) == 0


@pytest.mark.parametrize("left", [0, 8, 16])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_recognised(draw: Draw, limits: CleanParams, left: int, mirrored: bool) -> None:
    whole = draw(3, size=(320, 240))
    part = whole.crop((left, 12 - left // 2, left + 304, 12 - left // 2 + 228))
    descriptors = [
        duplicates.describe(picture) for picture in (whole, ImageOps.mirror(part) if mirrored else part, draw(4))
    ]
    pairs = np.array([(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 2, 0)])
    assert duplicates.verify_pairs(descriptors, pairs, limits).tolist() == [not mirrored, mirrored, False, False]
    assert duplicates.duplicate_groups(descriptors, limits) == [[0, 1]]


def test_a_chain_becomes_several_groups_if_its_ends_differ(draw: Draw, limits: CleanParams) -> None:
    wide = draw(5, size=(800, 300))
    steps = [wide.crop((left, 0, left + 400, 300)) for left in range(0, 400, 25)]
    descriptors = [duplicates.describe(step) for step in steps]
    near = np.array([(i, i + 1, 0) for i in range(len(descriptors) - 1)])
    assert duplicates.verify_pairs(descriptors, near, limits).sum() > 4, "neighbours are duplicates"
    groups = duplicates.duplicate_groups(descriptors, limits)
    assert groups
    for first, *others in groups:
        pairs = np.array([(first, other, 0) for other in others])
        assert duplicates.verify_pairs(descriptors, pairs, limits).all()


def test_many_copies_are_one_group(draw: Draw, limits: CleanParams) -> None:
    def copy(quality: int) -> Image.Image:
        file = io.BytesIO()
        draw(6).save(file, "JPEG", quality=quality)
        return Image.open(file)

    descriptors = [duplicates.describe(copy(quality)) for quality in range(95, 35, -1)]  # more than NEIGHBOURS
    assert duplicates.duplicate_groups(descriptors, limits) == [list(range(60))]


def test_one_photo_or_none_has_no_duplicate(draw: Draw, limits: CleanParams) -> None:
    assert duplicates.duplicate_groups([], limits) == []
    assert duplicates.duplicate_groups([duplicates.describe(draw(1))], limits) == []


def test_cabochons_of_one_outline_on_white_are_not_duplicates(limits: CleanParams) -> None:
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    stone = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    shade = 120 - 60 * (x + y)

    def cabochon(seed: int) -> Image.Image:
        veins = Image.fromarray(np.random.default_rng(seed).uniform(0, 60, (14, 14)).astype(np.uint8))
        texture = np.asarray(veins.resize((160, 160), Image.Resampling.BICUBIC), float)
        grey = np.where(stone, shade + texture - 30, 255).clip(0, 255)
        return Image.fromarray(np.stack([grey, 0.6 * grey + 0.4 * 255 * ~stone, grey], axis=2).astype(np.uint8))

    descriptors = [duplicates.describe(cabochon(seed)) for seed in range(12)]
    assert len(duplicates.candidates(np.stack([descriptor.layout for descriptor in descriptors]))) > 12, (
        "their layouts are similar"
    )
    assert duplicates.duplicate_groups(descriptors, limits) == []
    assert duplicates.duplicate_groups(descriptors, dataclasses.replace(limits, similarity=0.2)), (
        "without the fine detail they would be"
    )


@pytest.mark.photos
def test_of_real_photos_only_the_copies_are_duplicates(real_gems: Path, limits: CleanParams) -> None:
    photos = [decode.read(path) for path in sorted(real_gems.glob("*/*_0.jpg"))]
    crops = [
        p.crop((round(0.02 * p.width), round(0.01 * p.height), round(0.97 * p.width), round(0.96 * p.height)))
        for p in photos
    ]
    copies = [ImageOps.mirror(crop).resize((crop.width * 3 // 4, crop.height * 3 // 4)) for crop in crops]
    groups = duplicates.duplicate_groups([duplicates.describe(picture) for picture in photos + copies], limits)
    expected = {(i, i + len(photos)) for i in range(len(photos))}
    pairs = {tuple(group) for group in groups}
    assert len(pairs & expected) >= 0.95 * len(expected)
    assert len(pairs - expected) <= 0.02 * len(pairs)
