"""The cuts of faceted stones: convex polyhedra as half-spaces, with the girdle at z = 0 and the table above it."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Plane = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cut:
    """A convex stone: the points p with `normals @ p <= offsets`.

    Attributes:
        normals: Outward unit normals, shape (n, 3).
        offsets: Distances of the planes from the origin, shape (n,).
        mirrored: Whether plane 0 is x = 0, and the other half of the stone is the mirror image.
    """

    normals: Floats
    offsets: Floats
    mirrored: bool = False


def cut(name: str, rng: np.random.Generator) -> Cut:
    """Returns the named cut with slightly random proportions, within a radius of about 1."""
    return CUTS[name](rng)


def _cut(planes: list[Plane], *, mirrored: bool = False) -> Cut:
    table = np.array(planes)
    table /= np.linalg.norm(table[:, :3], axis=1, keepdims=True)
    return Cut(table[:, :3].astype(np.float32), table[:, 3].astype(np.float32), mirrored)


def _brilliant(outline: Doubles, rng: np.random.Generator, *, mains: int = 8, half: bool = False) -> Cut:
    """Returns an outline with the facets of a round brilliant (GIA's names: star, bezel, upper girdle ...).

    Args:
        outline: Closed convex curve around the origin, points of shape (n, 2) in counter-clockwise order.
        rng: Source of the proportions.
        mains: Number of bezel facets, and of pavilion mains.
        half: Whether the outline is the right half of a mirrored stone.
    """
    steps = np.roll(outline, -1, axis=0) - outline
    ends = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    size = float(np.mean(np.hypot(outline[:, 0], outline[:, 1])))
    table, crown = rng.uniform(0.52, 0.62), rng.uniform(0.28, 0.34) * size
    pavilion, girdle = rng.uniform(0.84, 0.96) * size, rng.uniform(0.02, 0.05)
    upper, lower = rng.uniform(1.2, 1.3), rng.uniform(1.04, 1.08)

    def facing(fractions: list[float]) -> list[tuple[float, float, float]]:
        """Returns the normal and the support distance at each fraction of the circumference."""
        facets = []
        for fraction in fractions:
            before, after = (np.searchsorted(ends[1:], (fraction + d) % 1.0 * ends[-1]) for d in (-0.004, 0.004))
            chord = outline[(after + 1) % len(outline)] - outline[before]
            x, y = np.array([chord[1], -chord[0]]) / np.hypot(*chord)
            if not half or x > -0.2:
                facets.append((float(x), float(y), float(np.max(outline @ np.array([x, y])))))
        return facets

    whole = [k / mains for k in range(mains)]
    between = [(k + 0.5) / mains for k in range(mains)]
    quarters = [(k + d) / mains for k in range(mains) for d in (-0.25, 0.25)]
    planes: list[Plane] = [(-1.0, 0.0, 0.0, 0.0)] if half else []
    planes.append((0.0, 0.0, 1.0, crown))
    for x, y, h in facing(whole):
        planes.append((crown * x, crown * y, (1 - table) * h, crown * h))
        planes.append((pavilion * x, pavilion * y, -h, (pavilion + girdle) * h))
    for x, y, h in facing(between):
        slope, edge = 0.6 * crown, table * h * np.cos(np.pi / mains)
        planes.append((slope * x, slope * y, (1 - table) * h, slope * edge + (1 - table) * h * crown))
    for x, y, h in facing(quarters):
        planes.append((upper * crown * x, upper * crown * y, (1 - table) * h, upper * crown * h))
        planes.append((lower * pavilion * x, lower * pavilion * y, -h, (lower * pavilion + girdle) * h))
    planes.extend((x, y, 0.0, h) for x, y, h in facing([(k + 0.5) / 32 for k in range(32)]))
    return _cut(planes, mirrored=half)


def _superellipse(ratio: float, power: float = 2.0) -> Doubles:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    points = np.stack([radius * c, ratio * radius * s], axis=1)
    return np.asarray(points / max(1.0, float(radius.max()) ** 0.6))


def _round(rng: np.random.Generator) -> Cut:
    return _brilliant(_superellipse(1.0), rng)


def _oval(rng: np.random.Generator) -> Cut:
    return _brilliant(_superellipse(rng.uniform(0.7, 0.85)), rng)


def _cushion(rng: np.random.Generator) -> Cut:
    return _brilliant(_superellipse(rng.uniform(0.78, 1.0), rng.uniform(2.6, 3.4)), rng)


def _marquise(rng: np.random.Generator) -> Cut:
    ratio = rng.uniform(0.48, 0.56)  # two arcs of a circle, meeting in a point at either end
    radius = (1 + ratio**2) / (2 * ratio)
    reach = np.arcsin(1 / radius)
    angle = np.linspace(reach, -reach, 360, endpoint=False)
    upper = np.stack([radius * np.sin(angle), radius * np.cos(angle) - (radius - ratio)], axis=1)
    return _brilliant(np.concatenate([upper, -upper]), rng)


def _pear(rng: np.random.Generator) -> Cut:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    width = rng.uniform(0.62, 0.7)
    narrowing = np.sin(angle / 2) ** rng.uniform(0.55, 0.7)
    outline = np.stack([np.cos(angle) + 0.25, width * np.sin(angle) * narrowing * 1.12], axis=1)
    return _brilliant(outline - np.array([0.33, 0.0]), rng)


def _trillion(rng: np.random.Generator) -> Cut:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    radius = 0.95 * (1 + rng.uniform(0.07, 0.1) * np.cos(3 * angle))
    return _brilliant(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), rng, mains=9)


def _heart(rng: np.random.Generator) -> Cut:
    side, top, radius, tip = 0.46, 0.3, rng.uniform(0.47, 0.52), -0.98
    angle = np.linspace(0, np.pi, 400)
    lobe = np.stack([side + radius * np.cos(angle), top + radius * np.sin(angle)], axis=1)
    t = np.linspace(0, 1, 300, endpoint=False)[:, None]  # a Bezier curve from the tip to the lobe
    belly = (1 - t) ** 2 * [[0, tip]] + 2 * t * (1 - t) * [[side + radius, -0.22]] + t * t * lobe[:1]
    return _brilliant(np.concatenate([belly, lobe]), rng, mains=12, half=True)


def _emerald(rng: np.random.Generator) -> Cut:
    """Returns a step cut: a rectangle with cut corners, whose facets run in steps parallel to the girdle."""
    length, width, corner = 0.92, rng.uniform(0.62, 0.76), rng.uniform(0.16, 0.26)
    sides = [(1.0, 0.0, length), (0.0, 1.0, width), (-1.0, 0.0, length), (0.0, -1.0, width)]
    root = np.sqrt(0.5)
    sides += [(x * root, y * root, (length + width - corner) * root) for x in (-1, 1) for y in (-1, 1)]
    girdle, deep = -rng.uniform(0.02, 0.05), rng.uniform(0.9, 1.1)
    crown = [(0.0, 0.0), (0.09, 0.12), (0.18, 0.20), (0.28, 0.25)]
    pavilion = [(0.0, girdle), (0.2, -0.3 * deep), (0.42, -0.55 * deep), (0.62, -0.72 * deep)]
    planes: list[Plane] = [(0.0, 0.0, 1.0, crown[-1][1])]
    for x, y, h in sides:
        planes.append((x, y, 0.0, h))
        for (a, za), (b, zb) in pairwise(crown):
            planes.append(((zb - za) * x, (zb - za) * y, b - a, (zb - za) * (h - a) + (b - a) * za))
        for (a, za), (b, zb) in pairwise(pavilion):
            planes.append(((za - zb) * x, (za - zb) * y, a - b, (za - zb) * (h - a) + (a - b) * za))
    return _cut(planes)


CUTS: dict[str, Callable[[np.random.Generator], Cut]] = {
    "round": _round,
    "oval": _oval,
    "cushion": _cushion,
    "emerald": _emerald,
    "pear": _pear,
    "heart": _heart,
    "marquise": _marquise,
    "trillion": _trillion,
}
