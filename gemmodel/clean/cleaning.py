"""Which photos of a raw folder can be used for training, and why the others are rejected."""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from joblib import Parallel, delayed
from PIL import Image
from tqdm import tqdm

from gemmodel.clean import corrections, duplicates
from gemmodel.core import files, hashing, image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.params import CleanParams
from gemmodel.images import crop, decode

WRONG_SUFFIX = "wrong suffix"  # the file needs another name, but no other bytes


@dataclass(frozen=True)
class Photo:
    """A raw file: what the raw manifest says of it, then what `inspect` reads from it.

    Attributes:
        source: path in the raw folder.
        path: path in the clean folder, if the photo is kept.
        gem: name of the gem.
        number: number of the photo among those of its gem.
        mineral_class: the gem's mineral class, None where the manifest has none.
        part: the publisher's part that it is kept in (`crawl.parts`), None where the manifest has none.
        sha256: of the file, as hexadecimal digits; before `inspect`, what the raw manifest says, empty in old ones.
        problem: why the file cannot be used; None for a usable photo. The attributes below are set only for one.
        pixels: width times height.
        conversions: what has to be done to the file.
        colour_profile: the name of its colour profile; None without one.
        descriptor: for the search for duplicates.
    """

    source: str
    path: str
    gem: str
    number: int
    mineral_class: str | None = None
    part: str | None = None
    sha256: str = ""
    problem: str | None = None
    pixels: int = 0
    conversions: tuple[str, ...] = ()
    colour_profile: str | None = None
    descriptor: duplicates.Descriptor | None = None


@dataclass(frozen=True)
class Decision:
    """Whether a photo is kept.

    Attributes:
        photo: the photo.
        reason: why it is rejected; None for a photo that is kept.
        duplicates: the other raw paths of its group of duplicates, sorted; empty for a photo that is kept.
        box: left, top, right and bottom of the crop, in pixels of the upright photo after scaling down.
    """

    photo: Photo
    reason: str | None = None
    duplicates: tuple[str, ...] = ()
    box: crop.Box | None = None

    @property
    def conversions(self) -> tuple[str, ...]:
        """What was done to the photo."""
        return (*self.photo.conversions, "cropped") if self.box else self.photo.conversions

    def row(self) -> dict[str, Any]:
        """Returns the photo's line of the clean manifest."""
        photo = self.photo
        row: dict[str, Any] = {"source": photo.source, "gem": photo.gem, "sha256": photo.sha256}
        if photo.problem is None:
            row |= {"conversions": list(self.conversions), "colour_profile": photo.colour_profile}
        if self.reason:
            row |= {"reason": self.reason, "duplicates": list(self.duplicates)}
        row |= {"number": photo.number, "mineral_class": photo.mineral_class}
        if photo.part:
            row["part"] = photo.part
        if not self.reason:
            row["path"] = photo.path
        if self.box:
            row["box"] = self.box
        return row


def inspect(raw: Path, photo: Photo, params: CleanParams) -> Photo:
    """Reads the file of a photo; an unusable file gets a `problem`, and raises no error."""
    path = raw / photo.source
    photo = replace(photo, sha256=hashing.sha256(path))
    try:
        image = decode.read(path)
    except DataError as error:
        return replace(photo, problem=str(error))
    if min(image.size) < params.min_side:
        return replace(photo, problem=f"too small: {image.width} x {image.height} pixels")
    descriptor = duplicates.describe(image)
    if descriptor.views[-1].std(axis=(1, 2)).max() < params.min_contrast:
        return replace(photo, problem="one flat colour")
    conversions = list(image.info["conversions"])
    if path.suffix.lower() not in image_folder.FORMATS[str(image.format)]:
        conversions.append(WRONG_SUFFIX)
    if max(image.size) > params.max_side:
        conversions.append("scaled down")
    return replace(
        photo,
        pixels=image.width * image.height,
        conversions=tuple(conversions),
        colour_profile=image.info["colour_profile"],
        descriptor=descriptor,
    )


def decide(photos: Sequence[Photo], params: CleanParams) -> list[Decision]:
    """Decides for every photo whether it is kept.

    Of each group of duplicates the photo with most pixels is kept. A group under several gems is rejected as a whole,
    since its true gem is uncertain.
    """
    decisions = [Decision(photo, photo.problem) for photo in photos]
    by_content = defaultdict(list)  # indices by SHA-256, the best photo first
    for i in sorted(range(len(photos)), key=lambda i: (-photos[i].pixels, photos[i].source)):
        if photos[i].problem is None:
            by_content[photos[i].sha256].append(i)
    contents = list(by_content.values())
    descriptors = [descriptor for indices in contents if (descriptor := photos[indices[0]].descriptor)]
    groups = duplicates.duplicate_groups(descriptors, params)
    singles = set(range(len(contents))).difference(*groups)
    for group in [*groups, *([content] for content in singles)]:
        indices = [i for content in group for i in contents[content]]
        gems = sorted({photos[i].gem for i in indices})
        for i in indices if len(gems) > 1 else indices[1:]:
            if len(gems) > 1:
                reason = f"under several gems: {', '.join(gems)}"
            else:
                reason = "exact copy" if i in contents[group[0]] else "near-duplicate"
            others = sorted(photos[other].source for other in indices if other != i)
            decisions[i] = replace(decisions[i], reason=reason, duplicates=tuple(others))
    return decisions


def clean(raw: Path, out: Path, params: CleanParams, workers: int = -1) -> dict[str, Any]:
    """Writes the photos that can be used for training, as `<Gem>/<gem>_<number>.jpg`.

    sRGB JPEGs that are not cropped keep their bytes; all other photos are converted to sRGB JPEGs without a profile
    (quality 95, no chroma subsampling). A photo's number is that of the raw manifest, so its name does not change when
    other photos are added or removed.

    Args:
        raw: one folder per gem, with `manifest.jsonl`: one line per photo with its path, number and mineral_class.
        out: the output, one folder per gem of `.jpg` files, with a `manifest.jsonl` of all raw files: one
            `Decision.row` per line.
        params: limits of size and contrast, when two photos are duplicates, how photos are cropped, and the table of
            corrections, which are applied before photos are compared.
        workers: number of processes; -1 is one per core. The result does not depend on it.

    Returns:
        The report: counts, the readable photos by their `colour_profiles` (`none`: without one), each rejected file
        with its reason, the `corrected` gems (or `drop`) by raw path, and the corrections that match no photo.

    Raises:
        DataError: a file of the manifest is missing or has other bytes than it says, a line of it has no number, no
            photo is usable, or the table of corrections is missing or malformed.
    """
    listed = _listed(raw / "manifest.jsonl")
    table = corrections.read(Path(params.corrections))
    parallel = Parallel(n_jobs=workers, return_as="generator")
    inspected = _results(parallel, (delayed(inspect)(raw, photo, params) for photo in listed))
    photos = list(tqdm(inspected, "clean", total=len(listed), unit=" files", disable=None))
    _check_unchanged(raw, listed, photos)
    photos, corrected, unknown = _correct(photos, table)
    decisions = decide(photos, params)
    kept = [decision for decision in decisions if not decision.reason]
    rejected = [decision for decision in decisions if decision.reason]
    if not kept:
        raise DataError(f"{raw}: none of its {len(photos)} files is a usable photo; {json.dumps(_reasons(rejected))}")
    with files.atomic_write(out) as new:
        for gem in {decision.photo.gem for decision in kept}:
            (new / gem).mkdir(parents=True)
        writes = (
            delayed(_write)(raw / decision.photo.source, new / decision.photo.path, decision.conversions, params)
            for decision in kept
        )
        boxes = _results(parallel, writes)
        kept = [replace(decision, box=box) for decision, box in zip(kept, boxes, strict=True)]
        decisions = sorted([*kept, *rejected], key=lambda decision: decision.photo.source)
        files.write_jsonl(new / "manifest.jsonl", [decision.row() for decision in decisions])
    return {
        "files": len(decisions),
        "kept": len(kept),
        "gems": len({decision.photo.gem for decision in kept}),
        "converted": dict(sorted(Counter(kind for decision in kept for kind in decision.conversions).items())),
        "colour_profiles": dict(sorted(Counter(p.colour_profile or "none" for p in photos if p.descriptor).items())),
        "rejected": _reasons(rejected),
        "corrected": corrected,
        "unknown_corrections": unknown,
        "rejected_files": [
            {"source": decision.photo.source, "reason": decision.reason, "duplicates": list(decision.duplicates)}
            for decision in rejected
        ],
    }


def _results(parallel: Parallel, tasks: Iterable[Any]) -> Iterator[Any]:
    """Yields the results of tasks in their order.

    After an error joblib ends its processes, but does not wait for the thread that fed them. Were it to end with this
    process, a semaphore might be deleted but still registered, of which loky's resource tracker warns.

    Raises:
        DataError: the system ended one of the processes.
    """
    try:
        yield from parallel(tasks)
    except BaseException as error:
        for thread in threading.enumerate():
            if thread.name == "QueueFeederThread":
                thread.join(10)
        if isinstance(error, BrokenProcessPool):
            raise DataError(
                "the system ended a process that read photos, most likely for want of memory; free some, or set "
                "LOKY_MAX_CPU_COUNT=1 for fewer processes, and run this again"
            ) from None
        raise


def _listed(manifest: Path) -> list[Photo]:
    """Returns the photos of a raw manifest, sorted by their raw paths."""
    photos = {}
    for line in files.read_jsonl(manifest):
        source, number = line["path"], line.get("number")
        if not isinstance(number, int):
            raise DataError(f"{manifest}: {source} has no number (of an older version); `dvc repro -f crawl` helps")
        gem = Path(source).parts[0]
        path = f"{gem}/{gem.lower().replace(' ', '_')}_{number}.jpg"
        recorded = line.get("sha256", "")
        photos[source] = Photo(source, path, gem, number, line.get("mineral_class"), line.get("part"), recorded)
    repeated = [path for path, count in Counter(photo.path for photo in photos.values()).items() if count > 1]
    if repeated:
        raise DataError(f"{manifest}: two files become {repeated[0]}; `dvc repro -f crawl` numbers them again")
    return [photos[source] for source in sorted(photos)]


def _check_unchanged(raw: Path, listed: Sequence[Photo], inspected: Sequence[Photo]) -> None:
    """Compares photos with the hashes that the crawl recorded: DVC itself trusts the files in its cache.

    Raises:
        DataError: a photo differs, so that this result would be another one than of the same commit elsewhere.
    """
    changed = [
        photo.source for before, photo in zip(listed, inspected, strict=True) if before.sha256 not in ("", photo.sha256)
    ]
    if changed:
        raise DataError(
            f"{raw / changed[0]}{f' and {len(changed) - 1} more' if changed[1:] else ''}: not the bytes that the crawl "
            "stored (SHA-256 in manifest.jsonl); `gemmodel doctor --cache` says whether DVC's copy is damaged too and "
            "how to restore it"
        )


def _correct(photos: Sequence[Photo], table: Mapping[str, str]) -> tuple[list[Photo], dict[str, str], list[str]]:
    """Returns the corrected photos, the corrected gem (or `drop`) by raw path, and corrections that match no photo."""
    mineral_classes = {photo.gem: photo.mineral_class for photo in photos}
    gems, unknown = corrections.match(table, [(photo.sha256, photo.path) for photo in photos], set(mineral_classes))
    corrected = list(photos)
    taken = {photo.path for i, photo in enumerate(photos) if i not in gems}
    for i, gem in gems.items():
        photo = photos[i]
        if gem == corrections.DROP:
            corrected[i] = replace(photo, problem="dropped by hand")
        else:  # the file keeps its name
            path = PurePosixPath(gem, PurePosixPath(photo.path).name)
            while str(path) in taken:  # of gems such as `Rose Quartz` and `Rose_Quartz`
                path = path.with_stem(f"{path.stem}-{photo.sha256[:8]}")
            taken.add(str(path))
            corrected[i] = replace(photo, gem=gem, path=str(path), mineral_class=mineral_classes[gem])
    return corrected, {photos[i].source: gem for i, gem in gems.items()}, unknown


def _reasons(decisions: Sequence[Decision]) -> dict[str, int]:
    """Returns the number of rejected photos by the kind of reason."""
    kinds = Counter(decision.reason.split(":")[0] for decision in decisions if decision.reason)
    return dict(sorted(kinds.items()))


def _write(source: Path, target: Path, conversions: Sequence[str], params: CleanParams) -> crop.Box | None:
    """Writes a photo to the clean folder, and returns the box that it was cropped to."""
    box = None
    unchanged = set(conversions) <= {WRONG_SUFFIX}
    if not unchanged or params.crop != "none":
        image = decode.read(source)
        image.thumbnail((params.max_side, params.max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        image, box = crop.crop(image, params.crop)
    if unchanged and not box:
        files.copy(source, target)
    else:
        image.save(target, **decode.JPEG)
    return box
