"""Fusion of a backbone's features with colour: parts of its head, and the whole as one graph from pixels."""

import keras
import numpy as np
from keras import layers, ops

from gemmodel.models.saving import READ, with_embedding

EPS = 1e-7  # the smallest probability whose logarithm is taken


def standardise(mean: np.ndarray, variance: np.ndarray, *, clip: float) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the input of a head, and the standardised and clipped features, both of shape (batch, features).

    Args:
        mean: of the training features, shape (features,).
        variance: of the training features, shape (features,).
        clip: in standard deviations.
    """
    inputs = keras.Input(mean.shape, name="features")
    layer = layers.Normalization(name="standardise")
    layer.build((None, *mean.shape))
    layer.adapt_mean.assign(mean)  # as weights: given to the constructor they would be text in the model's config
    layer.adapt_variance.assign(variance)
    layer.finalize_state()
    return inputs, ops.clip(layer(inputs), -clip, clip)


def attach(extractor: keras.Model, head: keras.Model) -> keras.Model:
    """Combines a feature extractor and a trained head to a model from pixels in [0, 255].

    Returns:
        A model to [probabilities, embedding], as `saving.with_embedding` gives them for the head.
    """
    return keras.Model(extractor.inputs[0], with_embedding(head)(extractor.outputs[0]), name="fusion")


def ensemble(model: keras.Model, other: keras.Model, *, weights: tuple[float, float]) -> keras.Model:
    """Combines two models from pixels with probabilities p and q to one with softmax(a * log p + b * log q).

    Args:
        model: a result of `attach`; its layers stay layers of the combined model, whose embedding is this model's.
        other: to probabilities only, named `saving.NETWORK`; becomes one layer of the combined model.
        weights: a and b.
    """
    probs = (model.outputs[0], layers.Identity(name=READ[1])(other(model.inputs[0])))
    log_probs = [layers.Rescaling(w)(ops.log(ops.maximum(p, EPS))) for p, w in zip(probs, weights, strict=True)]
    combined = layers.Softmax(name="ensemble")(layers.Add()(log_probs))
    return keras.Model(model.inputs[0], [combined, model.outputs[1]], name="fusion")
