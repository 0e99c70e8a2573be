"""What an answer rests on, in words: a part of the photo, a colour, and the known photos that are most like it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gemmodel.explain import occlusion
from gemmodel.explain.occlusion import Part, Probabilities

BLACK, GREY = 50, 40  # of 255: a pixel of a lower value has no colour, nor has one of a lower saturation
PALE, LIGHT, DARK = 130, 170, 150  # of 255: a paler and lighter red is pink, a darker orange is brown
HUES = (  # name, and the hue in degrees from which on the next name applies
    ("red", 15), ("orange", 45), ("yellow", 70), ("green", 160), ("turquoise", 200), ("blue", 255), ("purple", 300),
    ("pink", 345), ("red", 361),
)  # fmt: skip
MIN_AREA = 0.03  # of the photo: a colour of a smaller one is not looked at
MAX_COLOURS = 3  # the largest ones


@dataclass(frozen=True)
class Explanation:
    """Why a model answers as it does.

    Attributes:
        part: of the photo, on which the answer rests most.
        sentences: about it, about the colours and about the known photos.
    """

    part: Part
    sentences: list[str]


def explain(
    probabilities: Probabilities, pixels: np.ndarray, classes: Sequence[str], known: Sequence[str] = (), *,
    cells: int = occlusion.CELLS,
) -> Explanation:  # fmt: skip
    """Returns why a model answers as it does for a photo: some 97 predictions.

    Args:
        probabilities: a function of photos (side, side, 3) to their probabilities, float (photos, classes).
        pixels: of the photo, uint8 (side, side, 3).
        classes: their names in the order of the probabilities.
        known: the gems of the known photos that are most like it.
        cells: per side of the map.
    """
    unhidden = probabilities(iter([pixels]))[0]
    part = occlusion.explain(probabilities, pixels, unhidden, cells=cells)
    sentences = [
        _part_sentence(part, unhidden, classes),
        _colour_sentence(probabilities, pixels, unhidden, classes),
        _known_sentence(known),
    ]
    return Explanation(part, [sentence for sentence in sentences if sentence])


def colour_names(pixels: np.ndarray) -> np.ndarray:
    """Returns the name of each pixel's colour, str (side, side); empty for black, white and grey.

    Args:
        pixels: uint8 (side, side, 3).
    """
    hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("HSV"), int), -1, 0)
    names = np.array([name for name, _ in HUES])[np.digitize(hue * 360 / 256, [end for _, end in HUES])]
    names = np.where((names == "red") & (saturation < PALE) & (value > LIGHT), "pink", names)
    names = np.where((names == "orange") & (value < DARK), "brown", names)
    return np.where((value < BLACK) | (saturation < GREY), "", names)


def without_colour(pixels: np.ndarray, names: np.ndarray, colour: str | None = None) -> np.ndarray:
    """Returns a photo in which the pixels of a colour are grey, of the same luma; None: all pixels."""
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    return grey if colour is None else np.where((names == colour)[..., None], grey, pixels)


def _part_sentence(part: Part, unhidden: np.ndarray, classes: Sequence[str]) -> str:
    gem, after = classes[int(unhidden.argmax())], _after(part.probabilities, unhidden, classes)
    if part.carries:
        return f"The marked part carries the answer: without it, {after}."
    if occlusion.matters(part.probabilities, unhidden):
        return f"No single part carries {gem}: other parts of the same size matter as much."
    return f"No single part carries {gem}: without the part that matters most, {after}."


def _colour_sentence(
    probabilities: Probabilities, pixels: np.ndarray, unhidden: np.ndarray, classes: Sequence[str]
) -> str:
    names = colour_names(pixels)
    areas = Counter(names[names != ""].tolist())
    colours: list[str | None] = [name for name, area in areas.most_common(MAX_COLOURS) if area >= MIN_AREA * names.size]
    if not colours:
        return "The photo has hardly any colour."
    colours.append(None)

    def photos() -> Iterator[np.ndarray]:
        yield from (without_colour(pixels, names, colour) for colour in colours)

    probs = dict(zip(colours, probabilities(photos()), strict=True))
    answer = int(unhidden.argmax())
    in_grey = probs.pop(None)
    decisive = min(probs, key=lambda colour: float(probs[colour][answer]), default=None)
    if decisive and occlusion.matters(probs[decisive], unhidden):
        return f"Its {decisive} decides: in grey instead of {decisive}, {_after(probs[decisive], unhidden, classes)}."
    if occlusion.matters(in_grey, unhidden):
        return f"Its colours decide together: all in grey, {_after(in_grey, unhidden, classes)}."
    return f"Its colours do not decide: all in grey, {_after(in_grey, unhidden, classes)}."


def _known_sentence(known: Sequence[str]) -> str:
    if not known:
        return ""
    counts = [f"{gem} ({count})" for gem, count in Counter(known).most_common()]
    text = " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
    return f"The {len(known)} known photos most like it show {text}."


def _after(probs: np.ndarray, unhidden: np.ndarray, classes: Sequence[str]) -> str:
    """Returns what the model would answer then."""
    answer = int(unhidden.argmax())
    if probs.argmax() != answer:
        return f"the model would answer {classes[int(probs.argmax())]}"
    before, now = (f"{100 * p[answer]:.0f} %" for p in (unhidden, probs))
    return f"{classes[answer]} stays at {now}" if before == now else f"{classes[answer]} goes from {before} to {now}"
