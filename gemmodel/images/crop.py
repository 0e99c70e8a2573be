"""Cutting a photo down to its stone, found by edges or by colour.

Both methods look at a copy of 330 x 330 pixels, so that one threshold serves photos of every size; the cut itself is
made in the full photo. OpenCV is imported where it is used: whoever does not crop does not pay for it.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    pass

Method = Literal["none", "canny", "otsu"]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the last two exclusive, as Pillow has it

SIDE = 330  # pixels; what recipe 1.5's author detected edges at, one and a half times his 220
LEAST_SIDE = 0.1  # of the photo's side; a narrower box holds a scratch or a line, no stone

CANNY_THRESHOLD = 220  # both of them, of OpenCV's gradient |dx| + |dy| in the colour channel where it is largest
EDGES_IN_SIZE = 10_000  # more than one edge pixel in so many, else there is no edge to trust

BLUR = 9  # pixels; JPEG noise in saturation is of this scale
LEAST_SATURATION = 32  # of 255; where Otsu's threshold lies lower, stone and background are both grey
MASK_SHARES = (0.01, 0.9)  # of the photo; less is a speck, more is a photo with no background
FRAME_SHARE = 0.5  # of the photo's outermost pixels; a mask that holds more of them is the background
COMPONENT_SHARE = 0.2  # of the largest component's pixels; smaller ones are reflections and captions
MARGIN = 0.03  # of the photo's side; the blurred mask ends a little inside the stone


def edges(image: Image.Image) -> np.ndarray:
    """Returns OpenCV's Canny edges of the colour picture, bool of shape (330, 330)."""
    import cv2

    return cv2.Canny(_small(image), CANNY_THRESHOLD, CANNY_THRESHOLD) > 0


def foreground(image: Image.Image) -> np.ndarray:
    """Returns where the picture is more saturated than Otsu's threshold, bool of shape (330, 330).

    Components that are small beside the largest are left out. All False where the threshold parts no stone from a
    background: white and grey stones have no saturation to be found by.
    """
    import cv2

    saturation = cv2.cvtColor(cv2.GaussianBlur(_small(image), (BLUR, BLUR), 0), cv2.COLOR_RGB2HSV)[..., 1]
    threshold, mask = cv2.threshold(saturation, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    number, components = cv2.connectedComponents(mask)
    sizes = np.bincount(components[mask > 0], minlength=number)
    found = (sizes >= COMPONENT_SHARE * sizes.max())[components] & (mask > 0)
    frame = np.concatenate([found[[0, -1]].ravel(), found[1:-1, [0, -1]].ravel()])
    plausible = (
        threshold >= LEAST_SATURATION
        and MASK_SHARES[0] <= found.mean() <= MASK_SHARES[1]
        and frame.mean() <= FRAME_SHARE
    )
    return found & plausible


def canny_box(image: Image.Image) -> Box | None:
    """Returns the bounding box of the edges (recipe 1.5), or None where there are too few of them to cut by.

    The size that the number of edge pixels is compared with is the number of pixels that edges are looked for in.
    """
    found = edges(image)
    return _bounds(found, image) if np.count_nonzero(found) > found.size / EDGES_IN_SIZE else None


def otsu_box(image: Image.Image) -> Box | None:
    """Returns the bounding box of the saturated foreground with a margin, or None where there is none to trust."""
    found = foreground(image)
    return _bounds(found, image, margin=round(MARGIN * SIDE)) if found.any() else None


def crop(image: Image.Image, method: Method) -> tuple[Image.Image, Box | None]:
    """Cuts a photo down to its stone.

    Args:
        image: an upright RGB photo.
        method: how the stone is found.

    Returns:
        The cut photo and the box it was cut by; the photo itself and None where there is nothing to cut away or the
        method found no stone.
    """
    box = BOXES[method](image)
    return (image.crop(box) if box else image), box


BOXES = {"none": lambda image: None, "canny": canny_box, "otsu": otsu_box}


def _small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def _bounds(mask: np.ndarray, image: Image.Image, margin: int = 0) -> Box | None:
    """Returns the bounding box of a mask in the photo's own pixels; None where it is the whole photo or no stone."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right = max(int(columns[0]) - margin, 0), min(int(columns[-1]) + 1 + margin, SIDE)
    top, bottom = max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, SIDE)
    if min(right - left, bottom - top) < LEAST_SIDE * SIDE or (left, top, right, bottom) == (0, 0, SIDE, SIDE):
        return None
    width, height = image.size
    return left * width // SIDE, top * height // SIDE, -(-right * width // SIDE), -(-bottom * height // SIDE)
