"""The inside of a trained model of any architecture: its score, its gradients and its feature maps."""

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

BATCH = 8  # photos; larger batches do not fit the processor's caches
EPS = 1e-30  # the least probability, so that its logarithm is finite

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


@dataclass(frozen=True)
class LayerOutput:
    """A layer and its symbolic output; that of a map has the shape (batch, height, width, channels)."""

    layer: keras.Layer
    tensor: keras.KerasTensor


class Explainer:
    """A classifier's score of a class, its gradients and its feature maps.

    The score is the log odds of a class, log p - log (1 - p). Unlike p it does not saturate where the model is
    confident, and it means the same for every kind of last layer (Marko Robnik-Šikonja and Igor Kononenko, "Explaining
    Classifications For Individual Instances", IEEE TKDE 2008; Luisa Zintgraf and others, arXiv 1702.04595).

    Colour histograms count pixels in bins, so they have no gradient. Methods that use gradients therefore keep the
    histograms constant, at those of a given photo: then the score is smooth in the pixels.

    Attributes:
        side: of the input in pixels.
        maps: the layers whose output is a feature map, in their order.
        histograms: the layers that compute colour histograms; none in most architectures.
        model: from pixels and histograms to probabilities and maps.
    """

    def __init__(self, model: keras.Model) -> None:
        """Takes a model from pixels (batch, side, side, 3) in [0, 255] to probabilities (batch, classes)."""
        with_maps, self.maps, histograms = _with_maps(model)
        self.side: int = model.input_shape[1]
        self.histograms = [output.layer for output in histograms]
        inputs = [with_maps.inputs[0], *(output.tensor for output in histograms)]
        self.model = keras.Model(inputs, [with_maps.outputs[0], *(output.tensor for output in self.maps)])

    def probabilities(self, pixels: np.ndarray, *, histogram_photo: np.ndarray | None = None) -> np.ndarray:
        """Returns the probabilities of all classes.

        Args:
            pixels: shape (photos, side, side, 3), in [0, 255].
            histogram_photo: the photo whose colour histograms are used, shape (side, side, 3); None: each photo's own.

        Returns:
            float32 of shape (photos, classes).
        """
        return _batched(self._probabilities, pixels, histogram_photo)

    def score(self, pixels: np.ndarray, target: int, *, histogram_photo: np.ndarray | None = None) -> np.ndarray:
        """Returns the log odds of a class, float32 of shape (photos,); for the other arguments see `probabilities`."""
        return _log_odds(tf.constant(self.probabilities(pixels, histogram_photo=histogram_photo)), target).numpy()

    def gradients(self, pixels: np.ndarray, target: int, *, histogram_photo: np.ndarray) -> np.ndarray:
        """Returns the gradients of `score` with respect to the pixels, of the pixels' shape."""
        return _batched(lambda x, y: self._gradients(x, y, target)[0], pixels, histogram_photo)

    def last_conv_map(self, photo: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a photo's last map before pooling and the score's gradient with respect to it, (h, w, channels)."""
        x = tf.constant(photo[None], tf.float32)
        _, values, gradients = self._gradients(x, x, target)
        return values.numpy()[0], gradients.numpy()[0]

    def feature_maps(self, photo: np.ndarray) -> list[np.ndarray]:
        """Returns the values of each of `maps` for a photo, of shape (height, width, channels) each."""
        x = tf.constant(photo[None], tf.float32)
        return [np.asarray(values)[0] for values in self._call(x, x)[1:]]

    @cached_property
    def _probabilities(self) -> Callable[..., Any]:
        pixels = self._pixels
        return tf.function(
            lambda x, histogram_photo: self._call(x, histogram_photo)[0], input_signature=[pixels, pixels]
        )

    @cached_property
    def _gradients(self) -> Callable[..., Any]:
        last = max(i for i, output in enumerate(self.maps) if not isinstance(output.layer, POOLINGS))

        def gradients(x: Any, histogram_photo: Any, target: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                probabilities, *maps = self._call(x, histogram_photo)
                score = _log_odds(probabilities, target)
            pixel_gradients, map_gradients = tape.gradient(score, [x, maps[last]], unconnected_gradients="zero")
            return pixel_gradients, maps[last], map_gradients

        return tf.function(gradients, input_signature=[self._pixels, self._pixels, tf.TensorSpec((), tf.int32)])

    def _call(self, x: Any, histogram_photo: Any) -> Any:
        histograms = (layer(histogram_photo) for layer in self.histograms)
        broadcast = [tf.broadcast_to(values, (tf.shape(x)[0], values.shape[-1])) for values in histograms]
        return self.model([x, *broadcast], training=False)

    @property
    def _pixels(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, self.side, self.side, 3), tf.float32)  # one graph for batches of any size

    @contextmanager
    def randomised(self, seed: int) -> Iterator[None]:
        """Shuffles each kernel's weights within the context, so that only the architecture is left."""
        rng = np.random.default_rng(seed)
        kernels = [variable for variable in self.model.variables if len(variable.shape) > 1]
        trained_weights = [variable.numpy() for variable in kernels]
        try:
            for variable, values in zip(kernels, trained_weights, strict=True):
                variable.assign(rng.permutation(values.ravel()).reshape(values.shape))
            yield
        finally:
            for variable, values in zip(kernels, trained_weights, strict=True):
                variable.assign(values)


def _log_odds(probabilities: Any, target: Any) -> Any:
    one_hot = tf.one_hot(target, probabilities.shape[-1], dtype=probabilities.dtype)
    # 1 - p as the sum of the other probabilities: the difference would be 0 where p rounds to 1.
    p, others = (tf.reduce_sum(probabilities * mask, axis=-1) for mask in (one_hot, 1 - one_hot))
    return tf.math.log(tf.maximum(p, EPS)) - tf.math.log(tf.maximum(others, EPS))


def _batched(function: Callable[..., Any], pixels: np.ndarray, histogram_photo: np.ndarray | None) -> np.ndarray:
    batches = []
    for start in range(0, len(pixels), BATCH):
        x = tf.constant(pixels[start : start + BATCH], tf.float32)
        batches.append(
            function(x, x if histogram_photo is None else tf.constant(histogram_photo[None], tf.float32)).numpy()
        )
    return np.concatenate(batches)


def _with_maps(model: keras.Model) -> tuple[keras.Model, list[LayerOutput], list[LayerOutput]]:
    """Returns the model with the same weights, its layers' maps at their first call, and its colour histograms.

    An activation inside a convolution becomes a layer of its own, so that the map before it is accessible. The same is
    done with models inside the model.
    """
    maps: list[LayerOutput] = []
    histograms: list[LayerOutput] = []
    inner_models: dict[int, tuple[keras.Model, list[LayerOutput]]] = {}

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
        if is_map and isinstance(layer, keras.Layer) and layer not in [output.layer for output in maps]:
            maps.append(LayerOutput(layer, x))
        return x

    def call_model(model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        first_call = id(model) not in inner_models
        if first_call:
            inner, inner_maps, _ = _with_maps(model)
            tensors = [*inner.outputs, *(output.tensor for output in inner_maps)]
            inner_models[id(model)] = keras.Model(inner.inputs, tensors), inner_maps
        inner_with_maps, inner_maps = inner_models[id(model)]
        results = keras.tree.flatten(inner_with_maps(*args, **kwargs))
        outputs, tensors = results[: len(model.outputs)], results[len(model.outputs) :]
        if first_call:
            maps.extend(LayerOutput(output.layer, x) for output, x in zip(inner_maps, tensors, strict=True))
        return outputs if len(outputs) > 1 else outputs[0]

    with_maps = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    return with_maps, maps, histograms
