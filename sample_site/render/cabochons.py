"""Cabochons: polished domes with a texture, a soft-box reflection, and the silk that makes stars and cat's eyes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sample_site.render.light import Floats, Lamps, noise

SHAPES = ("oval cabochon", "round cabochon", "cushion cabochon", "pear cabochon", "tumbled")


@dataclass(frozen=True)
class Dome:
    """A dome's visible surface, each array of shape (size, size).

    Attributes:
        x, y: Position along the stone's own axes, -1 to 1.
        level: 0 at the centre, 1 at the rim, more outside.
        normal: Outward normal in the camera's axes, shape (3, size, size).
        along: Angle in the picture of the stone's x axis, radians.
    """

    x: Floats
    y: Floats
    level: Floats
    normal: Floats
    along: float


Color = tuple[float, float, float]
Texture = Callable[[Dome, list[Floats], np.random.Generator], tuple[Floats, Floats]]


def shade(
    shape: str, texture: str, colors: tuple[Color, ...], lamps: Lamps, spin: float, rng: np.random.Generator, size: int
) -> tuple[Floats, Floats]:
    """Returns the linear RGB of a cabochon seen from above, shape (3, size, size), and its coverage, (size, size)."""
    dome = _dome(shape, spin, rng, size)
    albedo, silk = TEXTURES[texture](dome, [np.array(c, np.float32)[:, None, None] for c in colors], rng)
    nx, ny, nz = dome.normal
    clear = 0.35 if texture in ("star", "catseye") else 0.1
    light = lamps.dome[:, None, None] * (1.0 + nz) * 1.1
    for (lx, ly, lz), (outer, _), color in zip(lamps.directions, lamps.edges, lamps.colors, strict=True):
        facing = nx * lx + ny * ly + nz * lz
        power = 2.2 * (1 - outer) * color[:, None, None]  # a lamp's solid angle
        light = light + power * np.clip((facing + clear) / (1 + clear), 0, 1)
        light = light + power * clear * 0.5 * np.clip(-(nx * lx + ny * ly) * dome.level, 0, 1)  # shines through
    picture = albedo * light
    if silk.any():
        tight = rng.uniform(*{"star": (300, 900), "catseye": (150, 500)}.get(texture, (35, 80)))
        gloss = lamps.colors[0][:, None, None] * (0.4 + 0.6 * albedo / albedo.max())
        arms = (0.0, np.pi / 3, 2 * np.pi / 3) if texture == "star" else (np.pi / 2,)
        for arm in arms:
            picture = picture + silk * gloss * _sheen(dome, lamps.directions[0], arm, tight)
    mirror = 0.04 + 0.6 * (1 - nz) ** 5
    boxes = replace(lamps, directions=lamps.directions[:2], edges=lamps.edges[:2], colors=lamps.colors[:2])
    seen = boxes.radiance(*(a.ravel() for a in (2 * nz * nx, 2 * nz * ny, 2 * nz * nz - 1)))
    picture = picture + mirror * 2.2 * seen.reshape(3, size, size)
    return np.asarray(picture, np.float32), np.clip((1 - dome.level) * size * 0.45 + 0.5, 0, 1).astype(np.float32)


def _dome(shape: str, spin: float, rng: np.random.Generator, size: int) -> Dome:
    axis = np.linspace(-1.06, 1.06, size, dtype=np.float32)
    across, up = np.meshgrid(axis, -axis)
    c, s = np.float32(np.cos(spin)), np.float32(np.sin(spin))
    x, y = c * across + s * up, c * up - s * across
    ratio, power = (1.0 if shape == "round cabochon" else rng.uniform(0.68, 0.86)), 2.0
    if shape == "cushion cabochon":
        power = rng.uniform(3.0, 4.5)
    v = y / np.float32(ratio)
    if shape == "pear cabochon":
        v = v / (1 - np.float32(0.38) * x) * np.float32(0.95)
    level = (np.abs(x) ** power + np.abs(v) ** power) ** np.float32(1 / power) / (0.96 if power > 2 else 1.0)
    if shape == "tumbled":
        angle = np.arctan2(v, x)
        for k in (2, 3, 5):
            level *= 1 + rng.uniform(0.01, 0.16 / k) * np.sin(k * angle + rng.uniform(0, 6.28)).astype(np.float32)
    level = np.asarray(level, np.float32)
    height, flat = rng.uniform(0.45, 0.75), rng.uniform(2.0, 3.0)
    bulge = np.minimum(level, 1.0) ** flat
    rise, run = np.gradient(bulge, 2.12 / (size - 1))
    z = height * np.sqrt(np.maximum(1 - bulge, 0.0))
    normal = np.stack([height**2 * run / 2, -(height**2) * rise / 2, z + 1e-3])
    normal /= np.sqrt((normal**2).sum(axis=0))
    return Dome(x, y, level, normal.astype(np.float32), spin)


def _sheen(dome: Dome, lamp: Floats, arm: float, tight: float) -> Floats:
    """Returns the highlight of fibres that lie across the band (Kajiya and Kay 1989), 0 to 1."""
    angle = dome.along + arm
    t = np.array([np.cos(angle), np.sin(angle), 0.0], np.float32)
    nx, ny, nz = dome.normal
    slope = t[0] * nx + t[1] * ny
    tx, ty, tz = t[0] - slope * nx, t[1] - slope * ny, -slope * nz
    half = lamp * np.float32(0.35) + np.array([0, 0, 1], np.float32)
    half /= np.sqrt((half**2).sum())
    along = (tx * half[0] + ty * half[1] + tz * half[2]) / np.sqrt(tx * tx + ty * ty + tz * tz + 1e-6)
    return np.asarray((1 - along**2) ** tight * nz, np.float32)


def _mix(a: Floats, b: Floats, weight: Floats) -> Floats:
    return np.asarray(a + (b - a) * np.clip(weight, 0, 1), np.float32)


def _sheer(dome: Dome, colors: list[Floats], rng: np.random.Generator) -> tuple[Floats, Floats]:
    shape = dome.x.shape
    body = _mix(colors[0], colors[1], noise(rng, shape, (2, 2)) * 0.25 + rng.uniform(0.1, 0.9))
    body = body * (1 + 0.06 * noise(rng, shape, (5, 5), 3))
    return body, rng.uniform(0.14, 0.34) * (1 + 0.12 * noise(rng, shape, (12, 12), 2))


def _tiger(dome: Dome, colors: list[Floats], rng: np.random.Generator) -> tuple[Floats, Floats]:
    shape = dome.x.shape
    warp = dome.x + 0.1 * noise(rng, shape, (3, 3)) + 0.02 * noise(rng, shape, (10, 10))
    band = _profile(rng, warp, rng.uniform(7, 14))
    strand = _profile(rng, warp + 0.01 * noise(rng, shape, (20, 20)), 70)
    body = _mix(colors[0], colors[1], 0.5 + 0.5 * band)
    body = _mix(body, colors[2], np.clip(band - 0.9, 0, 1)) * (1 + 0.12 * strand)
    return np.clip(body, 0.004, 1), np.clip(0.35 + 0.25 * band, 0.03, 1) * rng.uniform(0.5, 0.9)


def _turquoise(dome: Dome, colors: list[Floats], rng: np.random.Generator) -> tuple[Floats, Floats]:
    shape = dome.x.shape
    body = _mix(colors[0], colors[1], 0.5 + 0.3 * noise(rng, shape, (3, 3), 3) + rng.uniform(-0.5, 0.5))
    body = body * (1 + 0.04 * noise(rng, shape, (30, 30), 2))
    ridge = np.abs(noise(rng, shape, (5, 5), 3))
    patch = noise(rng, shape, (2, 2))
    width = rng.choice([0.0, 0.05, 0.1, 0.16]) * np.clip(0.7 + 0.6 * patch, 0, 2)
    vein = np.clip((width - ridge) / 0.04 + 0.3, 0, 1) * (width > 0)
    return _mix(body, colors[2], vein * 0.9), np.zeros(shape, np.float32)


def _malachite(dome: Dome, colors: list[Floats], rng: np.random.Generator) -> tuple[Floats, Floats]:
    shape = dome.x.shape
    far = np.full(shape, np.inf, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        cx, cy = rng.uniform(-1.3, 1.3, 2)
        far = np.minimum(far, np.hypot(dome.x - cx, dome.y - cy) * rng.uniform(0.8, 1.2))
    far = far + 0.07 * noise(rng, shape, (4, 4), 2)
    band = _profile(rng, far, rng.uniform(9, 18)) + 0.5 * _profile(rng, far, 45)
    body = _mix(colors[0], colors[1], 0.5 + 0.6 * band)
    return _mix(body, colors[2], (band - 1.1) * 1.2), np.zeros(shape, np.float32)


def _lapis(dome: Dome, colors: list[Floats], rng: np.random.Generator) -> tuple[Floats, Floats]:
    shape = dome.x.shape
    body = _mix(colors[0], colors[1], 0.4 + 0.35 * noise(rng, shape, (6, 6), 4))
    calcite = np.clip((noise(rng, shape, (3, 4), 5) - rng.uniform(1.2, 2.6)) * 1.2, 0, 0.8)
    body = _mix(body, np.full((3, 1, 1), 0.6, np.float32), calcite)
    where = noise(rng, shape, (2, 3)) * 0.6 + noise(rng, shape, (75, 75))
    fleck = np.clip((where - rng.uniform(1.9, 2.5)) * 4, 0, 1)
    glint = 0.6 + 1.2 * rng.random(shape, np.float32)
    return _mix(body, colors[2] * glint, fleck), np.zeros(shape, np.float32)


def _profile(rng: np.random.Generator, where: Floats, bumps: float) -> Floats:
    """Returns 1-D noise with `bumps` per unit, sampled at each position: bands along the contours of `where`."""
    line = noise(rng, (2, 1024), (2, bumps * 4))[0]
    return np.asarray(np.interp(where, np.linspace(-2, 2, 1024), line), np.float32)


TEXTURES: dict[str, Texture] = {
    "star": _sheer,
    "catseye": _sheer,
    "tiger": _tiger,
    "turquoise": _turquoise,
    "malachite": _malachite,
    "lapis": _lapis,
}
