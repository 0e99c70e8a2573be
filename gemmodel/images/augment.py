"""The only augmentation, for copies on disk and on the fly (`train/augmentation.py`): one resampling by OpenCV."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from joblib import cpu_count
from PIL import Image
from tqdm import tqdm

from gemmodel.core import files, image_folder
from gemmodel.core.params import AugmentParams
from gemmodel.images import decode

BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}
DRAWS = 9  # of each copy: angle, and in x and y each: shears, zooms, shifts, flips


def warp(image: np.ndarray, draws: np.ndarray, params: AugmentParams) -> np.ndarray:
    """Flips, rotates, shears, zooms and shifts an image about its centre, in one resampling.

    Keras' own five layers resample four times, which blurs, and take 2.5 times as long. Colours stay, since gems differ
    by hue and saturation.

    Args:
        image: square, uint8 or float32 of shape (side, side, 3).
        draws: random values in [-1, 1], shape (DRAWS,); a flip is one below 0.
        params: `rotation` in degrees, the others as fractions of the image's side.

    Returns:
        An image of the same shape and type.
    """
    side, centre = len(image), (len(image) - 1) / 2
    turn, shear_x, shear_y, zoom_x, zoom_y, shift_x, shift_y, flip_x, flip_y = draws.astype(float).tolist()
    angle, shear_x, shear_y = turn * math.radians(params.rotation), shear_x * params.shear, shear_y * params.shear
    sine, cosine = math.sin(angle), math.cos(angle)
    zoom_x, zoom_y = 1 + zoom_x * params.zoom, 1 + zoom_y * params.zoom
    zoom_x *= -1 if params.horizontal_flip and flip_x < 0 else 1
    zoom_y *= -1 if params.vertical_flip and flip_y < 0 else 1
    # From the position of a new pixel to that of an old one: zoom @ rotation @ shear.
    rows = (
        (zoom_x * (cosine - sine * shear_y), zoom_x * (cosine * shear_x - sine), shift_x),
        (zoom_y * (sine + cosine * shear_y), zoom_y * (sine * shear_x + cosine), shift_y),
    )
    matrix = np.array([[x, y, centre * (1 - x - y) + shift * params.shift * side] for x, y, shift in rows], np.float32)
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, BORDERS[params.fill]
    return cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=border)


def write_copies(
    train: Path, out: Path, params: AugmentParams, *, image_size: int, seed: int, workers: int = 0
) -> dict[str, int]:
    """Writes augmented copies of training photos as JPEGs of one size.

    The copies of a class are distributed evenly over its photos. A copy depends only on the seed, the photo's name and
    its own number. So a new photo changes how many copies the others get, not the copies, and the bytes are the same
    for any number of workers.

    Args:
        train: one folder per class.
        out: the output, one folder per class of `<photo>_<number>.jpg`; a class without copies has none.
        params: the transformations, and how many copies: `images_per_class`, or as many as a class lacks of
            `target_per_class`.
        image_size: side of the copies in pixels.
        seed: of the transformations.
        workers: photos at a time; 0: one per core.

    Returns:
        The number of copies by class.
    """
    copies_by_class = {}
    with files.atomic_write(out) as new:
        new.mkdir()
        tasks = []
        for name, paths in image_folder.list_images(train).items():
            count = max(0, params.target_per_class - len(paths)) if params.target_per_class else params.images_per_class
            copies_by_class[name] = count
            for i, path in enumerate(paths[:count]):
                (new / name).mkdir(exist_ok=True)
                tasks.append((path, new / name, len(range(i, count, len(paths)))))

        def write(path: Path, folder: Path, copies: int) -> None:
            pixels = decode.load(path, image_size)
            for i, copy in enumerate(_copies(pixels, f"{seed}/{folder.name}/{path.name}", copies, params)):
                Image.fromarray(copy).save(folder / f"{path.stem}_{i}.jpg", **decode.JPEG)

        # Threads: Pillow and OpenCV release Python's lock.
        with ThreadPoolExecutor(workers or cpu_count()) as pool:
            done = pool.map(write, *zip(*tasks, strict=True)) if tasks else ()
            for _ in tqdm(done, "augment", total=len(tasks), unit=" photos", disable=None):
                pass
    return copies_by_class


def write_examples(
    train: Path, out: Path, params: AugmentParams, *, image_size: int, seed: int, gems: int = 5, copies: int = 7
) -> None:
    """Writes examples for a report: of some gems their first photo and copies of it, as used in training.

    Args:
        train: one folder per class.
        out: the output, one folder per gem of `0.png`, the photo, and its copies `1.png`, `2.png` ...
        params: the transformations.
        image_size: side of the pictures in pixels.
        seed: of the transformations.
        gems: how many, evenly spaced in alphabetical order.
        copies: of each photo.
    """
    photos = image_folder.list_images(train)
    with files.atomic_write(out) as new:
        for gem in list(photos)[:: max(1, len(photos) // gems)][:gems]:
            (new / gem).mkdir(parents=True)
            pixels = decode.load(photos[gem][0], image_size)
            augmented = _copies(pixels, f"{seed}/{photos[gem][0].name}", copies, params)
            for i, image in enumerate([pixels, *augmented]):
                Image.fromarray(image).save(new / gem / f"{i}.png")


def _copies(pixels: np.ndarray, text: str, count: int, params: AugmentParams) -> list[np.ndarray]:
    """Returns copies of a photo, uint8 of shape (side, side, 3); the text seeds them."""
    image = pixels.astype(np.float32)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))
    # One row per copy, so that one copy more does not change the others. Pixels are rounded once.
    return [
        np.rint(warp(image, draws, params)).clip(0, 255).astype(np.uint8)
        for draws in rng.uniform(-1, 1, (count, DRAWS))
    ]
