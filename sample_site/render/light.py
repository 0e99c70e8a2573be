"""The surroundings of a stone: soft boxes and sparkling lamps over a dark table, and smooth noise for surfaces."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Lamps:
    """The light around a stone, in linear RGB; +z points at the camera.

    Attributes:
        directions: Unit vectors towards the lamps, shape (n, 3); the first one is the key light.
        edges: Cosines of the angles at which a lamp's glow begins and at which it is full, shape (n, 2).
        colors: Linear RGB radiance of each lamp, shape (n, 3).
        dome: Radiance of the ceiling.
        floor: Radiance of the background, which shows through the back of a stone.
    """

    directions: Floats
    edges: Floats
    colors: Floats
    dome: Floats
    floor: Floats

    def radiance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Returns the RGB radiance from the directions (x, y, z), each of shape (n,), as shape (3, n)."""
        above = np.clip(z * 3 + 0.3, 0, 1)
        ceiling = above * (0.35 + 0.65 * np.clip(z, 0, 1))
        total = self.dome[:, None] * ceiling + self.floor[:, None] * (1 - above)
        for (lx, ly, lz), (outer, inner), color in zip(self.directions, self.edges, self.colors, strict=True):
            glow = np.clip((x * lx + y * ly + z * lz - outer) / (inner - outer), 0, 1)
            total += color[:, None] * glow
        camera = 1 - 0.8 * np.clip((z - 0.955) / 0.03, 0, 1)  # its dark lens, which gives contrast
        return np.asarray(total * camera, np.float32)


def lamps(rng: np.random.Generator, floor: Floats) -> Lamps:
    """Returns a random studio: a key soft box, some more soft boxes, and small lamps that make a stone sparkle."""
    boxes, sparks = int(rng.integers(3, 6)), int(rng.integers(5, 10))
    turn = rng.uniform(0, 2 * np.pi)
    azimuth = np.concatenate([turn + np.arange(boxes) * 2 * np.pi / boxes, rng.uniform(0, 2 * np.pi, sparks)])
    azimuth += rng.normal(0, 0.25, boxes + sparks)
    azimuth[0] = rng.uniform(0.15, 0.85) * np.pi  # the key light is behind the stone, as in most photos
    height = np.concatenate([rng.uniform(0.55, 1.15, boxes), rng.uniform(0.3, 1.35, sparks)])
    width = np.concatenate([rng.uniform(0.22, 0.42, boxes), rng.uniform(0.05, 0.12, sparks)])
    power = np.concatenate([rng.uniform(1.2, 2.8, boxes), rng.uniform(3.0, 9.0, sparks)])
    power[0] *= 1.3
    directions = np.stack([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)], axis=1)
    edges = np.stack([np.cos(width), np.cos(width * 0.75)], axis=1)
    tint = np.array([1.0, 0.98, 0.95]) + rng.normal(0, 0.02, (boxes + sparks, 3))
    dome = rng.uniform(0.16, 0.34) * np.array([0.97, 1.0, 1.04])
    return Lamps(*(np.asarray(a, np.float32) for a in (directions, edges, power[:, None] * tint, dome, floor)))


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float], octaves: int = 1) -> Floats:
    """Returns smooth noise of mean 0 and std about 1, with some `cells` bumps along (height, width)."""
    total, weight = np.zeros(shape, np.float32), 1.0
    for octave in range(octaves):
        rows, columns = (min(max(int(c * 2**octave), 2), s) for c, s in zip(cells, shape, strict=True))
        grid = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
        total += weight * np.asarray(grid.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
        weight *= 0.5
    return np.asarray(total / (np.std(total) + 1e-6), np.float32)
