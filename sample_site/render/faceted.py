"""A ray tracer for faceted stones: refraction, total internal reflection, Fresnel, absorption, fire and veils.

Rays are separate x, y and z arrays, intersected with one plane at a time. So the arrays stay in the cache, and no BLAS
is used, whose results could depend on its threads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sample_site.render.cuts import Cut
from sample_site.render.light import Floats, Lamps, noise

Ints = NDArray[np.intp]
Vector = tuple[Floats, Floats, Floats]
BOUNCES = 5


@dataclass(frozen=True)
class Glass:
    """The inside of a stone.

    Attributes:
        absorption: Optical depth for each of R, G, B over a length of 1, at either end of the stone, shape (2, 3).
        index: Refractive index.
        fire: Dispersion: relative difference of the index between blue and red.
        border: Local x at which the absorption changes from the first to the second.
        veils: Number of veils and feathers that cross the stone.
        haze: How much of the light the veils scatter, 0 to 1.
    """

    absorption: Floats
    index: float
    fire: float = 0.0
    border: float = 9.0
    veils: int = 0
    haze: float = 0.5


def trace(
    cut: Cut, glass: Glass, lamps: Lamps, turn: Floats, rng: np.random.Generator, size: int
) -> tuple[Floats, Floats]:
    """Returns the linear RGB of a stone seen from above, shape (3, size, size), and its hard mask, (size, size).

    Args:
        cut: Shape of the stone, within a radius of about 1; the picture spans -1.06 to 1.06.
        glass: The inside of the stone.
        lamps: Its surroundings.
        turn: Rotation matrix from the stone's axes to the camera's.
        rng: Source of the veils.
        size: Rays along a side.
    """
    axis = np.linspace(-1.06, 1.06, size, dtype=np.float32)
    x, y = (a.ravel() for a in np.meshgrid(axis, -axis))
    down = -turn[2]
    start = tuple(turn[0, i] * x + turn[1, i] * y + 3 * turn[2, i] for i in range(3))
    hit, facet, depth, side = _meet(cut, start, down)
    p = [(s + depth * d)[hit] for s, d in zip(start, down, strict=True)]
    facet, side = facet[hit], side[hit]
    if cut.mirrored:
        p[0] *= side
    n = [cut.normals[facet, i] for i in range(3)]
    sign = (side, np.float32(1), np.float32(1))
    d = [np.full_like(p[0], down[i]) * sign[i] for i in range(3)]
    inward = -_dot(d, n)
    reflected, transmitted, bent = _fresnel(inward, 1 / glass.index)
    total = reflected * _view(lamps, turn, [d[i] + 2 * inward * n[i] for i in range(3)], p, side)
    k = inward / glass.index - bent
    d = [d[i] / np.float32(glass.index) + k * n[i] for i in range(3)]
    veils = _Veils(rng, glass.veils, glass.haze)
    alive, weight, tau = np.arange(len(side)), transmitted, np.zeros((3, len(side)), np.float32)
    for bounce in range(BOUNCES):
        facet, length = _leave(cut, p, d)
        q = [p[i] + length * d[i] for i in range(3)]
        tau += _optical_depth(glass, p, q, length)
        if glass.veils and bounce < 3:
            shine, clear = veils.scatter(p, q)
            total[:, alive] += weight * shine * np.exp(-tau) * (lamps.dome[:, None] * 3.5)
            weight = weight * clear
        n = [cut.normals[facet, i] for i in range(3)]
        outward = _dot(d, n)
        mirror = (facet == 0) & cut.mirrored
        reflected, transmitted, bent = _fresnel(outward, glass.index)
        transmitted = np.where(mirror, 0, transmitted)
        out = np.flatnonzero(transmitted > 0)
        out_d, out_n, out_p = ([a[out] for a in v] for v in (d, n, q))
        light = _outside(glass, lamps, turn, (out_d, out_n, out_p), outward[out], side[out])
        total[:, alive[out]] += weight[out] * transmitted[out] * np.exp(-tau[:, out]) * light
        weight = weight * (1 - transmitted)
        d = [d[i] - 2 * outward * n[i] for i in range(3)]
        side = np.where(mirror, -side, side)
        keep = np.flatnonzero(weight > 0.15)
        alive, weight, side, tau = alive[keep], weight[keep], side[keep], tau[:, keep]
        p, d = [a[keep] for a in q], [a[keep] for a in d]
    total[:, alive] += weight * np.exp(-tau) * lamps.dome[:, None]  # the rays left get average light
    picture = np.zeros((3, size * size), np.float32)
    picture[:, hit] = total
    return picture.reshape(3, size, size), hit.reshape(size, size).astype(np.float32)


def _dot(a: list[Floats], b: list[Floats]) -> Floats:
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], np.float32)


def _meet(cut: Cut, start: Vector, down: Floats) -> tuple[NDArray[np.bool_], Ints, Floats, Floats]:
    """Returns which parallel rays hit the stone, the facet, the distance, and 1 or -1 for the half that they hit."""
    count = len(start[0])
    nearest, facet = np.full(count, np.inf, np.float32), np.zeros(count, np.intp)
    side = np.ones(count, np.float32)
    for half in (1.0, -1.0) if cut.mirrored else (1.0,):
        near, far = np.full(count, -np.inf, np.float32), np.full(count, np.inf, np.float32)
        first = np.zeros(count, np.intp)
        for i, ((a, b, c), offset) in enumerate(zip(cut.normals, cut.offsets, strict=True)):
            a = a * np.float32(half)
            slope = a * down[0] + b * down[1] + c * down[2]
            reach = (offset - (a * start[0] + b * start[1] + c * start[2])) / (slope if abs(slope) > 1e-6 else 1e-6)
            if slope < 0:
                first[reach > near] = i
                np.maximum(near, reach, out=near)
            else:
                np.minimum(far, reach, out=far)
        better = (near < far) & (near < nearest)
        nearest, facet = np.where(better, near, nearest), np.where(better, first, facet)
        side = np.where(better, np.float32(half), side)
    hit = np.isfinite(nearest)
    return hit, facet, np.where(hit, nearest, np.float32(0)), side


def _leave(cut: Cut, p: list[Floats], d: list[Floats]) -> tuple[Ints, Floats]:
    """Returns the facet that each ray inside the stone meets next, and how far away it is."""
    best, facet = np.full(len(p[0]), 1e-3, np.float32), np.zeros(len(p[0]), np.intp)
    slope, room, part = np.empty_like(best), np.empty_like(best), np.empty_like(best)
    for i, ((a, b, c), offset) in enumerate(zip(cut.normals, cut.offsets, strict=True)):
        np.multiply(d[0], a, out=slope)
        slope += np.multiply(d[1], b, out=part)
        slope += np.multiply(d[2], c, out=part)
        np.multiply(p[0], -a, out=room)
        room -= np.multiply(p[1], b, out=part)
        room -= np.multiply(p[2], c, out=part)
        room += offset
        np.maximum(room, 1e-5, out=room)
        slope /= room
        nearer = slope > best
        np.copyto(best, slope, where=nearer)
        np.copyto(facet, i, where=nearer)
    return facet, 1 / best


def _fresnel(cosine: Floats, ratio: float) -> tuple[Floats, Floats, Floats]:
    """Returns the reflected and transmitted fraction, and the cosine of the refracted ray (0 in total reflection)."""
    cosine = np.clip(cosine, 0, 1)
    square = 1 - ratio * ratio * (1 - cosine * cosine)
    bent = np.sqrt(np.maximum(square, 0))
    s = (ratio * cosine - bent) / (ratio * cosine + bent + 1e-6)
    p = (cosine - ratio * bent) / (cosine + ratio * bent + 1e-6)
    reflected = np.where(square > 0, (s * s + p * p) / 2, 1).astype(np.float32)
    return reflected, 1 - reflected, np.asarray(bent, np.float32)


def _view(lamps: Lamps, turn: Floats, d: list[Floats], p: list[Floats], side: Floats) -> Floats:
    """Returns the light from direction d at p; lamps are near, so that it varies across a facet."""
    v = [(d[0] + 0.18 * p[0]) * side, d[1] + 0.18 * p[1], d[2]]
    seen = [turn[i, 0] * v[0] + turn[i, 1] * v[1] + turn[i, 2] * v[2] for i in range(3)]
    scale = 1 / np.sqrt(_dot(seen, seen))
    return lamps.radiance(seen[0] * scale, seen[1] * scale, seen[2] * scale)


def _outside(
    glass: Glass, lamps: Lamps, turn: Floats, ray: tuple[list[Floats], ...], cosine: Floats, side: Floats
) -> Floats:
    """Returns the light that a ray meets after leaving the stone; R, G and B refract with their own index."""
    d, n, p = ray
    channels = []
    for channel in (-1, 0, 1) if glass.fire else (0,):
        index = np.float32(glass.index * (1 + channel * glass.fire))
        bent = np.sqrt(np.maximum(1 - index * index * (1 - cosine * cosine), 0))
        k = bent - index * cosine
        channels.append(_view(lamps, turn, [index * d[i] + k * n[i] for i in range(3)], p, side))
    return np.stack([channels[i][i] for i in range(3)]) if glass.fire else channels[0]


def _optical_depth(glass: Glass, p: list[Floats], q: list[Floats], length: Floats) -> Floats:
    second = np.clip(((p[0] + q[0]) / 2 - glass.border) * 6 + 0.5, 0, 1) if glass.border < 2 else np.float32(0)
    depth = glass.absorption[0][:, None] * (1 - second) + glass.absorption[1][:, None] * second
    return np.asarray(depth * length, np.float32)


class _Veils:
    """Warped sheets of tiny inclusions: a ray that crosses a sheet scatters where the sheet's texture is dense."""

    def __init__(self, rng: np.random.Generator, count: int, haze: float) -> None:
        self.sheets = []
        for _ in range(count):
            normal = rng.normal(0, 1, 3) * np.array([1, 1, 0.6])
            normal /= np.linalg.norm(normal)
            wisps = noise(rng, (128, 128), (4, 9), 4) + 0.7 * noise(rng, (128, 128), (2, 2))
            dense = np.clip(wisps * 0.55 - rng.uniform(0.1, 0.5), 0, 1) * haze
            self.sheets.append(
                (normal.astype(np.float32), np.float32(rng.uniform(-0.45, 0.45)), rng.uniform(3, 6), dense)
            )

    def scatter(self, p: list[Floats], q: list[Floats]) -> tuple[Floats, Floats]:
        """Returns the light scattered towards the eye between p and q, and the fraction that passes."""
        clear = np.ones_like(p[0])
        for normal, offset, waves, dense in self.sheets:
            here, there = (
                normal[0] * r[0] + normal[1] * r[1] + normal[2] * r[2] + 0.08 * np.sin(waves * (r[1] - r[2])) - offset
                for r in (p, q)
            )
            hit = np.flatnonzero(here * there < 0)
            fraction = here[hit] / (here[hit] - there[hit])
            x, y, z = (a[hit] + fraction * (b[hit] - a[hit]) for a, b in zip(p, q, strict=True))
            row, column = (np.clip((v + 1.2) * 53, 0, 127).astype(np.intp) for v in (x + 0.3 * z, y - 0.4 * z))
            clear[hit] *= 1 - dense[row, column]
        return 1 - clear, clear
