"""Occlusion, for any model: how much an answer rests on each part of a photo. NumPy only.

Half of the photo is hidden at random, many times; a part's value is the mean score of the answer with the part visible
minus that with it hidden. It is RISE (Vitali Petsiuk and others, arXiv 1806.07421) with connected halves, and with the
photo's mean colour in place of black, which would itself be a visible object. Hiding one small part at a time (Matthew
Zeiler and Rob Fergus, arXiv 1311.2901) says less: the rest of a stone often suffices, and then hiding a part may even
raise the score.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

CELLS = 5  # per side of the map
HALVES = 72  # photos with a half of the cells hidden; the second 36 hide the other half
SMOOTHING = 0.2  # of the side: the reach of a hidden half's smoothing, so that it is connected
PART = 0.2  # of the cells: the size of the part that may carry an answer
RANDOM_PARTS, SPREAD = 19, 0.25  # it is compared with random parts, of which a quarter may matter as much
MIN_FALL = 0.1  # of the answer's probability, from which on a part is said to carry it
EPS = 1e-9  # the least probability whose logarithm is taken

Probabilities = Callable[[Iterator[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Part:
    """The part of a photo on which the answer rests most.

    Attributes:
        values: how much the answer rests on each cell, float (cells, cells): the fall of its log probability.
        carries: whether hiding the cells with the highest values changes the answer, or lowers its probability by at
            least MIN_FALL; and lowers it more than hiding most of the random parts of the same size.
        probabilities: of the photo without these cells, float (classes,).
    """

    values: np.ndarray
    carries: bool
    probabilities: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """The map to show: the values of the part's cells, and 0 elsewhere; all 0 where no single part carries it."""
        return np.where(largest(self.values), np.maximum(self.values, 0), 0) * self.carries


def hidden_halves(cells: int, halves: int = HALVES) -> np.ndarray:
    """Returns which cells are hidden, bool (halves, cells, cells): half of them each, and always the same ones."""
    fields = _random_fields(cells, halves // 2, seed=0)
    hidden = fields > np.median(fields, axis=(1, 2), keepdims=True)
    return np.concatenate([hidden, ~hidden])


def random_parts(cells: int, parts: int = RANDOM_PARTS) -> np.ndarray:
    """Returns connected random parts of the size PART of a photo, bool (parts, cells, cells); always the same ones."""
    return np.stack([largest(field) for field in _random_fields(cells, parts, seed=1)])


def largest(values: np.ndarray) -> np.ndarray:
    """Returns the cells of a map with the highest values, bool of its shape; they are a fraction PART of it."""
    count = max(1, round(PART * values.size))
    part = np.zeros(values.size, bool)
    part[np.argsort(-values.ravel(), kind="stable")[:count]] = True
    return part.reshape(values.shape)


def _random_fields(cells: int, count: int, *, seed: int) -> np.ndarray:
    """Returns smoothed noise, float (count, cells, cells)."""
    window = 2 * round(SMOOTHING * cells) + 1
    side = cells + window - 1
    noise = np.random.default_rng(seed).normal(size=(count, side, side))
    return np.lib.stride_tricks.sliding_window_view(noise, (window, window), axis=(1, 2)).mean(axis=(-2, -1))


def hide(pixels: np.ndarray, hidden: np.ndarray) -> Iterator[np.ndarray]:
    """Yields a photo with cells in its mean colour.

    Args:
        pixels: of the photo, uint8 (side, side, 3).
        hidden: bool (photos, cells, cells).
    """
    mean = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    edges = -(-np.arange(hidden.shape[1] + 1) * len(pixels) // hidden.shape[1])  # of the rows, and of the columns
    for cells in hidden:
        photo = pixels.copy()
        for row, column in np.argwhere(cells):
            photo[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = mean
        yield photo


def occlusion(
    score: Callable[[Iterator[np.ndarray]], np.ndarray], pixels: np.ndarray, *, cells: int = CELLS
) -> np.ndarray:
    """Returns how much a score rests on each part of a photo.

    Args:
        score: a function of photos (side, side, 3) to their scores, float (photos,), such as a log probability.
        pixels: of the photo, uint8 (side, side, 3).
        cells: per side of the map.

    Returns:
        float (cells, cells): the higher, the more the score rests on the cell. Only the order and the positive values
        mean something: each photo shows half of the cells, so a cell that does not matter has a value below 0.
    """
    hidden = hidden_halves(cells)
    scores = np.asarray(score(hide(pixels, hidden)), float)
    return cell_values(scores, hidden)


def cell_values(scores: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Returns the mean score with each cell visible minus that with it hidden, float (cells, cells).

    Args:
        scores: of the photos, float (photos,).
        hidden: which cells of each are hidden, bool (photos, cells, cells); each cell in half of them.
    """
    return 2 * np.asarray(np.where(hidden, -1, 1) * scores[:, None, None]).mean(axis=0)


def explain(probabilities: Probabilities, pixels: np.ndarray, unhidden: np.ndarray, *, cells: int = CELLS) -> Part:
    """Returns the part of a photo on which the answer rests most, and whether it carries it.

    Args:
        probabilities: a function of photos (side, side, 3) to their probabilities, float (photos, classes).
        pixels: of the photo, uint8 (side, side, 3).
        unhidden: the probabilities of the photo, float (classes,); the answer is the most probable class.
        cells: per side of the map.
    """
    answer = int(unhidden.argmax())

    def log_probability(photos: Iterator[np.ndarray]) -> np.ndarray:
        return np.log(np.maximum(probabilities(photos)[:, answer], EPS))

    values = occlusion(log_probability, pixels, cells=cells)
    without = probabilities(hide(pixels, largest(values)[None]))[0]
    return part_of(values, unhidden, without, lambda: probabilities(hide(pixels, random_parts(cells))))


def matters(probs: np.ndarray, unhidden: np.ndarray) -> bool:
    """Returns whether a changed photo has another answer, or the answer at a probability that is lower by MIN_FALL."""
    answer = int(unhidden.argmax())
    return bool(probs.argmax() != answer or unhidden[answer] - probs[answer] >= MIN_FALL)


def part_of(values: np.ndarray, unhidden: np.ndarray, without: np.ndarray, others: Callable[[], np.ndarray]) -> Part:
    """Returns the part with the highest values, and whether it carries the answer.

    Args:
        values: of `occlusion`.
        unhidden: the probabilities of the photo, float (classes,); the answer is the most probable class.
        without: those of the photo without that part.
        others: returns those without each of the random parts, float (parts, classes); is called only where hiding the
            part with the highest values matters, since nothing else depends on it.
    """
    answer = int(unhidden.argmax())
    carries = matters(without, unhidden) and without[answer] < np.quantile(others()[:, answer], SPREAD)
    return Part(values, bool(carries), without)
