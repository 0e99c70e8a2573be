"""A trained model opened for explaining: its score, its gradients and its feature maps, whatever the architecture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from gemmodel.embed.extractor import ColourHistogram

BATCH = 8  # photos; larger batches leave the processor's caches
EPS = 1e-30  # of a probability, so that its logarithm is finite

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


@dataclass(frozen=True)
class LayerOutput:
    """What one layer makes of a photo: a symbolic tensor, of a map of shape (batch, height, width, channels)."""

    layer: keras.Layer
    tensor: keras.KerasTensor


class Explainer:
    """A classifier whose inside can be looked at.

    The score is the log odds of a class, log p - log (1 - p): unlike p it does not level off where the model is sure,
    and it means the same whatever the last layer is (Marko Robnik-Šikonja and Igor Kononenko, "Explaining
    Classifications For Individual Instances", IEEE TKDE 2008; Luisa Zintgraf and others, arXiv 1702.04595).

    Colour histograms have no gradient, for a pixel falls into one bin or another. So wherever gradients are taken,
    the histograms can be held at those of a given photo; then the score is smooth, and gradients tell all of it.
    """

    def __init__(self, model: keras.Model) -> None:
        """Opens a model from pixels (batch, side, side, 3) in [0, 255] to probabilities (batch, classes)."""
        opened, self.maps, histograms = _with_maps(model)
        self.side: int = model.input_shape[1]
        self.colours = [known.layer for known in histograms]
        inputs = [opened.inputs[0], *(known.tensor for known in histograms)]
        self.model = keras.Model(inputs, [opened.outputs[0], *(known.tensor for known in self.maps)])

    def probabilities(self, pixels: np.ndarray, *, held: np.ndarray | None = None) -> np.ndarray:
        """Returns the probabilities of all classes.

        Args:
            pixels: shape (photos, side, side, 3), in [0, 255].
            held: the photo that the colour histograms are taken of, shape (side, side, 3); None: of each its own.

        Returns:
            float32 of shape (photos, classes).
        """
        return _batched(self._probabilities, pixels, held)

    def score(self, pixels: np.ndarray, target: int, *, held: np.ndarray | None = None) -> np.ndarray:
        """Returns the log odds of a class, float32 of shape (photos,); its arguments are those of `probabilities`."""
        return _log_odds(tf.constant(self.probabilities(pixels, held=held)), target).numpy()

    def gradients(self, pixels: np.ndarray, target: int, *, held: np.ndarray) -> np.ndarray:
        """Returns the gradients of `score` by the pixels, of the pixels' shape."""
        return _batched(lambda x, y: self._gradients(x, y, target)[0], pixels, held)

    def last_map(self, photo: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the coarsest map of a photo that is not pooled and the score's gradient by it, (h, w, channels)."""
        x = tf.constant(photo[None], tf.float32)
        _, values, gradients = self._gradients(x, x, target)
        return values.numpy()[0], gradients.numpy()[0]

    def feature_maps(self, photo: np.ndarray) -> list[np.ndarray]:
        """Returns what each of `maps` is for a photo, of shape (height, width, channels) each."""
        x = tf.constant(photo[None], tf.float32)
        return [np.asarray(values)[0] for values in self._call(x, x)[1:]]

    @cached_property
    def _probabilities(self) -> Callable[..., Any]:
        pixels = self._pixels
        return tf.function(lambda x, held: self._call(x, held)[0], input_signature=[pixels, pixels])

    @cached_property
    def _gradients(self) -> Callable[..., Any]:
        last = max(place for place, known in enumerate(self.maps) if not isinstance(known.layer, POOLINGS))

        def gradients(x: Any, held: Any, target: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                probabilities, *maps = self._call(x, held)
                score = _log_odds(probabilities, target)
            by_pixels, by_map = tape.gradient(score, [x, maps[last]], unconnected_gradients="zero")
            return by_pixels, maps[last], by_map

        return tf.function(gradients, input_signature=[self._pixels, self._pixels, tf.TensorSpec((), tf.int32)])

    def _call(self, x: Any, held: Any) -> Any:
        histograms = (layer(held) for layer in self.colours)
        held_ones = [tf.broadcast_to(known, (tf.shape(x)[0], known.shape[-1])) for known in histograms]
        return self.model([x, *held_ones], training=False)

    @property
    def _pixels(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, self.side, self.side, 3), tf.float32)  # one graph for batches of any size

    @contextmanager
    def randomised(self, seed: int) -> Iterator[None]:
        """Shuffles each kernel's weights while the context lasts: what is left is the architecture."""
        rng = np.random.default_rng(seed)
        kernels = [variable for variable in self.model.variables if len(variable.shape) > 1]
        trained = [variable.numpy() for variable in kernels]
        try:
            for variable, values in zip(kernels, trained, strict=True):
                variable.assign(rng.permutation(values.ravel()).reshape(values.shape))
            yield
        finally:
            for variable, values in zip(kernels, trained, strict=True):
                variable.assign(values)


def _log_odds(probabilities: Any, target: Any) -> Any:
    chosen = tf.one_hot(target, probabilities.shape[-1], dtype=probabilities.dtype)
    # 1 - p by the sum of the others: the difference would be 0 where p rounds to 1.
    p, others = (tf.reduce_sum(probabilities * mask, axis=-1) for mask in (chosen, 1 - chosen))
    return tf.math.log(tf.maximum(p, EPS)) - tf.math.log(tf.maximum(others, EPS))


def _batched(function: Callable[..., Any], pixels: np.ndarray, held: np.ndarray | None) -> np.ndarray:
    parts = []
    for start in range(0, len(pixels), BATCH):
        x = tf.constant(pixels[start : start + BATCH], tf.float32)
        parts.append(function(x, x if held is None else tf.constant(held[None], tf.float32)).numpy())
    return np.concatenate(parts)


def _with_maps(model: keras.Model) -> tuple[keras.Model, list[LayerOutput], list[LayerOutput]]:
    """Returns the model on the same weights, its layers' maps at their first call, and its colour histograms.

    An activation inside a convolution becomes a layer of its own, so that the map before it can be seen. Models inside
    the model are opened too.
    """
    maps: list[LayerOutput] = []
    histograms: list[LayerOutput] = []
    inner: dict[int, tuple[keras.Model, list[LayerOutput]]] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            return call_model(layer, *args, **kwargs)
        if isinstance(layer, CONVOLUTIONS) and layer.activation is not keras.activations.linear:
            bare = type(layer).from_config(layer.get_config() | {"activation": None})
            x = record(bare, bare(*args, **kwargs))
            bare.set_weights(layer.get_weights())
            name = f"{layer.name}_{layer.activation.__name__}"
            layer, args, kwargs = layers.Activation(layer.activation, name=name), (x,), {}
        return record(layer, layer(*args, **kwargs))

    def record(layer: Any, x: Any) -> Any:
        if isinstance(layer, ColourHistogram):
            histograms.append(LayerOutput(layer, x))
        is_map = isinstance(x, keras.KerasTensor) and len(x.shape) == 4 and min(x.shape[1:3]) > 1
        if is_map and isinstance(layer, keras.Layer) and layer not in [known.layer for known in maps]:
            maps.append(LayerOutput(layer, x))
        return x

    def call_model(model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        first = id(model) not in inner
        if first:
            opened, below, _ = _with_maps(model)
            inner[id(model)] = keras.Model(opened.inputs, [*opened.outputs, *(known.tensor for known in below)]), below
        with_maps, below = inner[id(model)]
        results = keras.tree.flatten(with_maps(*args, **kwargs))
        outputs, tensors = results[: len(model.outputs)], results[len(model.outputs) :]
        if first:
            maps.extend(LayerOutput(known.layer, tensor) for known, tensor in zip(below, tensors, strict=True))
        return outputs if len(outputs) > 1 else outputs[0]

    opened = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    return opened, maps, histograms
