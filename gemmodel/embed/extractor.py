"""The features of the fusion model: a backbone's pooled maps and colour histograms, as one Keras graph."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from gemmodel.core.errors import ModelError
from gemmodel.core.params import BaseParams, EmbedParams
from gemmodel.embed.backbones.backbone import backbone, parse
from gemmodel.embed.feature_set import FeatureSet

SMALLEST = 1e-9  # is divided by in place of 0; 8-bit colours are 0 or at least 1 / 255
EDGE = 1e-4  # of a bin: 8-bit colours lie on the edges of bins, where rounding differs between devices

# Each maps pixels of shape (batch, side, side, 3) to the same shape. A rotated gem is the same gem.
VIEWS = {
    "photo": lambda x: x,
    "mirror": lambda x: ops.flip(x, axis=2),
    "quarter_turn": lambda x: ops.flip(ops.transpose(x, (0, 2, 1, 3)), axis=1),
    "half_turn": lambda x: ops.flip(ops.flip(x, axis=1), axis=2),
    "three_quarter_turn": lambda x: ops.flip(ops.transpose(x, (0, 2, 1, 3)), axis=2),
}


@keras.saving.register_keras_serializable(package="gemmodel")
class ColourHistogram(layers.Layer):
    """Square roots of a photo's joint colour histograms (Hellinger's embedding), in several colour spaces.

    Input: pixels in [0, 255], shape (batch, height, width, 3). Output: shape (batch, spaces * bins ** 3); each
    histogram has Euclidean norm 1.
    """

    def __init__(self, *, bins: int, spaces: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins, self.spaces = bins, tuple(spaces)
        unknown = set(spaces) - set(COLOUR_SPACES)
        if unknown:
            raise ModelError(
                f"embed.colour_spaces: {', '.join(sorted(unknown))} is not one of {', '.join(COLOUR_SPACES)}"
            )

    def call(self, pixels: Any) -> Any:
        """Returns the histograms of a batch of pixels."""
        flat = ops.reshape(ops.cast(pixels, "float32"), (-1, pixels.shape[1] * pixels.shape[2], 3)) / 255.0
        # Channels as whole rows from here on: LiteRT is slow at concatenating, splitting and slicing.
        rgb = ops.unstack(ops.transpose(flat, (0, 2, 1)), axis=1)
        return ops.concatenate([self._histogram(COLOUR_SPACES[space](*rgb)) for space in self.spaces], axis=-1)

    def _histogram(self, channels: Sequence[Any]) -> Any:
        first, second, third = (
            ops.clip(ops.floor(channel * self.bins + EDGE), 0, self.bins - 1) for channel in channels
        )
        bins = ops.cast((first * self.bins + second) * self.bins + third, "int32")
        photos = ops.shape(bins)[0]
        indices = ops.reshape(bins + self.bins**3 * ops.arange(photos)[:, None], (-1,))
        # Sums of ones are exact in float32, so the histogram is the same in any order of summation.
        counts = ops.segment_sum(ops.ones_like(indices, "float32"), indices, num_segments=photos * self.bins**3)
        return ops.sqrt(ops.reshape(counts, (-1, self.bins**3)) / bins.shape[1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "bins": self.bins, "spaces": list(self.spaces)}


def _hsv(red: Any, green: Any, blue: Any) -> tuple[Any, Any, Any]:
    value, low = ops.maximum(ops.maximum(red, green), blue), ops.minimum(ops.minimum(red, green), blue)
    chroma = value - low
    # Not by `where`, at which LiteRT is slow: of grey, 0 / safe is 0, and so is black's saturation.
    safe = ops.maximum(chroma, SMALLEST)
    sixth = ops.where(
        value == red,
        (green - blue) / safe,
        ops.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sixth / 6
    return hue - ops.floor(hue), chroma / ops.maximum(value, SMALLEST), value


def _ycbcr(red: Any, green: Any, blue: Any) -> tuple[Any, Any, Any]:
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as in JPEG
    # Grey is 128 of 255, as in JPEG. At 0.5 it would lie on the edge of two bins, and rounding would decide.
    return luma, 128 / 255 + 0.564 * (blue - luma), 128 / 255 + 0.713 * (red - luma)


COLOUR_SPACES = {"rgb": lambda *rgb: rgb, "hsv": _hsv, "ycbcr": _ycbcr}


@keras.saving.register_keras_serializable(package="gemmodel")
class Covariance(layers.Layer):
    """The covariance of a map's channels over its positions: texture, whatever its position.

    Input: shape (batch, height, width, channels). Output: the upper triangle, shape (batch, channels * (channels + 1)
    / 2). After Tsung-Yu Lin and others, "Bilinear CNNs", arXiv 1504.07889.
    """

    def call(self, x: Any) -> Any:
        """Returns the covariances of a batch of maps."""
        positions, channels = x.shape[1] * x.shape[2], x.shape[3]
        centred = ops.reshape(x - ops.mean(x, axis=(1, 2), keepdims=True), (-1, positions, channels))
        square = ops.matmul(ops.transpose(centred, (0, 2, 1)), centred) / positions
        rows, columns = np.triu_indices(channels)
        return ops.take(ops.reshape(square, (-1, channels**2)), rows * channels + columns, axis=1)


def check(params: EmbedParams) -> None:
    """Checks what can be known before a backbone is loaded.

    Raises:
        ModelError: a view is unknown, or a backbone is named twice.
    """
    unknown = set(params.views) - set(VIEWS)
    if unknown:
        raise ModelError(f"embed.views: {', '.join(sorted(unknown))} is not one of {', '.join(VIEWS)}")
    labels = [parse(name).label for name in params.backbone]
    if twice := [label for i, label in enumerate(labels) if label in labels[:i]]:
        raise ModelError(f"embed.backbone: {twice[0]} is there twice; name each backbone once")


def extractor(params: EmbedParams, *, image_size: int) -> keras.Model:
    """Returns the model from pixels to features.

    The features of a backbone are concatenated from the mean and the standard deviation of its maps, the signed square
    roots of one map's covariances, and its vectors. All are averaged over the views. After those of the first backbone
    come the colour histograms.

    Args:
        params: backbones, views, covariances and histograms.
        image_size: side of the square input in pixels.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to shape (batch, features).

    Raises:
        ModelError: a backbone, a view or a colour space is unknown, or a backbone is named twice.
    """
    check(params)
    labels = [parse(name).label for name in params.backbone]
    pixels, parts = None, []
    for label, name in zip(labels, params.backbone, strict=True):
        pool = _pool(label, backbone(name, weights=params.weights, image_size=image_size), params)
        if pixels is None:
            pixels = keras.Input((image_size, image_size, 3), name="pixels")
        by_block = zip(*(pool(VIEWS[view](pixels)) for view in params.views), strict=True)
        means = [sum(views[1:], start=views[0]) / len(views) for views in by_block]
        parts += [  # differentiable at 0
            ops.sign(x) * ops.sqrt(ops.abs(x) + 1e-12) if kind == "covariances" else x
            for kind, x in zip(_kinds(pool), means, strict=True)
        ]
        if label == labels[0] and params.colour_spaces:
            parts.append(
                ColourHistogram(bins=params.histogram_bins, spaces=params.colour_spaces, name="colour")(pixels)
            )
    return keras.Model(pixels, layers.Concatenate(name="blocks")(parts), name="features")


def _pool(label: str, network: keras.Model, params: EmbedParams) -> keras.Model:
    """Returns the model from pixels to a backbone's blocks, of the views that are averaged."""
    maps, vectors = ([x for x in network.outputs if len(x.shape) == rank] for rank in (4, 2))
    pooled, outputs = [], []
    for x in maps:
        mean = ops.mean(x, axis=(1, 2), keepdims=True)
        std = ops.sqrt(ops.mean(ops.square(x - mean), axis=(1, 2)) + 1e-12)  # differentiable on constant maps
        pooled += [ops.reshape(mean, (-1, x.shape[-1])), std]
    if maps:
        outputs.append(ops.concatenate(pooled, axis=-1))
    if narrow := [x for x in maps if x.shape[-1] <= params.covariance_channels]:
        outputs.append(Covariance(name="covariance")(narrow[-1]))
    elif maps and params.covariance_channels:  # as in transformers
        outputs.append(Covariance(name="covariance")(_projected(maps[-1], params.covariance_channels)))
    if vectors:
        join = layers.Concatenate if len(vectors) > 1 else layers.Identity
        outputs.append(join(name="vectors")(vectors if len(vectors) > 1 else vectors[0]))
    return keras.Model(network.inputs, outputs, name=label)


def _projected(x: Any, channels: int) -> Any:
    """Returns a map in fewer channels, by a random projection that is the same each time.

    It keeps distances, and so what a kernel sees of covariances (William Johnson and Joram Lindenstrauss, 1984; Ninh
    Pham and Rasmus Pagh, "Fast and scalable polynomial kernels", KDD 2013).
    """
    layer = layers.Dense(channels, use_bias=False, trainable=False, name="projection")
    projected = layer(x)
    layer.set_weights([np.random.default_rng(0).normal(0, channels**-0.5, (x.shape[-1], channels))])
    return projected


def _kinds(pool: keras.Model) -> list[str]:
    """Returns what the outputs of a backbone's model are, by the names of the layers that give them."""
    kinds = {"covariance": "covariances", "vectors": "vectors"}
    return [kinds.get(x._keras_history.operation.name, "maps") for x in pool.outputs]


def blocks(model: keras.Model) -> dict[str, int]:
    """Returns the number of features in each block of an extractor, by name and in their order; see `FeatureSet`.

    Several backbones have their names before those of their blocks.
    """
    pools = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    sizes: dict[str, int] = {}
    for pool in pools:
        prefix = f"{pool.name}." if len(pools) > 1 else ""
        sizes |= {f"{prefix}{kind}": x.shape[-1] for kind, x in zip(_kinds(pool), pool.outputs, strict=True)}
        if pool is pools[0] and (colours := [layer for layer in model.layers if isinstance(layer, ColourHistogram)]):
            sizes["colours"] = colours[0].output.shape[-1]
    return sizes


def apart(params: EmbedParams) -> dict[str, EmbedParams]:
    """Returns the parameters of each backbone alone, by its name; the first one's features include the colours."""
    return {
        parse(name).label: replace(params, backbone=(name,), colour_spaces=() if i else params.colour_spaces)
        for i, name in enumerate(params.backbone)
    }


def settings(base: BaseParams, params: EmbedParams) -> dict[str, Any]:
    """Returns the parameters that the features depend on, by their names and as JSON has them."""
    values = {f"embed.{name}": value for name, value in asdict(params).items()} | {"base.image_size": base.image_size}
    if len(params.backbone) == 1:
        values["embed.backbone"] = params.backbone[0]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def last_map_mean(photos: FeatureSet, channels: int) -> np.ndarray:
    """Returns the mean over the first backbone's last map, which the features hold, float32 (photos, channels)."""
    maps = photos.block(next(name for name in photos.blocks if name.endswith("maps")))  # ends with its mean and std
    return maps[:, -2 * channels : -channels].copy()  # the whole block would stay in memory with a view
