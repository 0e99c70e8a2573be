"""Perceptual hashes: they recognise a photo that was rescaled, recompressed or mirrored."""

import imagehash
import numpy as np
from PIL import Image, ImageOps

COLOUR_SIDE, GREY_SIDE = 64, 32  # pixels of the two thumbnails


def thumbnails(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Returns two thumbnails of an RGB image of any size: RGB of 64 x 64 pixels, and grey of 32 x 32."""
    colour = image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return colour, colour.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX)


def phash(grey: Image.Image) -> np.ndarray:
    """Returns ImageHash's `phash` of a grey thumbnail and of its mirror image, uint64 of shape (2,)."""
    bits = [imagehash.phash(view).hash.ravel() for view in (grey, ImageOps.mirror(grey))]
    return np.packbits(bits, 1).view(np.uint64).ravel()
