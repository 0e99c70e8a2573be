"""A backbone file for tests: built, called and exported in a fraction of a real one's time."""

from pathlib import Path

import yaml

NAME = "backbones/tiny.keras"  # for `embed.backbone`
LAST_LAYER = "coarse"
DESCRIPTION = {
    "image_size": 64,
    "channels": "last",
    "mean": 127.5,
    "std": 127.5,
    "maps": ["fine", LAST_LAYER],
    "tokens": [],
    "vectors": [],
    "licence": "MIT",
}


def write(folder: Path) -> None:
    """Write the file, of random weights, and its description into a project's `backbones` folder."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((64, 64, 3))
    fine = layers.Conv2D(8, 3, 4, padding="same", activation="relu", name="fine")(image)
    coarse = layers.Conv2D(16, 3, 4, padding="same", activation="relu", name=LAST_LAYER)(fine)
    keras.Model(image, {"fine": fine, LAST_LAYER: coarse}).save(folder / Path(NAME).name)
    (folder / Path(NAME).with_suffix(".yaml").name).write_text(yaml.safe_dump(DESCRIPTION), encoding="utf-8")
