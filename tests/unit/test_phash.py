"""Perceptual hashes: a changed copy has a near hash, another picture a far one."""

import io
from collections.abc import Callable

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from gemmodel.images.phash import phash, thumbnails

Draw = Callable[..., Image.Image]


def hashes(image: Image.Image) -> np.ndarray:
    return phash(thumbnails(image)[1])


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


def test_thumbnails_have_a_fixed_size_and_mode(draw: Draw) -> None:
    colour, grey = thumbnails(draw(1, size=(500, 90)))
    assert (colour.mode, colour.size) == ("RGB", (64, 64))
    assert (grey.mode, grey.size) == ("L", (32, 32))


def test_the_hashes_are_those_of_imagehash(draw: Draw) -> None:
    grey = thumbnails(draw(1))[1]
    assert phash(grey).dtype == np.uint64
    expected = [imagehash.phash(grey), imagehash.phash(ImageOps.mirror(grey))]
    # ImageHash prints the bits in their order, from the first one on; in uint64 the first byte is the lowest.
    assert [bits.tobytes().hex() for bits in phash(grey)] == [str(bits) for bits in expected]


@pytest.mark.parametrize(
    "change", [recompressed, lambda image: image.resize((70, 50))], ids=["recompressed", "smaller"]
)
def test_a_copy_has_a_near_hash_and_another_picture_a_far_one(
    draw: Draw, change: Callable[[Image.Image], Image.Image]
) -> None:
    original, copy, other = hashes(draw(1)), hashes(change(draw(1))), hashes(draw(2))
    assert np.bitwise_count(original ^ copy).max() <= 6
    assert np.bitwise_count(original ^ other).min() >= 16  # two random hashes differ by 32 of 64 bits, +- 4


def test_the_second_hash_is_that_of_the_mirror_image(draw: Draw) -> None:
    assert hashes(ImageOps.mirror(draw(3))).tolist() == hashes(draw(3))[::-1].tolist()
