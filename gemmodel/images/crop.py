"""Cropping a photo to its stone, which is found by edges or by colour.

Both methods work on a copy of 330 x 330 pixels, so that one threshold fits photos of every size; the crop is made in
the full photo. OpenCV is imported where it is used, so that a run without cropping does not load it.
"""

from typing import Literal

import numpy as np
from PIL import Image

Method = Literal["none", "canny", "otsu"]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the last two exclusive, as in Pillow

SIDE = 330  # pixels, from recipe 1.5: edges are detected at one and a half times its 220 pixels
MIN_SIDE = 0.1  # of the photo's side; a narrower box holds a scratch or a line, not a stone

CANNY_THRESHOLD = 220  # both thresholds, of OpenCV's gradient |dx| + |dy| in the colour channel where it is largest
PIXELS_PER_EDGE = 10_000  # more than one edge pixel in 10,000 pixels, or the edges are not trusted

BLUR = 9  # pixels; JPEG noise in saturation is of this scale
MIN_SATURATION = 32  # of 255; where Otsu's threshold lies lower, stone and background are both grey
MASK_FRACTIONS = (0.01, 0.9)  # of the photo; less is a speck, more is a photo without background
FRAME_FRACTION = 0.5  # of the photo's outermost pixels; a mask that holds more of them is the background
COMPONENT_FRACTION = 0.2  # of the largest component's pixels; smaller ones are reflections and captions
MARGIN = 0.03  # of the photo's side, since the blurred mask ends slightly inside the stone


def edges(image: Image.Image) -> np.ndarray:
    """Returns OpenCV's Canny edges of the colour image, bool of shape (330, 330)."""
    import cv2

    return cv2.Canny(_small(image), CANNY_THRESHOLD, CANNY_THRESHOLD) > 0


def foreground(image: Image.Image) -> np.ndarray:
    """Returns where the image is more saturated than Otsu's threshold, bool of shape (330, 330).

    Components that are small compared with the largest are left out. All values are False where the threshold does not
    separate a stone from a background, as with white and grey stones, which have no saturation.
    """
    import cv2

    saturation = cv2.cvtColor(cv2.GaussianBlur(_small(image), (BLUR, BLUR), 0), cv2.COLOR_RGB2HSV)[..., 1]
    threshold, mask = cv2.threshold(saturation, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    labels, components = cv2.connectedComponents(mask)
    sizes = np.bincount(components[mask > 0], minlength=labels)
    stone = (sizes >= COMPONENT_FRACTION * sizes.max())[components] & (mask > 0)
    frame = np.concatenate([stone[[0, -1]].ravel(), stone[1:-1, [0, -1]].ravel()])
    plausible = (
        threshold >= MIN_SATURATION
        and MASK_FRACTIONS[0] <= stone.mean() <= MASK_FRACTIONS[1]
        and frame.mean() <= FRAME_FRACTION
    )
    return stone & plausible


def canny_box(image: Image.Image) -> Box | None:
    """Returns the bounding box of the edges (recipe 1.5), or None where they are too few.

    The number of edge pixels is compared with the number of pixels of the image in which they are detected.
    """
    mask = edges(image)
    return _bounds(mask, image) if np.count_nonzero(mask) > mask.size / PIXELS_PER_EDGE else None


def otsu_box(image: Image.Image) -> Box | None:
    """Returns the bounding box of the saturated foreground with a margin, or None where there is none."""
    mask = foreground(image)
    return _bounds(mask, image, margin=round(MARGIN * SIDE)) if mask.any() else None


def crop(image: Image.Image, method: Method) -> tuple[Image.Image, Box | None]:
    """Crops a photo to its stone.

    Args:
        image: an upright RGB photo.
        method: how the stone is found.

    Returns:
        The cropped photo and its box; the photo itself and None where there is nothing to crop or the method found no
        stone.
    """
    box = BOXES[method](image)
    return (image.crop(box) if box else image), box


BOXES = {"none": lambda image: None, "canny": canny_box, "otsu": otsu_box}


def _small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def _bounds(mask: np.ndarray, image: Image.Image, margin: int = 0) -> Box | None:
    """Returns a mask's bounding box in pixels of the photo; None where it is the whole photo or too narrow."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right = max(int(columns[0]) - margin, 0), min(int(columns[-1]) + 1 + margin, SIDE)
    top, bottom = max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, SIDE)
    if min(right - left, bottom - top) < MIN_SIDE * SIDE or (left, top, right, bottom) == (0, 0, SIDE, SIDE):
        return None
    width, height = image.size
    return left * width // SIDE, top * height // SIDE, -(-right * width // SIDE), -(-bottom * height // SIDE)
