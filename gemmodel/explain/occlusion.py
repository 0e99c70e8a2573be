"""Why an answer, for any model: what blurring a part of the photo takes from it. NumPy and Pillow alone.

After Matthew Zeiler and Rob Fergus, arXiv 1311.2901, but blurred (Ruth Fong and Andrea Vedaldi, arXiv 1704.03296): a
grey square on a white background would itself be something to see.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFilter

CELLS = 10  # a side of the map
REACH = 1  # cells blurred all around one; alone it may hide too little of a stone to matter
BLUR = 0.1  # of the photo's side, radius


def occlusion(
    scores: Callable[[Iterator[np.ndarray]], np.ndarray], pixels: np.ndarray, *, cells: int = CELLS, reach: int = REACH
) -> np.ndarray:
    """Returns how much each part of a photo speaks for an answer: by how much its score falls where that is blurred.

    Args:
        scores: of photos (side, side, 3) each, such as the log probability of a class, float (photos,).
        pixels: of the photo, uint8 (side, side, 3).
        cells: a side of the map.
        reach: cells that are blurred all around each.

    Returns:
        Signed, float (cells, cells): above 0 speaks for the answer.
    """
    edges = np.linspace(0, len(pixels), cells + 1).astype(int)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * len(pixels))))

    def around(cell: int) -> slice:
        return slice(edges[max(cell - reach, 0)], edges[min(cell + reach + 1, cells)])

    def covered() -> Iterator[np.ndarray]:
        yield pixels
        for row in range(cells):
            for column in range(cells):
                copy = pixels.copy()
                copy[around(row), around(column)] = blurred[around(row), around(column)]
                yield copy

    found = scores(covered())
    return (found[0] - found[1:]).reshape(cells, cells)
