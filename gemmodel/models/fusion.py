"""Fusion of a backbone's features with colour: a softmax head, and the whole as one graph from pixels on."""

import keras
import numpy as np
from keras import layers, ops

from gemmodel.params import FusionParams


def head(params: FusionParams, features: np.ndarray, *, classes: int) -> keras.Model:
    """Returns an untrained softmax head that standardises its input by the training features.

    Args:
        params: `clip` bounds the standardised features, `dropout` their share left out in training.
        features: the training features, shape (photos, features).
        classes: the number of classes.

    Returns:
        A model from features of shape (batch, features) to probabilities of shape (batch, classes).
    """
    known = keras.Input((features.shape[1],), name="features")
    standardise = layers.Normalization(name="standardise")
    standardise.adapt(features)
    x = ops.clip(standardise(known), -params.clip, params.clip)
    x = layers.Dropout(params.dropout)(x)
    return keras.Model(known, layers.Dense(classes, activation="softmax", name="gem")(x), name="head")


def attach(extractor: keras.Model, head: keras.Model) -> keras.Model:
    """Joins a feature extractor and a trained head to one model from pixels in [0, 255] to probabilities."""
    return keras.Model(extractor.inputs, head(extractor.outputs[0]), name="fusion")
