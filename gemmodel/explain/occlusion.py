"""Occlusion, for any model: the fall of a prediction's score where a part of the photo is blurred. NumPy and Pillow.

After Matthew Zeiler and Rob Fergus, arXiv 1311.2901, but with a blur (Ruth Fong and Andrea Vedaldi, arXiv 1704.03296):
a grey square on a white background would itself be a visible object.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFilter

CELLS = 10  # per side of the map
MARGIN = 1  # further cells blurred around each cell: one cell alone may hide too little of a stone to matter
BLUR = 0.1  # radius, as a fraction of the photo's side


def occlusion(
    scores: Callable[[Iterator[np.ndarray]], np.ndarray],
    pixels: np.ndarray,
    *,
    cells: int = CELLS,
    margin: int = MARGIN,
) -> np.ndarray:
    """Returns how much each part of a photo supports a prediction: the fall of its score where that part is blurred.

    Args:
        scores: a function of photos (side, side, 3) to their scores, float (photos,), such as a log probability.
        pixels: of the photo, uint8 (side, side, 3).
        cells: per side of the map.
        margin: further cells blurred on all sides of each cell.

    Returns:
        Signed, float (cells, cells): values above 0 support the prediction.
    """
    edges = np.linspace(0, len(pixels), cells + 1).astype(int)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * len(pixels))))

    def around(cell: int) -> slice:
        return slice(edges[max(cell - margin, 0)], edges[min(cell + margin + 1, cells)])

    def occluded() -> Iterator[np.ndarray]:
        yield pixels
        for row in range(cells):
            for column in range(cells):
                copy = pixels.copy()
                copy[around(row), around(column)] = blurred[around(row), around(column)]
                yield copy

    values = scores(occluded())
    return (values[0] - values[1:]).reshape(cells, cells)
