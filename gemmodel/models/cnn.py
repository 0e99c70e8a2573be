"""A plain convolutional network: convolution and pooling in turn, then dense layers."""

import keras
from keras import layers

from gemmodel.errors import ParameterError
from gemmodel.params import CnnParams


def cnn(params: CnnParams, *, image_size: int, classes: int) -> keras.Model:
    """Returns an untrained network (the defaults are LSIND's for 87 gems: 2,792,855 parameters at 220 pixels).

    Args:
        params: one `filters` and one `pooling` entry a block.
        image_size: side of the square input in pixels.
        classes: the number of classes.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to probabilities.

    Raises:
        ParameterError: the blocks do not fit each other or the image.
    """
    if len(params.pooling) != len(params.filters):
        raise ParameterError(
            f"model.cnn.pooling has {len(params.pooling)} entries and model.cnn.filters has {len(params.filters)}; "
            "give one of each a block"
        )
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 255, name="scaling")(pixels)
    for filters, pooling in zip(params.filters, params.pooling, strict=True):
        if min(x.shape[1:3]) < (2 if params.padding == "same" else params.kernel + 1):
            raise ParameterError(
                f"base.image_size of {image_size} pixels is too small for {len(params.filters)} blocks"
            )
        x = layers.Conv2D(filters, params.kernel, padding=params.padding, activation="relu")(x)
        x = pool[pooling](2)(x)
    x = layers.Dropout(params.dropout)(layers.Flatten()(x))
    x = layers.Dense(params.dense, activation="relu")(x)
    return keras.Model(pixels, layers.Dense(classes, activation="softmax", dtype="float32", name="gem")(x), name="cnn")
