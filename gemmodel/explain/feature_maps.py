"""What each convolution makes of a photo, before and after its activation and after pooling (recipe 3.4)."""

from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.figure import Figure

from gemmodel.explain.explainer import CONVOLUTIONS, POOLINGS, Explainer, LayerOutput

MAX_CONVOLUTIONS = 8  # of a deeper network the first one of each resolution is shown
GRID = 4  # channels are shown as a square of so many a side
ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.ELU, keras.layers.LeakyReLU)


def groups(maps: Sequence[LayerOutput]) -> list[list[int]]:
    """Returns the places of the maps to show: of each convolution its own, and its activation's and pooling's.

    A normalisation in between counts as part of what comes before the activation.
    """
    starts = [place for place, known in enumerate(maps) if isinstance(known.layer, CONVOLUTIONS)]
    if len(starts) > MAX_CONVOLUTIONS:
        starts = [
            start for start in starts
            if maps[start].tensor.shape[1] not in [maps[place].tensor.shape[1] for place in starts if place < start]
        ]  # fmt: skip
    convolutions = {place for place, known in enumerate(maps) if isinstance(known.layer, CONVOLUTIONS)}
    found = []
    for start in starts:
        end = min((place for place in convolutions if place > start), default=len(maps))
        after = range(start + 1, end)
        activated = [place for place in after if isinstance(maps[place].layer, ACTIVATIONS)][:1]
        pooled = [place for place in after if isinstance(maps[place].layer, POOLINGS)][:1]
        before = [place for place in after if isinstance(maps[place].layer, keras.layers.BatchNormalization)]
        found.append([before[0] if activated and before and before[0] < activated[0] else start, *activated, *pooled])
    return found


def plot(opened: Explainer, photo: np.ndarray) -> Figure:
    """Draws the maps of a photo: a row a convolution, its strongest channels before and after, and pooled.

    Args:
        opened: the model.
        photo: pixels in [0, 255], shape (side, side, 3).
    """
    rows = groups(opened.maps)
    values = opened.feature_maps(photo)
    columns = 1 + max(map(len, rows))
    figure = Figure(figsize=(3.1 * columns, 3.3 * len(rows)), layout="constrained")
    for axes_of_row, places in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in axes_of_row:
            axes.set_axis_off()
        last = values[places[-1]]
        strongest = np.sort(np.argsort(-last.std(axis=(0, 1)), kind="stable")[: GRID**2])
        for axes, place in zip(axes_of_row[1:], places, strict=False):
            layer, shape = opened.maps[place].layer, values[place].shape
            axes.imshow(_mosaic(values[place][..., strongest]), cmap="viridis")
            axes.set_title(f"{layer.name}\n{shape[0]} x {shape[1]}, {shape[2]} channels", fontsize=9)
    figure.axes[0].imshow(photo.astype(np.uint8))
    figure.axes[0].set_title("the photo", fontsize=9)
    return figure


def _mosaic(channels: np.ndarray) -> np.ndarray:
    """Lays channels (height, width, number) out in a square, each stretched to [0, 1], with lines between."""
    height, width, number = channels.shape
    low, high = channels.min(axis=(0, 1)), channels.max(axis=(0, 1))
    stretched = (channels - low) / np.where(high > low, high - low, 1)
    gap = max(1, width // 28)
    sheet = np.full((GRID * (height + gap) - gap, GRID * (width + gap) - gap), np.nan)
    for place in range(number):
        row, column = divmod(place, GRID)
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = stretched[..., place]
    return sheet
