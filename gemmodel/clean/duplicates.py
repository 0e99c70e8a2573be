"""Which photos show one picture: rescaled, recompressed, cropped a little or mirrored.

Three sieves, each finer and dearer than the one before, so that of 100,000 photos few pairs are ever compared:

1. the nearest neighbours by colour layout (the 12 numbers of MPEG-7's descriptor of that name), in a k-d tree;
2. the perceptual hash (ImageHash's `phash`, 64 bits);
3. the thumbnails, laid over each other: a crop is undone first (Lucas and Kanade 1981; a scale and a shift an axis),
   then colour and fine detail have to agree. A cabochon on white is like every other until its detail is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from gemmodel.core.params import CleanParams
from gemmodel.images import phash

Array = NDArray[Any]

SIDES = (16, 32, 64)  # pixels of the thumbnails
SETTLED = 32  # the side at which five times less dissimilarity settles it: a much smaller copy has no finer detail
SLACK = (0.5, 0.15, 0.0)  # by how much a pair may miss the limits at each size and still go on to the next
LAYOUT = ((0, 0, 1, 2, 1, 0), (0, 1, 0, 0, 1, 2)), (6, 3, 3)  # rows and columns in zigzag; how many of Y, Cb, Cr
MIRRORED = np.concatenate([[(-1) ** column for column in LAYOUT[0][1][:count]] for count in LAYOUT[1]])
NEIGHBOURS = 10  # candidates a photo, so that a class of like pictures costs no more than any other
REACH = 24.0  # grey levels between two layouts; with 5 % cropped away they stay below 21
TIE = 0.05  # grey levels of noise, so that equal layouts do not all sit in one leaf of the tree
STRETCH, SHIFT = 1.18, 0.15  # the most that a crop may scale an axis, and move it in half sides
DETAIL = 10.0  # grey levels of fine detail, above which more of it hardly counts
BATCH = 500  # pairs that are compared at a time


@dataclass(frozen=True)
class Descriptor:
    """What a photo is recognised by.

    Attributes:
        views: Thumbnails: grey of shape (1, 16, 16) and (1, 32, 32), RGB of shape (3, 64, 64), all uint8.
        layout: MPEG-7's colour layout before its quantisation, float32 of shape (12,), in grey levels.
        hashes: 64 bits each of the photo and of its mirror image, uint64 of shape (2,).
    """

    views: tuple[Array, Array, Array]
    layout: Array
    hashes: Array


def describe(image: Image.Image) -> Descriptor:
    """Describes an RGB picture of any size."""
    small, half = phash.thumbnails(image)
    quarter = half.resize((SIDES[0], SIDES[0]), Image.Resampling.BOX)
    tiny = small.resize((8, 8), Image.Resampling.BOX).convert("YCbCr")
    spectrum = dctn(np.asarray(tiny, np.float32), axes=(0, 1), norm="ortho") / 8
    (rows, columns), counts = LAYOUT
    return Descriptor(
        (
            np.asarray(quarter)[np.newaxis],
            np.asarray(half)[np.newaxis],
            np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1)),
        ),
        np.concatenate([spectrum[rows[:count], columns[:count], channel] for channel, count in enumerate(counts)]),
        phash.phash(half),
    )


def candidates(layouts: Array) -> Array:
    """Finds each photo's nearest neighbours, of it as it is and of its mirror image.

    Args:
        layouts: a colour layout a row.

    Returns:
        Sorted rows (i, j, mirrored), i < j; at most 2 * NEIGHBOURS a photo.
    """
    points = layouts + np.random.default_rng(0).normal(0, TIE, layouts.shape)
    tree = KDTree(points)
    found = []
    for mirrored, views in enumerate((points, points * MIRRORED)):
        near = tree.query(views, NEIGHBOURS + 1, eps=1, distance_upper_bound=REACH, workers=-1)[1]
        i, place = np.nonzero((near < len(points)) & (near != np.arange(len(points))[:, np.newaxis]))
        j = near[i, place]
        found.append(np.stack([np.minimum(i, j), np.maximum(i, j), np.full(len(i), mirrored)], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def verify_pairs(looks: Sequence[Descriptor], pairs: Array, params: CleanParams) -> Array:
    """Tells which pairs show one picture.

    Args:
        looks: of all photos.
        pairs: rows (i, j, mirrored).
        params: `hash_distance` in bits of 64; `pixel_difference` as the mean over the thumbnails in [0, 255];
            `similarity` of their fine detail, at most 1.

    Returns:
        A truth value a pair.
    """
    hashes = np.stack([describe.hashes for describe in looks])
    distance = np.bitwise_count(hashes[pairs[:, 0], 0] ^ hashes[pairs[:, 1], pairs[:, 2]])
    found = distance <= params.hash_distance
    places = np.flatnonzero(found)
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        frames = np.tile(np.array([[1, 0], [1, 0]], np.float32), (len(batch), 1, 1))
        for size, slack in enumerate(SLACK):
            if not len(batch):
                break
            a, b = _sides(looks, size, pairs[batch])
            frames = _aligned(a, b, frames) if slack else frames
            seen, mask = _through(b, frames)
            similarity = _similarity(a, seen, mask)
            same = _difference(a, seen, mask) <= (1 + slack / 2) * params.pixel_difference
            same &= similarity >= params.similarity - slack
            found[batch[~same]] = False
            if SIDES[size] == SETTLED:
                same &= similarity < 1 - (1 - params.similarity) / 5
            batch, frames = batch[same], frames[same]
    return found


def duplicate_groups(looks: Sequence[Descriptor], params: CleanParams) -> list[list[int]]:
    """Deals photos that show one picture into groups.

    Args:
        looks: of all photos, the best photo first.
        params: when two photos are one; see `alike`.

    Returns:
        Groups of two or more places, each from the best on. Every photo was compared with the best of its group itself:
        a chain, in which neighbours are alike and the ends are not, falls into several groups.
    """
    if len(looks) < 2:
        return []
    pairs = candidates(np.stack([describe.layout for describe in looks]))
    pairs = pairs[verify_pairs(looks, pairs, params)]
    shape = (len(looks), len(looks))
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape).tocsr()
    rest, found = np.unique(pairs[:, :2]), []
    while len(rest):
        labels = connected_components(graph[rest][:, rest], directed=False)[1]
        best = rest[np.unique(labels, return_index=True)[1]][labels]
        both = [np.stack([best, rest, np.full(len(rest), mirrored)], axis=1) for mirrored in (0, 1)]
        joined = (best == rest) | verify_pairs(looks, both[0], params) | verify_pairs(looks, both[1], params)
        found += [rest[joined & (best == first)].tolist() for first in np.unique(best)]
        rest = rest[~joined]
    return sorted(group for group in found if len(group) > 1)


def _sides(looks: Sequence[Descriptor], size: int, pairs: Array) -> tuple[Array, Array]:
    """Returns both photos of each pair, float32 of shape (n, channels, side, side), the second mirrored where told."""
    a, b = (np.empty((len(pairs), *looks[0].views[size].shape), np.float32) for _ in range(2))
    for place, (i, j, mirrored) in enumerate(pairs):
        a[place] = looks[i].views[size]
        b[place] = looks[j].views[size][..., :: -1 if mirrored else 1]
    return a, b


def _readers(frames: Array, side: int) -> tuple[Array, Array]:
    """Returns matrices that sample an axis linearly at scale * x + shift, x in [-1, 1], and where that lies inside."""
    x = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    place = (frames[:, :1] * x + frames[:, 1:] + 1) * side / 2 - 0.5
    inside = (place > -0.5) & (place < side - 0.5)
    weights = np.maximum(0, 1 - np.abs(place.clip(0, side - 1)[:, :, np.newaxis] - np.arange(side, dtype=np.float32)))
    return weights[:, np.newaxis], inside


def _through(pictures: Array, frames: Array) -> tuple[Array, Array]:
    """Reads pictures through frames (rows, then columns; scale and shift) and masks what lies outside."""
    down, rows = _readers(frames[:, 0], pictures.shape[-1])
    across, columns = _readers(frames[:, 1], pictures.shape[-1])
    mask = (rows[:, :, np.newaxis] & columns[:, np.newaxis, :])[:, np.newaxis].astype(np.float32)
    return down @ pictures @ across.swapaxes(2, 3), mask


def _aligned(a: Array, b: Array, frames: Array, rounds: int = 6) -> Array:
    """Improves the frames through which b looks like a: Gauss-Newton on grey pictures of shape (n, 1, side, side)."""
    side = a.shape[-1]
    x = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    slopes = np.concatenate([b, *np.gradient(b, 2 / side, axis=(2, 3))], axis=1)
    for _ in range(rounds):
        seen, mask = _through(slopes, frames)
        seen = seen * mask
        error = a * mask - seen[:, :1]
        vertical, horizontal = seen[:, 1], seen[:, 2]
        steps = np.stack([vertical * x[:, np.newaxis], vertical, horizontal * x, horizontal], axis=1)
        steps = steps.reshape(len(a), 4, -1)
        square = steps @ steps.swapaxes(1, 2)
        damping = 1e-3 * (square.trace(axis1=1, axis2=2) + 1)[:, np.newaxis, np.newaxis] * np.eye(4, dtype=np.float32)
        move = np.linalg.solve(square + damping, steps @ error.reshape(len(a), -1, 1))
        frames = frames + move.reshape(-1, 2, 2)
        frames = np.stack([frames[..., 0].clip(1 / STRETCH, STRETCH), frames[..., 1].clip(-SHIFT, SHIFT)], axis=-1)
    return frames


def _difference(a: Array, seen: Array, mask: Array) -> Array:
    """Returns the mean absolute difference of each pair, in [0, 255]."""
    return (np.abs(a - seen) * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * a.shape[1])


def _similarity(a: Array, seen: Array, mask: Array) -> Array:
    """Returns how far the fine detail agrees: 1 for the same, about 0 for unrelated pictures.

    Detail is what a small blur leaves and a wide one takes away; above some grey levels it counts no more, or else the
    outline of a stone on white would drown what is inside.
    """
    fine = []
    for picture in (a, seen):
        detail = gaussian_filter(picture, (0, 0, 1, 1), truncate=3) - uniform_filter(picture, (1, 1, 7, 7))
        fine.append(detail / np.hypot(detail, DETAIL) * mask)
    energy = (fine[0] ** 2 + fine[1] ** 2).sum((1, 2, 3))
    return 1 - ((fine[0] - fine[1]) ** 2).sum((1, 2, 3)) / np.maximum(energy, 1e-6)
