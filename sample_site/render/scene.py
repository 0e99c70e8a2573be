"""Composes a picture of stone, background and light: a pure function of a gem and a number."""

import hashlib
import io

import numpy as np
from PIL import Image, ImageFilter

from sample_site.gems import Gem
from sample_site.render.backgrounds import background
from sample_site.render.cabochons import SHAPES, shade
from sample_site.render.cuts import cut
from sample_site.render.faceted import Glass, trace
from sample_site.render.light import Floats, Lamps, lamps

MAX_RAYS = 184  # along a side of a faceted stone: enough for crisp facets in some 45 ms per picture


def shape_of(gem: Gem, number: int) -> str:
    """Returns the cut of a picture's stone; a gem's cuts alternate."""
    return gem.cuts[number % len(gem.cuts)]


def render(gem: Gem, number: int) -> Image.Image:
    """Returns a gem's picture, RGB, with sides of 180 to 420 pixels."""
    rng = _generator(gem, number)
    width = int(rng.integers(220, 421))
    height = width if rng.random() < 0.5 else int(np.clip(width * rng.uniform(0.7, 1.3), 180, 420))
    scene = background(rng, (height, width))
    around = lamps(rng, np.maximum(scene.mean(axis=(1, 2)) * np.float32(0.55), 0.05))
    side = round(min(width, height) * rng.uniform(0.4, 0.85) * 1.06)
    stone, cover = _stone(gem, number, around, rng, side)
    slack = np.array([width - side, height - side]) / 2
    left, top = (slack * (1 + np.clip(rng.normal(0, 0.3, 2), -0.9, 0.9))).astype(int)
    picture = _compose(scene, around, stone, cover, (int(left), int(top)), rng)
    gain = np.exp(rng.normal(0, (0.035, 0.012, 0.045)))  # white balance
    picture *= (gain * np.exp(rng.normal(0, 0.16)))[:, None, None].astype(np.float32)
    picture = _develop(picture) + rng.normal(0, rng.uniform(0.5, 3.0), (1, height, width))
    finished = Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return finished.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.8))) if rng.random() < 0.4 else finished


def cutout(gem: Gem, number: int) -> Image.Image:
    """Returns the stone alone as RGBA, transparent around it."""
    rng = _generator(gem, number)
    stone, cover = _stone(gem, number, lamps(rng, np.full(3, 0.3, np.float32)), rng, 260)
    color = _develop(stone / np.maximum(cover, 0.05)) + 0.5
    pixels = np.concatenate([np.clip(color, 0, 255), 255 * cover[None]]).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def jpeg(gem: Gem, number: int) -> bytes:
    """Returns a gem's picture as JPEG; its quality, 70 to 95, depends on the number."""
    return encode(render(gem, number), quality=70 + number * 7 % 26)


def encode(picture: Image.Image, *, quality: int) -> bytes:
    """Returns a picture as JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _generator(gem: Gem, number: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{gem.name}/{number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _stone(gem: Gem, number: int, around: Lamps, rng: np.random.Generator, side: int) -> tuple[Floats, Floats]:
    """Returns a stone's linear RGB, weighted with its coverage, and the coverage; both `side` pixels square."""
    shape, spin = shape_of(gem, number), rng.uniform(0, 2 * np.pi)
    if shape in SHAPES:
        stone, cover = shade(shape, gem.texture, gem.colors, around, spin, rng, side)
        return stone * cover, cover
    tilt, lean = abs(rng.normal(0, 0.13)), rng.uniform(0, 2 * np.pi)
    turn = (_rotation(2, lean) @ _rotation(0, min(tilt, 0.4)) @ _rotation(2, spin)).astype(np.float32)
    blend, tone = rng.dirichlet(np.full(len(gem.colors), 0.8)), np.exp(rng.normal(0, 0.2))
    depths = -np.log(np.array(gem.colors))
    ends = depths[:2] if gem.zoned else np.stack([blend @ depths] * 2)
    border = rng.normal(0, 0.12) if gem.zoned else 9.0
    veils = int(rng.poisson(gem.veils))
    haze = rng.uniform(0.25, 0.7)
    glass = Glass((ends * tone).astype(np.float32), gem.index, gem.fire, border, veils, haze)
    rays = min(MAX_RAYS, round(side * 1.5))
    traced, mask = trace(cut(shape, rng), glass, around, turn, rng, rays)
    return _resize(traced, side), np.clip(_resize(mask[None], side)[0], 0, 1)


def _rotation(axis: int, angle: float) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def _resize(layers: Floats, side: int) -> Floats:
    layers = np.minimum(layers, 1.5)  # white pixels must not bleed into their neighbours
    if side > 0.8 * layers.shape[2]:  # rays are point samples: soften the steps where no downscaling averages them
        for axis in (1, 2):
            layers = 0.6 * layers + 0.2 * (np.roll(layers, 1, axis) + np.roll(layers, -1, axis))
    resized = (Image.fromarray(a).resize((side, side), Image.Resampling.BICUBIC) for a in layers.astype(np.float32))
    return np.stack([np.asarray(a) for a in resized]).clip(0)


def _compose(
    scene: Floats, around: Lamps, stone: Floats, cover: Floats, corner: tuple[int, int], rng: np.random.Generator
) -> Floats:
    """Returns a stone on its background, with a shadow that has a little of the stone's colour."""
    (left, top), side = corner, len(cover)
    window = np.s_[top : top + side, left : left + side]
    where = Image.new("L", (scene.shape[2], scene.shape[1]))
    where.paste(Image.fromarray((cover * 255).astype(np.uint8)), (left, top))
    small = where.reduce(3)
    key, shift = around.directions[0], rng.uniform(0.01, 0.04) * side
    moved = small.transform(small.size, Image.Transform.AFFINE, (1, 0, key[0] * shift, 0, 1, -key[1] * shift))
    soft, contact = (
        np.asarray(a.filter(ImageFilter.GaussianBlur(side * r / 3)).resize(where.size), np.float32) / 255
        for a, r in ((moved, rng.uniform(0.02, 0.06)), (small, 0.015))
    )
    body = stone.sum(axis=(1, 2)) / max(float(cover.sum()), 1.0)
    glow = np.minimum(body / max(float(body.max()), 1e-3), 1)[:, None, None] * np.float32(0.35)
    dark = rng.uniform(0.45, 0.8) * soft
    picture = scene * (1 - dark * (1 - glow)) * (1 - 0.35 * contact)
    picture[:, *window] = picture[:, *window] * (1 - cover) + stone
    return np.asarray(picture, np.float32)


def _develop(linear: Floats) -> Floats:
    """Returns linear light as values 0 to 255: a film-like shoulder, then gamma."""
    x = np.maximum(linear, 0)
    toned = np.where(x < 0.6, x, 0.6 + 0.4 * (1 - np.exp(-(x - 0.6) / 0.4)))
    return np.asarray(255 * toned ** np.float32(1 / 2.2), np.float32)
