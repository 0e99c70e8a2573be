"""Transfer learning: a backbone trained on ImageNet with a new head."""

import keras
from keras import layers

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import TransferParams
from gemmodel.embed.backbones.backbone import backbone, last_map


def transfer(params: TransferParams, *, image_size: int, classes: int) -> keras.Model:
    """Returns a backbone with an untrained head on the mean of its last map.

    Args:
        params: the backbone, its weights and the dense layers of the head.
        image_size: side of the square input in pixels.
        classes: the number of classes.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to probabilities.

    Raises:
        ModelError: the backbone or its weights are unknown.
        ParameterError: no layer's name begins with `unfreeze`.
    """
    base = backbone(params.backbone, weights=params.weights, image_size=image_size)
    x = layers.GlobalAveragePooling2D(name="pooled")(last_map(base))
    for units in params.dense:
        x = layers.Dense(units, activation="relu")(layers.Dropout(params.dropout)(x))
    x = layers.Dropout(params.dropout)(x)
    x = layers.Dense(classes, activation="softmax", dtype="float32", name="gem")(x)
    model = keras.Model(base.inputs[0], x, name="transfer")
    if params.unfreeze != "none":
        _layer_index(model, params.unfreeze)  # fails now, not after the first phase
    return model


def freeze(model: keras.Model, *, below: str) -> keras.Layer:
    """Makes only the layers from a named one on trainable; batch norm keeps its statistics and scale everywhere.

    Args:
        model: a backbone with a head, changed in place; to be compiled afterwards.
        below: the beginning of the name of the first trainable layer; `pooled` leaves only the head trainable.

    Returns:
        The first trainable layer.

    Raises:
        ParameterError: no layer has such a name.
    """
    first = _layer_index(model, below)
    for i, layer in enumerate(model.layers):
        layer.trainable = i >= first and not isinstance(layer, layers.BatchNormalization)
    return model.layers[first]


def _layer_index(model: keras.Model, prefix: str) -> int:
    """Returns the index of the first layer whose name begins with a prefix."""
    names = [layer.name for layer in model.layers]
    for i, name in enumerate(names):
        if name.startswith(prefix):
            return i
    raise ParameterError(f"unfreeze: no layer's name begins with {prefix!r}; some are {', '.join(names[-40::4])}")
