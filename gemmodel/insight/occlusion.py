"""Why an answer, for any model that tells probabilities: what blurring a part of the photo takes from its gem.

After Matthew Zeiler and Rob Fergus, arXiv 1311.2901, but blurred (Ruth Fong and Andrea Vedaldi, arXiv 1704.03296): a
grey square on a white background would itself be something to see. NumPy alone.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFilter

CELLS = 10  # a side of the map
PATCH = 3  # cells a side of what is blurred: a smaller one hides too little of a stone to matter
BLUR = 0.1  # of the photo's side, radius


def occlusion(
    probabilities: Callable[[Iterator[np.ndarray]], np.ndarray], pixels: np.ndarray, target: int
) -> np.ndarray:
    """Returns how much each part of a photo speaks for a class: the mean fall of its log probability when blurred.

    Args:
        probabilities: from pixels (side, side, 3) each to float (photos, classes).
        pixels: of the photo, uint8 (side, side, 3).
        target: the class.

    Returns:
        Signed, float (CELLS, CELLS): above 0 speaks for the class.
    """
    edges = np.linspace(0, len(pixels), CELLS + 1).astype(int)
    reach = PATCH // 2
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * len(pixels))))
    places = [(row, column) for row in range(CELLS) for column in range(CELLS)]

    def covered() -> Iterator[np.ndarray]:
        yield pixels
        for row, column in places:
            part = (
                slice(edges[max(row - reach, 0)], edges[min(row + reach + 1, CELLS)]),
                slice(edges[max(column - reach, 0)], edges[min(column + reach + 1, CELLS)]),
            )
            copy = pixels.copy()
            copy[part] = blurred[part]
            yield copy

    logs = np.log(np.maximum(probabilities(covered())[:, target], 1e-9))
    return (logs[0] - logs[1:]).reshape(CELLS, CELLS)


def overlay(pixels: np.ndarray, fall: np.ndarray) -> Image.Image:
    """Returns a photo beside itself with the map laid over: red speaks for the class, blue against it."""
    photo = Image.fromarray(pixels)
    strength = Image.fromarray((fall / max(np.abs(fall).max(), 1e-9)).astype(np.float32)).resize(
        photo.size, Image.Resampling.BICUBIC
    )
    share = np.clip(np.asarray(strength), -1, 1)[..., None]
    colour = np.where(share > 0, (214, 39, 24), (33, 102, 172))
    grey = np.asarray(photo.convert("L").convert("RGB"))
    mixed = grey * (1 - 0.75 * np.abs(share)) + colour * 0.75 * np.abs(share)
    both = Image.fromarray(np.concatenate([pixels, mixed.round().astype(np.uint8)], axis=1))
    return both.resize((2 * both.width, 2 * both.height), Image.Resampling.BICUBIC)
