"""The one augmentation, to disk and on the fly: Keras preprocessing layers."""

import hashlib
from pathlib import Path

import keras
import numpy as np
from keras import layers
from PIL import Image
from tqdm import tqdm

from gemmodel.data import folders, images
from gemmodel.params import AugmentParams


def augmenter(params: AugmentParams, *, seed: int) -> keras.Sequential:
    """Returns the augmentation as a model that acts in training only.

    No layer changes a colour: hue and saturation are what tells gems apart. New edges repeat the nearest pixel.

    Args:
        params: `rotation` in degrees, the others as shares of the picture's side.
        seed: of the random transformations.

    Returns:
        A model on pixels of shape (batch, height, width, 3) in [0, 255] that keeps shape and range.
    """
    flips = {
        (True, True): "horizontal_and_vertical",
        (True, False): "horizontal",
        (False, True): "vertical",
    }
    fill = {"fill_mode": "nearest"}
    steps: list[keras.Layer] = []
    if flip := flips.get((params.horizontal_flip, params.vertical_flip)):
        steps.append(layers.RandomFlip(flip, seed=seed))
    if params.rotation:
        steps.append(layers.RandomRotation(params.rotation / 360, seed=seed + 1, **fill))
    if params.shift:
        steps.append(layers.RandomTranslation(params.shift, params.shift, seed=seed + 2, **fill))
    if params.shear:
        steps.append(layers.RandomShear(params.shear, params.shear, seed=seed + 3, **fill))
    if params.zoom:
        zoom = (-params.zoom, params.zoom)
        steps.append(layers.RandomZoom(zoom, zoom, seed=seed + 4, **fill))
    return keras.Sequential(steps or [layers.Identity()], name="augmenter")


def augment(train: Path, out: Path, params: AugmentParams, *, image_size: int, seed: int) -> dict[str, int]:
    """Writes augmented copies of training photos as JPEGs of one size.

    Each class's copies are spread evenly over its photos. A copy depends on the seed, the photo's name and its own
    number alone, so a new photo changes no other's copies but their number.

    Args:
        train: a folder a class.
        out: becomes a folder a class of `<photo>_<number>.jpg`.
        params: what is done, and `images_per_class`.
        image_size: side of the copies in pixels.
        seed: of the transformations.

    Returns:
        The number of copies by class.
    """
    model = augmenter(params, seed=seed)
    written = {}
    with folders.replacing(out) as new:
        new.mkdir()
        for name, paths in tqdm(folders.photos(train).items(), "augment", unit=" classes", disable=None):
            (new / name).mkdir()
            for place, path in enumerate(paths):
                copies = len(range(place, params.images_per_class, len(paths)))
                if copies:
                    pixels = np.repeat(images.load(path, image_size)[np.newaxis], copies, axis=0)
                    reseed(model, f"{seed}/{name}/{path.name}")
                    for number, copy in enumerate(np.asarray(model(pixels.astype(np.float32), training=True))):
                        picture = Image.fromarray(np.clip(np.rint(copy), 0, 255).astype(np.uint8))
                        picture.save(new / name / f"{path.stem}_{number}.jpg", **images.JPEG)
            written[name] = params.images_per_class
    return written


def reseed(model: keras.Sequential, text: str) -> None:
    """Lets what an augmenter does next depend on a text alone."""
    random = [layer for layer in model.layers if hasattr(layer, "generator")]
    for number, layer in enumerate(random):
        digest = hashlib.sha256(f"{text}/{number}".encode()).digest()
        layer.generator.state.assign(np.frombuffer(digest[:8], np.uint32))
