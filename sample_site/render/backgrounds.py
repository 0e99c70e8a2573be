"""Backgrounds for stones, in linear light: velvet, paper, wood, cloth, skin, slate and plain sweeps."""

from collections.abc import Callable

import numpy as np

from sample_site.render.light import Floats, noise

Shape = tuple[int, int]


def background(rng: np.random.Generator, shape: Shape) -> Floats:
    """Returns a random background of shape (3, height, width), values about 0 to 1."""
    kinds = tuple(BACKGROUNDS)
    return np.clip(BACKGROUNDS[kinds[int(rng.integers(len(kinds)))]](rng, shape), 0.001, 1.2).astype(np.float32)


def _tinted(color: tuple[float, float, float], level: Floats, rng: np.random.Generator, std: float = 0.08) -> Floats:
    tint = np.array(color) * np.exp(rng.normal(0, std, 3)) * np.exp(rng.normal(0, 0.15))
    return np.asarray(tint[:, None, None] * level, np.float32)


def _slope(rng: np.random.Generator, shape: Shape, depth: float) -> Floats:
    """Returns a smooth gradient of light across the picture, 1 at its centre."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(1 + depth * (np.cos(angle) * x + np.sin(angle) * y) - 0.25 * depth * (x * x + y * y), np.float32)


def _velvet(rng: np.random.Generator, shape: Shape) -> Floats:
    nap = 1 + 0.22 * noise(rng, shape, (240, 240)) + 0.3 * noise(rng, shape, (3, 3))
    return _tinted((0.012, 0.012, 0.014), nap * _slope(rng, shape, 0.4), rng, 0.2)


def _gradient(rng: np.random.Generator, shape: Shape) -> Floats:
    return _tinted((0.3, 0.31, 0.32), np.maximum(_slope(rng, shape, rng.uniform(0.3, 0.6)), 0.1), rng, 0.03)


def _white(rng: np.random.Generator, shape: Shape) -> Floats:
    return _tinted((0.82, 0.82, 0.82), _slope(rng, shape, 0.08), rng, 0.01)


def _paper(rng: np.random.Generator, shape: Shape) -> Floats:
    fibre = 1 + 0.02 * noise(rng, shape, (60, 60), 2) + 0.03 * noise(rng, shape, (4, 4))
    return _tinted((0.66, 0.6, 0.48), fibre * _slope(rng, shape, 0.15), rng)


def _wood(rng: np.random.Generator, shape: Shape) -> Floats:
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    lean = rng.uniform(-0.2, 0.2)
    rings = (y + lean * x) * rng.uniform(5, 11) + 0.8 * noise(rng, shape, (3, 2))
    grain = 0.5 + 0.5 * np.sin(rings * 2 + 0.5 * np.sin(rings * 5))
    pores = noise(rng, shape, (90, 5), 2)
    return _tinted((0.34, 0.17, 0.075), (0.75 + 0.4 * grain + 0.08 * pores) * _slope(rng, shape, 0.25), rng)


def _cloth(rng: np.random.Generator, shape: Shape) -> Floats:
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    pitch = rng.uniform(3.5, 6)
    weave = np.sin(rows * 2 * np.pi / pitch) * np.sin(columns * 2 * np.pi / pitch)
    folds = 1 + 0.14 * noise(rng, shape, (2, 3))
    colors = ((0.5, 0.46, 0.4), (0.16, 0.2, 0.28), (0.28, 0.06, 0.07), (0.22, 0.24, 0.2))
    color = colors[int(rng.integers(len(colors)))]
    return _tinted(color, (1 + 0.1 * weave + 0.05 * noise(rng, shape, (80, 80))) * folds, rng)


def _skin(rng: np.random.Generator, shape: Shape) -> Floats:
    tone = np.exp(-rng.uniform(0, 1.1))  # from light to dark skin, whose red falls less than its blue
    color = (0.62 * tone**0.8, 0.36 * tone, 0.26 * tone**1.15)
    creases = np.clip(0.3 - np.abs(noise(rng, shape, (3, 2), 2)), 0, 1) * 0.25
    pores = 1 + 0.015 * noise(rng, shape, (60, 60))
    return _tinted(color, (pores + 0.07 * noise(rng, shape, (3, 3)) - creases) * _slope(rng, shape, 0.2), rng, 0.04)


def _slate(rng: np.random.Generator, shape: Shape) -> Floats:
    rough = 1 + 0.16 * noise(rng, shape, (6, 5), 5)
    return _tinted((0.1, 0.108, 0.115), rough * _slope(rng, shape, 0.2), rng)


BACKGROUNDS: dict[str, Callable[[np.random.Generator, Shape], Floats]] = {
    "velvet": _velvet,
    "gradient": _gradient,
    "white": _white,
    "paper": _paper,
    "wood": _wood,
    "cloth": _cloth,
    "skin": _skin,
    "slate": _slate,
}
