"""The feature maps of a photo: each convolution before and after its activation, and after pooling (recipe 3.4)."""

from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from gemmodel.explain.explainer import CONVOLUTIONS, POOLINGS, Explainer, LayerOutput

MAX_CONVOLUTIONS = 8  # of a deeper network, the first convolution of each resolution is shown
GRID = 4  # channels per side of the square in which they are shown
ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.ELU, keras.layers.LeakyReLU)


def groups(maps: Sequence[LayerOutput]) -> list[list[int]]:
    """Returns the indices of the maps to show: for each convolution its own, its activation's and its pooling's.

    A normalisation between convolution and activation takes the convolution's place. The layers of a file that Keras
    did not write, and of a transformer, have no convolutions: of these the last maps are shown.
    """
    convolutions = [i for i, output in enumerate(maps) if isinstance(output.layer, CONVOLUTIONS)]
    if not convolutions:
        return [[i] for i, output in enumerate(maps) if not isinstance(output.layer, POOLINGS)][-MAX_CONVOLUTIONS:]
    starts = convolutions
    if len(convolutions) > MAX_CONVOLUTIONS:
        sides = [maps[i].tensor.shape[1] for i in convolutions]
        starts = [i for n, i in enumerate(convolutions) if sides[n] not in sides[:n]]
    result = []
    for start in starts:
        end = min((i for i in convolutions if i > start), default=len(maps))
        after = range(start + 1, end)
        activated = [i for i in after if isinstance(maps[i].layer, ACTIVATIONS)][:1]
        pooled = [i for i in after if isinstance(maps[i].layer, POOLINGS)][:1]
        normalised = [i for i in after if isinstance(maps[i].layer, keras.layers.BatchNormalization)]
        before = normalised[0] if activated and normalised and normalised[0] < activated[0] else start
        result.append([before, *activated, *pooled])
    return result


def plot(explainer: Explainer, photo: np.ndarray) -> Figure:
    """Draws the maps of a photo, one row per convolution: its channels before and after activation, and pooled.

    A row begins with the photo at the resolution of its maps, and shows the channels whose values vary most.

    Args:
        explainer: of the model.
        photo: pixels in [0, 255], shape (side, side, 3).
    """
    rows = groups(explainer.maps)
    values = explainer.feature_maps(photo)
    columns = 1 + max(map(len, rows))
    figure = Figure(figsize=(2.9 * columns, 3.05 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row_axes, indices in zip(grid, rows, strict=True):
        for axes in row_axes:
            axes.set(xticks=[], yticks=[], frame_on=False)
        last = values[indices[-1]]
        strongest = np.sort(np.argsort(-last.std(axis=(0, 1)), kind="stable")[: GRID**2])
        height, width, channels = values[indices[0]].shape
        small = Image.fromarray(photo.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
        row_axes[0].imshow(small)
        row_axes[0].set_title(f"the photo at {height} x {width} pixels", fontsize=10)
        for axes, index in zip(row_axes[1:], indices, strict=False):  # a row may have no pooling
            layer, shape = explainer.maps[index].layer, values[index].shape
            axes.imshow(_mosaic(values[index][..., strongest]), cmap="viridis")
            axes.set_title(f"{_step(layer)}, {shape[0]} x {shape[1]}", fontsize=10)
            axes.set_xlabel(f"{min(GRID**2, channels)} of {channels} channels; layer {layer.name}", fontsize=8)
    return figure


def _step(layer: keras.Layer) -> str:
    """Returns in words what a map is the output of."""
    if isinstance(layer, POOLINGS):
        return "after pooling"
    if isinstance(layer, ACTIVATIONS):
        return "after the activation"
    return "before the activation" if isinstance(layer, (*CONVOLUTIONS, keras.layers.BatchNormalization)) else "output"


def _mosaic(channels: np.ndarray) -> np.ndarray:
    """Arranges channels (height, width, number) in a square, each scaled to [0, 1], with gaps of NaN between them."""
    height, width, number = channels.shape
    low, high = channels.min(axis=(0, 1)), channels.max(axis=(0, 1))
    scaled = (channels - low) / np.where(high > low, high - low, 1)
    gap = max(1, width // 28)
    mosaic = np.full((GRID * (height + gap) - gap, GRID * (width + gap) - gap), np.nan)
    for channel in range(number):
        row, column = divmod(channel, GRID)
        top, left = row * (height + gap), column * (width + gap)
        mosaic[top : top + height, left : left + width] = scaled[..., channel]
    return mosaic
