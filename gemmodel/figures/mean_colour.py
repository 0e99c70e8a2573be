"""The mean colour of a gem's photos, to stand for the gem in diagrams."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 64  # pixels of the photo that is looked at


def of_photo(photo: Image.Image) -> np.ndarray:
    """Returns the mean colour of a photo's centre, where grey pixels have little weight.

    Args:
        photo: RGB, of any size.

    Returns:
        float of shape (3,) in [0, 1].
    """
    small = photo.copy()
    small.thumbnail((SIDE, SIDE))
    pixels = np.asarray(small, np.float32) / 255
    height, width = pixels.shape[:2]
    centre = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4].reshape(-1, 3)
    chroma = np.ptp(centre, axis=1) + 0.02  # grey pixels within a coloured stone are reflections
    return np.asarray(np.average(centre, axis=0, weights=chroma))


def by_gem(gems: Sequence[str], colours: Sequence[np.ndarray]) -> dict[str, tuple[float, float, float]]:
    """Returns each gem's mean colour in [0, 1], in alphabetical order of the gems.

    Args:
        gems: of the photos.
        colours: of the photos, as `of_photo` returns them.
    """
    values, names = np.array(colours), np.array(gems)
    means = {gem: values[names == gem].mean(axis=0) for gem in sorted(set(gems))}
    return {gem: (float(red), float(green), float(blue)) for gem, (red, green, blue) in means.items()}


def to_hex(colour: Sequence[float]) -> str:
    """Returns a colour of values in [0, 1] as `#rrggbb`."""
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in colour)
