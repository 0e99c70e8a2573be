"""What an answer rests on, in words: a part of the photo, a colour, and the known photos that are most like it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

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
COLOURS = sorted({name for name, _ in HUES} | {"brown"})
SENTENCES = {  # in English; the web page's languages have the same keys and values, and `colour_red` and the like
    "cue_part": "The marked part carries the answer: without it, {after}.",
    "cue_part_as_others": "No single part carries {gem}: other parts of the same size matter as much.",
    "cue_no_part": "No single part carries {gem}: without the part that matters most, {after}.",
    "cue_no_colour": "The photo has hardly any colour.",
    "cue_colour": "Its {colour} decides: in grey instead of {colour}, {after}.",
    "cue_colours": "Its colours decide together: all in grey, {after}.",
    "cue_colours_no": "Its colours do not decide: all in grey, {after}.",
    "cue_known": "The {count} known photos most like it show {gems}.",
    "after_other": "the model would answer {gem}",
    "after_same": "{gem} stays at {now}",
    "after_changed": "{gem} goes from {before} to {now}",
}
MIN_AREA = 0.03  # of the photo: a colour of a smaller one is not looked at
MAX_COLOURS = 3  # the largest ones


class Sentence(str):
    """A sentence in English, and what it is made of in other languages.

    Attributes:
        key: of `SENTENCES`.
        values: of its placeholders. `before` and `now` are probabilities in [0, 1], `colour` is one of `COLOURS`,
            `gems` has pairs of a gem and a number of photos, and `after` is a sentence.
    """

    key: str
    values: dict[str, Any]

    def __new__(cls, key: str, **values: Any) -> Self:
        """Returns the sentence of a key with values."""
        sentence = super().__new__(cls, SENTENCES[key].format(**{name: _in_english(x) for name, x in values.items()}))
        sentence.key, sentence.values = key, values
        return sentence

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """Returns the arguments of a copy, also of a pickled one."""
        return (self.key,), self.values

    def to_json(self) -> dict[str, Any]:
        """Returns text, key and values as JSON values."""
        values = {name: x.to_json() if isinstance(x, Sentence) else x for name, x in self.values.items()}
        return {"text": str(self), "key": self.key, "values": values}


@dataclass(frozen=True)
class Explanation:
    """Why a model answers as it does.

    Attributes:
        part: of the photo, on which the answer rests most.
        sentences: about it, about the colours and about the known photos.
    """

    part: Part
    sentences: list[Sentence]


def explain(
    probabilities: Probabilities, pixels: np.ndarray, unhidden: np.ndarray, classes: Sequence[str],
    known: Sequence[str] = (), *, cells: int = occlusion.CELLS,
) -> Explanation:  # fmt: skip
    """Returns why a model answers as it does for a photo: some 96 predictions, or 77 where no part matters.

    Args:
        probabilities: a function of photos (side, side, 3) to their probabilities, float (photos, classes).
        pixels: of the photo, uint8 (side, side, 3).
        unhidden: the probabilities of the photo, float (classes,); the answer is the most probable class.
        classes: their names in the order of the probabilities.
        known: the gems of the known photos that are most like it.
        cells: per side of the map.
    """
    part = occlusion.explain(probabilities, pixels, unhidden, cells=cells)
    sentences = [_part_sentence(part, unhidden, classes), _colour_sentence(probabilities, pixels, unhidden, classes)]
    if known:
        sentences.append(Sentence("cue_known", count=len(known), gems=Counter(known).most_common()))
    return Explanation(part, sentences)


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


def _part_sentence(part: Part, unhidden: np.ndarray, classes: Sequence[str]) -> Sentence:
    gem, after = classes[int(unhidden.argmax())], _after(part.probabilities, unhidden, classes)
    if part.carries:
        return Sentence("cue_part", after=after)
    if occlusion.matters(part.probabilities, unhidden):
        return Sentence("cue_part_as_others", gem=gem)
    return Sentence("cue_no_part", gem=gem, after=after)


def _colour_sentence(
    probabilities: Probabilities, pixels: np.ndarray, unhidden: np.ndarray, classes: Sequence[str]
) -> Sentence:
    names = colour_names(pixels)
    areas = Counter(names[names != ""].tolist())
    colours: list[str | None] = [name for name, area in areas.most_common(MAX_COLOURS) if area >= MIN_AREA * names.size]
    if not colours:
        return Sentence("cue_no_colour")
    colours.append(None)

    def photos() -> Iterator[np.ndarray]:
        yield from (without_colour(pixels, names, colour) for colour in colours)

    probs = dict(zip(colours, probabilities(photos()), strict=True))
    answer = int(unhidden.argmax())
    in_grey = probs.pop(None)
    decisive = min(probs, key=lambda colour: float(probs[colour][answer]), default=None)
    if decisive and occlusion.matters(probs[decisive], unhidden):
        return Sentence("cue_colour", colour=decisive, after=_after(probs[decisive], unhidden, classes))
    key = "cue_colours" if occlusion.matters(in_grey, unhidden) else "cue_colours_no"
    return Sentence(key, after=_after(in_grey, unhidden, classes))


def _after(probs: np.ndarray, unhidden: np.ndarray, classes: Sequence[str]) -> Sentence:
    """Returns what the model would answer then."""
    answer = int(unhidden.argmax())
    if probs.argmax() != answer:
        return Sentence("after_other", gem=classes[int(probs.argmax())])
    before, now = (float(p[answer]) for p in (unhidden, probs))
    if _in_english(before) == _in_english(now):
        return Sentence("after_same", gem=classes[answer], now=now)
    return Sentence("after_changed", gem=classes[answer], before=before, now=now)


def _in_english(value: str | float | Sequence[tuple[str, int]]) -> str:
    """Returns a value of `Sentence` as text."""
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return f"{100 * value:.0f} %"
    counts = [f"{gem} ({count})" for gem, count in value]
    return " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
