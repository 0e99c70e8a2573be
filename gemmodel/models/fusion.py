"""Fusion of a backbone's features with colour: a head on features, and the whole as one graph from pixels on."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from gemmodel.core.params import FusionParams
from gemmodel.models.joint_probability import JointProbability

EPS = 1e-7  # a probability whose logarithm is taken


def softmax_head(
    params: FusionParams, features: np.ndarray, *, classes: int, parents: Sequence[int] = ()
) -> keras.Model:
    """Returns an untrained softmax head that standardises its input by the training features.

    Args:
        params: `clip` bounds the standardised features, `dropout` their share left out in training.
        features: the training features, shape (photos, features).
        classes: the number of classes.
        parents: of `labels: separate`, the mineral class's index of each class.

    Returns:
        A model from features of shape (batch, features) to probabilities of shape (batch, classes).
    """
    known, x = standardised(params, features)
    x = layers.Dropout(params.dropout)(x)
    if params.labels == "all":
        return keras.Model(known, layers.Dense(classes, activation="softmax", name="gem")(x), name="head")
    primary = layers.Dense(max(parents) + 1, activation="softmax", name="mineral_class")(x)
    x = JointProbability(parents=parents, name="joint")([primary, layers.Dense(classes, name="gem")(x)])
    return keras.Model(known, x, name="head")


def standardised(params: FusionParams, features: np.ndarray) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    known = keras.Input((features.shape[1],), name="features")
    standardise = layers.Normalization(name="standardise")
    standardise.adapt(features)
    return known, ops.clip(standardise(known), -params.clip, params.clip)


def attach(extractor: keras.Model, head: keras.Model) -> keras.Model:
    """Joins a feature extractor and a trained head to one model from pixels in [0, 255] to probabilities."""
    return keras.Model(extractor.inputs, head(extractor.outputs[0]), name="fusion")


def ensemble(model: keras.Model, other: keras.Model, *, weights: tuple[float, float]) -> keras.Model:
    """Joins two models from pixels to probabilities to one, softmax(a * log p + b * log q).

    Args:
        model: what `attach` made; its layers stay layers of the joined model.
        other: one layer of it.
        weights: a and b.
    """
    told = (model.outputs[0], other(model.inputs[0]))
    logs = [
        layers.Rescaling(weight)(ops.log(ops.maximum(part, EPS))) for part, weight in zip(told, weights, strict=True)
    ]
    return keras.Model(model.inputs, layers.Softmax(name="joined")(layers.Add()(logs)), name="fusion")
