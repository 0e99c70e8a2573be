"""Which photos of a raw folder are fit to learn from, and why the others are not."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from PIL import Image
from tqdm import tqdm

from gemmodel.clean import corrections, duplicates
from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError
from gemmodel.core.params import CleanParams
from gemmodel.images import crop, decode

WRONG_SUFFIX = "wrong suffix"  # needs another name, not other bytes


@dataclass(frozen=True)
class Photo:
    """What cleaning knows of a file: `problem` is None for a usable photo, and only then the rest is filled."""

    path: Path
    gem: str
    sha256: str
    problem: str | None = None
    pixels: int = 0
    treated: tuple[str, ...] = ()
    look: duplicates.Descriptor | None = None


def inspect(path: Path, gem: str, params: CleanParams) -> Photo:
    """Reads one file and describes it; a damaged file is described too, never raised."""
    digest = hashing.sha256(path)
    try:
        image = decode.read(path)
    except DataError as error:
        return Photo(path, gem, digest, problem=str(error))
    if min(image.size) < params.min_side:
        return Photo(path, gem, digest, problem=f"too small: {image.width} x {image.height} pixels")
    look = duplicates.describe(image)
    if look.views[-1].std(axis=(1, 2)).max() < params.min_contrast:
        return Photo(path, gem, digest, problem="one flat colour")
    treated = list(image.info["conversions"])
    if Image.registered_extensions().get(path.suffix.lower()) != image.format:
        treated.append(WRONG_SUFFIX)
    if max(image.size) > params.max_side:
        treated.append("scaled down")
    return Photo(path, gem, digest, None, image.width * image.height, tuple(treated), look)


def decide(photos: Sequence[Photo], params: CleanParams) -> list[dict[str, Any]]:
    """Decides on every file: kept, or set aside with a reason.

    Of each group of twins the photo with most pixels stays; a group under two gems goes whole, since its true name
    is not known.

    Returns:
        One row a file: `source`, `gem`, `sha256`, `treated`, and for one set aside `reason` and, for twins, `twins`.
    """
    rows: list[dict[str, Any]] = [
        {"source": str(photo.path), "gem": photo.gem, "sha256": photo.sha256} for photo in photos
    ]
    for row, photo in zip(rows, photos, strict=True):
        row |= {"reason": photo.problem} if photo.problem else {"conversions": list(photo.treated)}
    copies = defaultdict(list)  # places by content, the best photo first
    for place in sorted(range(len(photos)), key=lambda place: (-photos[place].pixels, str(photos[place].path))):
        if photos[place].problem is None:
            copies[photos[place].sha256].append(place)
    looks = [look for places in copies.values() if (look := photos[places[0]].look)]
    near = duplicates.duplicate_groups(looks, params)
    alone = set(range(len(looks))).difference(*near)
    contents = list(copies.values())
    for group in [*near, *([one] for one in alone)]:
        places = [place for one in group for place in contents[one]]
        names = sorted({photos[place].gem for place in places})
        for place in places if len(names) > 1 else places[1:]:
            if len(names) > 1:
                reason = f"stands under several gems: {', '.join(names)}"
            else:
                reason = "exact copy" if place in contents[group[0]] else "near-duplicate"
            others = sorted(str(photos[other].path) for other in places if other != place)
            rows[place] |= {"reason": reason, "duplicates": others}
    return rows


def clean(raw: Path, out: Path, params: CleanParams, workers: int = -1) -> dict[str, Any]:
    """Writes the photos that are fit to learn from, as `<Gem>/<gem>_<number>.jpg`.

    RGB JPEGs that are not cropped keep their bytes; everything else becomes one (quality 95, no chroma subsampling). A
    photo's number is that of the raw manifest, so that its name stays when other photos come or go.

    Args:
        raw: a folder a gem, with `manifest.jsonl` (one line a picture: path, number, mineral_class, ...).
        out: becomes a folder a gem of `.jpg` files, with `manifest.jsonl` of every raw file's fate; a cropped photo's
            line has `box`: left, top, right and bottom in pixels of the photo, upright and scaled down.
        params: what is too small, too large or flat, when two photos are twins, how photos are cropped, and the
            table of corrections, which come before all comparison of photos.
        workers: processes; -1 is one a core. The result does not depend on it.

    Returns:
        The report: counts, each file that was set aside with its reason, the `corrected` gems (or `drop`) by raw path,
        and the corrections that mean no photo here.

    Raises:
        DataError: a file of the manifest is missing, a line of it has no number, no photo is left, or the table of
            corrections is missing or wrong.
    """
    found = {line["path"]: line for line in files.read_jsonl(raw / "manifest.jsonl")}
    names = _names(found.values(), raw / "manifest.jsonl")
    table = corrections.read(Path(params.corrections))
    parallel = Parallel(n_jobs=workers, return_as="generator")
    inspected = parallel(delayed(inspect)(raw / path, Path(path).parts[0], params) for path in sorted(found))
    photos = list(tqdm(inspected, "clean", total=len(found), unit=" files", disable=None))
    photos, corrected, unknown = _corrected(photos, raw, names, table)
    mineral_classes = {Path(path).parts[0]: line.get("mineral_class") for path, line in found.items()}
    rows = decide(photos, params)
    for row in rows:
        row["source"] = Path(row["source"]).relative_to(raw).as_posix()
        row |= {key: found[row["source"]].get(key) for key in ("number", "mineral_class")}
        if row["source"] in corrected:  # the file keeps its name, which no photo of the other gem has
            names[row["source"]] = f"{row['gem']}/{Path(names[row['source']]).name}"
            row["mineral_class"] = mineral_classes[row["gem"]]
        if "reason" in row:
            row["duplicates"] = [Path(twin).relative_to(raw).as_posix() for twin in row.get("duplicates", [])]
        else:
            row["path"] = names[row["source"]]
    kept = [row for row in rows if "path" in row]
    if not kept:
        raise DataError(f"{raw}: none of its {len(rows)} files is a usable photo; {json.dumps(reasons(rows))}")
    with files.atomic_write(out) as new:
        for gem in {row["gem"] for row in kept}:
            (new / gem).mkdir(parents=True)
        boxes = parallel(
            delayed(_write)(raw / row["source"], new / row["path"], row["conversions"], params) for row in kept
        )
        for row, box in zip(kept, boxes, strict=True):
            if box:
                row["box"] = box
                row["conversions"].append("cropped")
        files.write_jsonl(new / "manifest.jsonl", rows)
    return {
        "files": len(rows),
        "kept": len(kept),
        "gems": len({row["gem"] for row in kept}),
        "converted": dict(sorted(Counter(kind for row in kept for kind in row["conversions"]).items())),
        "rejected": reasons(rows),
        "corrected": corrected,
        "unknown_corrections": unknown,
        "rejected_files": [
            {key: row[key] for key in ("source", "reason", "duplicates")} for row in rows if "reason" in row
        ],
    }


def reasons(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Counts the files that were set aside by the kind of reason."""
    kinds = Counter(row["reason"].split(":")[0] for row in rows if "reason" in row)
    return dict(sorted(kinds.items()))


def _corrected(
    photos: Sequence[Photo], raw: Path, names: Mapping[str, str], table: Mapping[str, str]
) -> tuple[list[Photo], dict[str, str], list[str]]:
    """Returns the photos as people corrected them, what was corrected by raw path, and corrections of other photos."""
    sources = [photo.path.relative_to(raw).as_posix() for photo in photos]
    known = [(photo.sha256, names[source]) for photo, source in zip(photos, sources, strict=True)]
    changes, unknown = corrections.match(table, known, {photo.gem for photo in photos})
    changed = list(photos)
    for place, gem in changes.items():
        photo = photos[place]
        dropped = gem == corrections.DROP
        changed[place] = replace(photo, problem="dropped by hand") if dropped else replace(photo, gem=gem)
    return changed, {sources[place]: gem for place, gem in changes.items()}, unknown


def _names(lines: Iterable[dict[str, Any]], manifest: Path) -> dict[str, str]:
    """Returns the clean path of each raw path."""
    names: dict[str, str] = {}
    for line in lines:
        if not isinstance(line.get("number"), int):
            raise DataError(
                f"{manifest}: {line['path']} has no number (of an older version); `dvc repro -f crawl` helps"
            )
        gem = Path(line["path"]).parts[0]
        names[line["path"]] = f"{gem}/{gem.lower().replace(' ', '_')}_{line['number']}.jpg"
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        raise DataError(f"{manifest}: two files become {twice[0]}; `dvc repro -f crawl` numbers them anew")
    return names


def _write(source: Path, target: Path, treated: Sequence[str], params: CleanParams) -> crop.Box | None:
    """Writes a photo as it is kept, and returns the box that it was cropped by."""
    box = None
    as_it_is = set(treated) <= {WRONG_SUFFIX}
    if not as_it_is or params.crop != "none":
        image = decode.read(source)
        image.thumbnail((params.max_side, params.max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        image, box = crop.crop(image, params.crop)
    if as_it_is and not box:
        files.copy(source, target)
    else:
        image.save(target, **decode.JPEG)
    return box
