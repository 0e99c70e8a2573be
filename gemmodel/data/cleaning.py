"""Which photos of a raw folder are fit to learn from, and why the others are not."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from gemmodel.data import cropping, folders, images
from gemmodel.errors import DataError
from gemmodel.params import CleanParams

HASH_SIDE = 16  # 256 bits a photo
THUMBNAIL_SIDE = 32  # pixels


@dataclass(frozen=True)
class Photo:
    """What cleaning knows of a file: `problem` is None for a readable photo, and only then the rest is filled.

    `hashes` holds the perceptual hash of the photo and of its mirror image, uint8 of shape (2, 32); `thumbnail` is
    int16 of shape (32, 32, 3).
    """

    path: Path
    gem: str
    sha256: str
    problem: str | None = None
    pixels: int = 0
    treated: tuple[str, ...] = ()
    hashes: Any = None
    thumbnail: Any = None


def inspect(path: Path, gem: str, *, min_side: int) -> Photo:
    """Reads one file and describes it; a damaged file is described too, never raised."""
    digest = folders.sha256(path)
    try:
        image = images.read(path)
    except DataError as error:
        return Photo(path, gem, digest, problem=str(error))
    if min(image.size) < min_side:
        return Photo(path, gem, digest, problem=f"too small: {image.width} x {image.height} pixels")
    small = image.resize((128, 128), Image.Resampling.BOX, reducing_gap=3.0)
    bits = [imagehash.phash(view, HASH_SIDE).hash.ravel() for view in (small, ImageOps.mirror(small))]
    thumbnail = np.asarray(small.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX), np.int16)
    return Photo(
        path,
        gem,
        digest,
        None,
        image.width * image.height,
        tuple(image.info["treated"]),
        np.packbits(bits, 1),
        thumbnail,
    )


def twins(photos: Sequence[Photo], params: CleanParams) -> Iterator[tuple[int, int]]:
    """Finds the pairs that show the same picture: rescaled, recompressed or mirrored.

    A pair must agree in its perceptual hash (structure of the luminance) and then in its colour thumbnail, so that
    two stones of one cut in different colours stay apart.

    Args:
        photos: readable photos.
        params: `hash_distance` in bits of 256, `pixel_difference` as mean absolute difference in [0, 255].

    Yields:
        Index pairs (i, j), i < j.
    """
    hashes = np.stack([photo.hashes for photo in photos])
    for i in range(len(photos) - 1):
        distance = np.bitwise_count(hashes[i + 1 :, :] ^ hashes[i, 0]).sum(axis=2)
        for j, mirrored in zip(*np.nonzero(distance <= params.hash_distance), strict=True):
            other = photos[i + 1 + j].thumbnail
            difference = np.abs(photos[i].thumbnail - (other[:, ::-1] if mirrored else other)).mean()
            if difference <= params.pixel_difference:
                yield i, i + 1 + int(j)


def verdicts(photos: Sequence[Photo], params: CleanParams) -> list[dict[str, Any]]:
    """Decides on every file: kept, or set aside with a reason.

    Of each group of twins the photo with most pixels stays; a group under two gems goes whole, since its true name
    is not known.

    Returns:
        One row a file: `source`, `gem`, `sha256`, `treated`, and for one set aside `reason` and, for twins, `twins`.
    """
    rows: list[dict[str, Any]] = [
        {"source": str(photo.path), "gem": photo.gem, "sha256": photo.sha256} for photo in photos
    ]
    readable = [place for place, photo in enumerate(photos) if photo.problem is None]
    for place, photo in enumerate(photos):
        rows[place] |= {"reason": photo.problem} if photo.problem else {"treated": list(photo.treated)}
    if not readable:
        return rows
    pairs = np.array(list(twins([photos[place] for place in readable], params)), int).reshape(-1, 2)
    size = len(readable)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    groups = defaultdict(list)
    for place, label in zip(readable, connected_components(graph, directed=False)[1], strict=True):
        groups[label].append(place)
    for group in groups.values():
        names = sorted({photos[place].gem for place in group})
        best = min(group, key=lambda place: (-photos[place].pixels, str(photos[place].path)))
        for place in group:
            if len(names) > 1:
                reason = f"stands under {' and '.join(names)}"
            elif place != best:
                reason = "exact copy" if photos[place].sha256 == photos[best].sha256 else "near-duplicate"
            else:
                continue
            rows[place] |= {"reason": reason, "twins": [str(photos[other].path) for other in group if other != place]}
    return rows


def clean(raw: Path, out: Path, params: CleanParams) -> dict[str, Any]:
    """Writes the photos that are fit to learn from.

    RGB JPEGs that are not cropped keep their bytes; everything else becomes one (quality 95, no chroma subsampling).

    Args:
        raw: a folder a gem, with `manifest.jsonl` (one line a picture: path, gem, mineral_class, ...).
        out: becomes a folder a gem of `.jpg` files, with `manifest.jsonl` of every raw file's fate; a cropped photo's
            line has `box`: left, top, right and bottom in pixels of the upright photo.
        params: what is too small, when two photos are twins, and how photos are cropped.

    Returns:
        The report: counts, and each file that was set aside with its reason.

    Raises:
        DataError: a file of the manifest is missing, or no photo is left.
    """
    found = {line["path"]: line for line in folders.read_lines(raw / "manifest.jsonl")}
    inspected = Parallel(n_jobs=-1, return_as="generator")(
        delayed(inspect)(raw / path, Path(path).parts[0], min_side=params.min_side) for path in sorted(found)
    )
    photos = list(tqdm(inspected, "clean", total=len(found), unit=" files", disable=None))
    rows = verdicts(photos, params)
    with folders.replacing(out) as new:
        taken: set[str] = set()
        for row in rows:
            source = Path(row["source"])
            row["source"] = source.relative_to(raw).as_posix()
            row["mineral_class"] = found[row["source"]].get("mineral_class")
            if "reason" in row:
                row["twins"] = [Path(twin).relative_to(raw).as_posix() for twin in row.get("twins", [])]
                continue
            row["path"] = _name(row, taken)
            target = new / row["path"]
            image = images.read(source) if row["treated"] or params.crop != "none" else None
            if image and params.crop != "none":
                image, box = cropping.crop(image, params.crop)
                if box:
                    row["box"] = box
                    row["treated"].append("cropped")
            if image and row["treated"]:
                target.parent.mkdir(parents=True, exist_ok=True)
                image.save(target, **images.JPEG)
            else:
                folders.copy(source, target)
        kept = Counter(row["gem"] for row in rows if "path" in row)
        if not kept:
            raise DataError(f"{raw}: none of its {len(rows)} files is a usable photo; {json.dumps(reasons(rows))}")
        folders.write_lines(new / "manifest.jsonl", rows)
    return {
        "files": len(rows),
        "kept": kept.total(),
        "gems": len(kept),
        "treated": sum(bool(row.get("treated")) for row in rows if "path" in row),
        "set_aside": reasons(rows),
        "listed": [{key: row[key] for key in ("source", "reason", "twins")} for row in rows if "reason" in row],
    }


def reasons(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Counts the files that were set aside by the kind of reason."""
    kinds = Counter(
        "stands under two gems" if row["reason"].startswith("stands under") else row["reason"].split(":")[0]
        for row in rows
        if "reason" in row
    )
    return dict(sorted(kinds.items()))


def _name(row: dict[str, Any], taken: set[str]) -> str:
    name = f"{row['gem']}/{Path(row['source']).stem}.jpg"
    if name.lower() in taken:
        name = f"{row['gem']}/{Path(row['source']).stem}-{row['sha256'][:8]}.jpg"
    taken.add(name.lower())
    return name
