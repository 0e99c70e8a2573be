"""Heat maps over photos, for a page, a command or a web service: red supports the predicted class.

In maps with a sign blue opposes it.
"""

import numpy as np
from PIL import Image

FOR, AGAINST = np.array([214.0, 39.0, 24.0]), np.array([33.0, 102.0, 172.0])
MAX_OPACITY = 0.75  # where a map is strongest
PERCENTILE = 99.0  # of a map's absolute values, taken for its maximum: single pixels must not outshine the rest
SMOOTHING = 0.015  # of the side: std of the Gaussian that makes a map of single pixels legible


def overlay(photo: np.ndarray, values: np.ndarray) -> Image.Image:
    """Draws a map over a photo in grey.

    Args:
        photo: uint8 of shape (side, side, 3).
        values: of any height and width, signed or not; a coarse map is interpolated.

    Returns:
        An RGB picture of the photo's size.
    """
    side = len(photo)
    heat = np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
    if len(values) == side:
        from scipy.ndimage import gaussian_filter  # here, since predicting needs no SciPy

        heat = gaussian_filter(heat, SMOOTHING * side)
    lowest = -1 if values.min() < 0 else 0  # the interpolation swings below the values
    heat = np.clip(heat / max(float(np.percentile(np.abs(heat), PERCENTILE)), 1e-12), lowest, 1)[..., None]
    grey = np.asarray(Image.fromarray(photo).convert("L"), np.float32)[..., None]
    opacity = MAX_OPACITY * np.abs(heat)
    blended = (1 - opacity) * grey + opacity * np.where(heat > 0, FOR, AGAINST)
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def side_by_side(photo: np.ndarray, values: np.ndarray, *, side: int = 448) -> Image.Image:
    """Returns a photo and, on its right, its `overlay`, each `side` pixels wide and high."""
    both = Image.new("RGB", (2 * side, side))
    for i, picture in enumerate((Image.fromarray(photo), overlay(photo, values))):
        both.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (i * side, 0))
    return both
