"""Plots of the data."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from gemmodel.figures import fonts
from gemmodel.images import crop

PART_COLOURS = {"train": "#4c78a8", "val": "#f2b447", "test": "#d1495b", "rejected": "#c9c9c9"}

MAX_BARS = 120  # gems in a bar chart
MAX_PATCHES = 240  # gems whose mean colour is shown
SIDE_TICKS = (50, 100, 200, 400, 800, 1600, 3200)  # pixels


def counts_by_gem(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draws the number of photos of each gem in each part, one bar per gem.

    Of many gems it shows those with the most and those with the fewest photos, `MAX_BARS` together.

    Args:
        counts: number of photos by part, then by gem.
    """
    gems = sorted({gem for part in counts.values() for gem in part}, reverse=True)
    shown = _largest_and_smallest(gems, counts)
    names, style = fonts.legible(shown)
    figure = Figure(figsize=(9, max(3.0, 1.2 + 0.19 * len(shown))), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(shown))
    for part, colour in PART_COLOURS.items():
        by_gem = counts.get(part, {})
        widths = np.array([by_gem.get(gem, 0) for gem in shown])
        axes.barh(range(len(shown)), widths, left=left, color=colour, label=f"{part} ({sum(by_gem.values())})")
        left += widths
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_yticks(range(len(shown)), names, fontsize=8, **style)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("photos")
    if len(shown) < len(gems):
        half = len(shown) // 2
        axes.set_title(f"the {half} gems with the most and the {half} with the fewest photos, of {len(gems)}")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def _largest_and_smallest(gems: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Returns at most `MAX_BARS` gems in their order, half of them with the most photos and half with the fewest."""
    if len(gems) <= MAX_BARS:
        return list(gems)
    ranked = sorted(gems, key=lambda gem: sum(by_gem.get(gem, 0) for by_gem in counts.values()))
    shown = {*ranked[: MAX_BARS // 2], *ranked[-MAX_BARS // 2 :]}
    return [gem for gem in gems if gem in shown]


def bars(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, list[tuple[str, int, float]]]]:
    """Returns the gems of `counts_by_gem` for a page.

    Args:
        counts: number of photos by part, then by gem.

    Returns:
        By gem, in alphabetical order: its name, its number of photos, and each part that has some of them with its
        number and this number in percent of the largest gem's photos.
    """
    gems = _largest_and_smallest(sorted({gem for part in counts.values() for gem in part}), counts)
    totals = {gem: sum(by_gem.get(gem, 0) for by_gem in counts.values()) for gem in gems}
    largest = max(totals.values(), default=1)
    return [
        (
            gem,
            totals[gem],
            [
                (part, counts[part][gem], round(100 * counts[part][gem] / largest, 2))
                for part in PART_COLOURS
                if counts.get(part, {}).get(gem)
            ],
        )
        for gem in gems
    ]


def sizes(shapes: Sequence[tuple[int, int]]) -> Figure:
    """Draws histograms of the shorter side and of the ratio of width to height.

    Args:
        shapes: width and height of each photo in pixels.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    shorter = [min(shape) for shape in shapes]
    left.hist(shorter, bins=np.geomspace(min(shorter), max(shorter) + 1, 40), color=PART_COLOURS["train"])
    left.set_xscale("log")
    left.set_xlabel("shorter side, pixels")
    right.hist([width / height for width, height in shapes], bins=40, color=PART_COLOURS["train"])
    right.set_xlabel("width / height")
    for axes in (left, right):
        axes.set_ylabel("photos")
        axes.grid(alpha=0.3)
    left.set_xticks([side for side in SIDE_TICKS if min(shorter) <= side <= max(shorter)])
    left.xaxis.set_major_formatter("{x:.0f}")
    left.xaxis.set_minor_formatter("")
    return figure


def sorted_by_hue(colours: Mapping[str, tuple[float, float, float]]) -> list[str]:
    """Returns the gems by the hue of their colour, greys last; of many gems `MAX_PATCHES` of all hues.

    Args:
        colours: red, green and blue in [0, 1] by gem.
    """

    def sort_key(gem: str) -> tuple[bool, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*colours[gem])
        return saturation < 0.12, hue if saturation >= 0.12 else value

    gems = sorted(colours, key=sort_key)
    if len(gems) > MAX_PATCHES:
        gems = [gems[i] for i in np.linspace(0, len(gems) - 1, MAX_PATCHES).astype(int)]
    return gems


def crop_panels(image: Image.Image, method: Literal["canny", "otsu"]) -> list[tuple[Image.Image, str]]:
    """Returns the original, the mask of the method, the box and the crop, each with its caption."""
    cropped, box = crop.crop(image, method)
    mask = crop.edges(image) if method == "canny" else crop.foreground(image)
    boxed = image.convert("RGB")
    if box:
        left, top, right, bottom = box
        line = max(2, max(image.size) // 100)
        outline = (left - line, top - line, right + line, bottom + line)
        ImageDraw.Draw(boxed).rectangle(outline, outline="#d55e00", width=line)
    size = f"{cropped.width} x {cropped.height} of {image.width} x {image.height} pixels"
    return [
        (image, "photo"),
        (Image.fromarray(mask).convert("RGB").resize(image.size), {"canny": "edges", "otsu": "stone (white)"}[method]),
        (boxed, "box" if box else "no box: the photo is kept whole"),
        (cropped, f"crop: {size}"),
    ]
