"""Transfer learning: a backbone trained on ImageNet with a new head."""

import keras
from keras import layers

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import TransferParams
from gemmodel.embed.backbones import backbone


def transfer(params: TransferParams, *, image_size: int, classes: int) -> keras.Model:
    """Returns a backbone, its last map averaged, and an untrained head.

    Args:
        params: the backbone, its weights and the head's dense layers.
        image_size: side of the square input in pixels.
        classes: the number of classes.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to probabilities.

    Raises:
        ModelError: the backbone or its weights are not known.
        ParameterError: no layer is named as `unfreeze` says.
    """
    base = backbone(params.backbone, weights=params.weights, image_size=image_size)
    x = layers.GlobalAveragePooling2D(name="pooled")(base.outputs[-1])
    for units in params.dense:
        x = layers.Dense(units, activation="relu")(layers.Dropout(params.dropout)(x))
    x = layers.Dropout(params.dropout)(x)
    x = layers.Dense(classes, activation="softmax", dtype="float32", name="gem")(x)
    model = keras.Model(base.inputs[0], x, name="transfer")
    if params.unfreeze != "none":
        _place(model, params.unfreeze)  # refused now rather than after the first phase
    return model


def freeze(model: keras.Model, *, below: str) -> keras.Layer:
    """Lets only the layers from a named one on learn; batch norm keeps its statistics and its scale everywhere.

    Args:
        model: a backbone with a head, changed in place; to be compiled afterwards.
        below: the beginning of that layer's name; `pooled` lets the head alone learn.

    Returns:
        That layer.

    Raises:
        ParameterError: no layer is named so.
    """
    first = _place(model, below)
    for place, layer in enumerate(model.layers):
        layer.trainable = place >= first and not isinstance(layer, layers.BatchNormalization)
    return model.layers[first]


def _place(model: keras.Model, beginning: str) -> int:
    """Returns the place among the layers of the first one whose name begins so."""
    names = [layer.name for layer in model.layers]
    for place, name in enumerate(names):
        if name.startswith(beginning):
            return place
    raise ParameterError(f"unfreeze: no layer's name begins with {beginning!r}; some are {', '.join(names[-40::4])}")
