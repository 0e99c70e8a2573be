"""Photos that a user has already: in folders of classes, archives of them, or with labels in a table or their names."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError, did_you_mean
from gemmodel.core.image_folder import SUFFIXES, class_key, class_names
from gemmodel.core.params import CrawlParams
from gemmodel.images import decode
from scraper import archives, labels, layout, manifest, name_labels, safe_names
from scraper.archives import File

DATA_FILES = {  # of labels, or of photos and labels
    ".json": "JSON, such as COCO's annotations",
    ".xml": "XML, such as Pascal VOC's annotations",
    ".yaml": "YAML, such as YOLO's classes",
    ".mat": "MATLAB",
    ".xlsx": "Excel",
    ".xls": "Excel",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".tfrecord": "TFRecord",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".npz": "NumPy",
    ".npy": "NumPy",
    ".pkl": "pickle",
}
NOT_READ = "not read: write its labels as a CSV table with the columns file and label, its photos as files"
MAX_EXAMPLES = 3  # of photos that are left out for one reason, in an error or by `gemmodel inspect`


@dataclass(frozen=True)
class Photo:
    """A photo of a class; `path` is its path there, by which the photos of the class are sorted."""

    path: PurePosixPath
    file: File
    part: str | None = None


@dataclass
class Inventory:
    """What a source holds, before any photo is read.

    Attributes:
        photos: by class.
        left_out: names and reasons of photos, and of folders and archives, that are not taken.
        other_files: how many files are no photos, by what they are.
        joined: the name of the class by spelling, where they differ.
        guesses: what was guessed, as sentences.
    """

    photos: dict[str, list[Photo]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)
    joined: dict[str, str] = field(default_factory=dict)
    guesses: list[str] = field(default_factory=list)


def take_inventory(source: Path, stack: ExitStack, *, level: int = 0) -> Inventory:
    """Finds the photos of each class in a folder or archive.

    Each archive is looked through by itself, so that a folder may hold class folders, archives of class folders, and
    an archive for each class.

    Args:
        source: the folder or archive.
        stack: closes the archives.
        level: the depth of the class folders, from 1; 0: they are recognised (`layout.recognise`).

    Raises:
        DataError: the folder or archive does not exist or is damaged.
    """
    inventory = Inventory()
    spelled: dict[str, list[Photo]] = defaultdict(list)
    tables: dict[str, File] = {}
    others, used = [], set[str]()
    for collection in archives.collections(source, stack):
        inventory.guesses += [f"{collection.prefix or source.name}: {guess}" for guess in collection.guesses]
        inventory.left_out += [(f"{collection.prefix}{name}", reason) for name, reason in collection.left_out]
        readable = []
        for file in collection.files:
            if image_folder.is_hidden(file.name):
                inventory.other_files[image_folder.HIDDEN] += 1
            elif not safe_names.is_photo(file.name):
                if file.name.lower().endswith((*archives.SUFFIXES, *archives.OTHER_ARCHIVES)):
                    inventory.left_out.append(
                        (f"{collection.prefix}{file.name}", "an archive; unpack it beside the photos")
                    )
                else:
                    others.append(f"{collection.prefix}{file.name}")
            elif file.problem:
                inventory.left_out.append((f"{collection.prefix}{file.name}", file.problem))
            else:
                readable.append(file)
        paths = [PurePosixPath(file.name) for file in readable]
        archive = collection.archive
        assignments, guesses = layout.recognise(
            paths, name=archives.stem(archive.name) if archive else None, level=level
        )
        inventory.guesses += guesses
        tables |= labels.tables(collection)
        # A table may lie beside an archive of its photos, but not in another archive.
        near = {
            name: file for name, file in tables.items() if collection.prefix.startswith(name.removesuffix(file.name))
        }
        assignments, guesses, tables_used = labels.read(near, paths, assignments, above=_folders(archive))
        inventory.guesses += guesses
        used |= tables_used
        if not level:
            assignments, guesses = name_labels.read(paths, assignments)
            inventory.guesses += guesses
        outer = next(filter(None, map(layout.part_name, _folders(archive))), None)
        for file, assignment in zip(readable, assignments, strict=True):
            named = replace(file, name=f"{collection.prefix}{file.name}")
            if assignment.gem:
                path = PurePosixPath(archive or "", *assignment.path)
                spelled[assignment.gem].append(Photo(path, named, assignment.part or outer))
            else:
                inventory.left_out.append((named.name, assignment.reason or layout.OUTSIDE))
    names = class_names({name: len(photos) for name, photos in spelled.items()})
    inventory.joined = {name: names[name] for name in sorted(names) if names[name] != name}
    photos: dict[str, list[Photo]] = defaultdict(list)
    for name in sorted(spelled):
        photos[names[name]] += spelled[name]
    inventory.photos = {gem: sorted(photos[gem], key=lambda photo: photo.path) for gem in sorted(photos)}
    inventory.left_out.sort()
    # A table beside several archives may match few photos of each.
    untrue = {f"{name}: {labels.UNMATCHED}" for name in used}
    inventory.guesses = [guess for guess in dict.fromkeys(inventory.guesses) if guess not in untrue]
    inventory.other_files += Counter(_kind(name) for name in others if name not in used)
    return inventory


def _kind(name: str) -> str:
    if name in labels.OWN_FILES:
        return "a file of this project"
    suffix = PurePosixPath(name).suffix.lower()
    kind = f"file that ends in {suffix}" if suffix else "file without a suffix"
    form = DATA_FILES.get(suffix.partition("-")[0])  # .tfrecord-00000-of-00002
    return f"{kind} ({form}), {NOT_READ}" if form else kind


def _folders(archive: PurePosixPath | None) -> Sequence[str]:
    return () if archive is None else (*archive.parts[:-1], archives.stem(archive.name))


def copy(params: CrawlParams, store: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Copies the photos of `crawl.folder` into a raw folder, under names that are safe on every file system.

    Every photo is copied as it is: a damaged one is for the clean stage to reject.

    Args:
        params: the folder or archive, and the limits.
        store: gets one folder per gem.

    Returns:
        The manifest rows, one per photo, and the summary: what was not copied, and why.

    Raises:
        DataError: the folder or archive does not exist, is damaged, or holds no photos of the requested gems.
    """
    source = Path(params.folder)
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        inventory = take_inventory(source, stack, level=params.class_level)
        by_key = {class_key(gem): gem for gem in inventory.photos}
        missing = [gem for gem in params.only if class_key(gem) not in by_key]
        if missing and (len(params.source) == 1 or len(missing) == len(params.only)):
            has = f"; it has {', '.join([*inventory.photos][:10])}" if inventory.photos else ""
            hint = did_you_mean(missing[0], inventory.photos) or has
            raise DataError(f"crawl.only: {source} has no {', '.join(missing)}{hint}")
        if not inventory.photos:
            raise DataError(f"{source}: no photos in class folders; {_found(inventory)}")
        for gem in missing:  # for another source
            hint = did_you_mean(gem, inventory.photos)
            inventory.other_files[f"crawl.only: {gem} is not in {source.name}{hint}"] += 1
        only = {by_key[class_key(gem)] for gem in params.only if gem not in missing}
        chosen = {
            gem: _first(photos, params.max_per_gem, by_part=params.parts == "keep")
            for gem, photos in inventory.photos.items()
            if not only or gem in only
        }
        failures = [{"url": name, "reason": reason} for name, reason in inventory.left_out]
        targets = _targets(chosen)
        in_archive_order = sorted(targets, key=lambda row: (row[2].file.name.rpartition("!/")[0], row[2].file.offset))
        for gem, target, photo in tqdm(in_archive_order, "crawl", unit=" photos", disable=None):
            try:
                body = photo.file.read()
                file_format = _image_format(body)
            except DataError as error:
                failures.append({"url": photo.file.name, "reason": str(error)})
                continue
            (store / target).parent.mkdir(parents=True, exist_ok=True)
            (store / target).write_bytes(body)
            part = {"part": photo.part} if params.parts == "keep" and photo.part else {}
            rows[target] = manifest.manifest_row(target, gem, body, file_format, file=photo.file.name, **part)
    if not rows:
        reasons = Counter(failure["reason"] for failure in failures).most_common(3)
        raise DataError(f"{source}: none of its photos can be read: {', '.join(f'{n} {text}' for text, n in reasons)}")
    return [rows[target] for _, target, _ in targets if target in rows], {
        "source": source.name,  # not its whole path: the same photos give the same bytes wherever they lie
        "pages": 0,
        "failures": sorted(failures, key=lambda failure: failure["url"]),
        "gems_without_pictures": sorted(set(chosen) - {row["gem"] for row in rows.values()}),
        "unmatched_markup": dict(sorted(inventory.other_files.items())),
        "joined": inventory.joined,
        "guesses": inventory.guesses,
    }


def _first(photos: Sequence[Photo], limit: int, *, by_part: bool) -> list[Photo]:
    """Returns the first photos of a class, or those of each of its parts in turn; all with a limit of 0."""
    parts: dict[str | None, list[Photo]] = defaultdict(list)
    for photo in photos:
        parts[photo.part if by_part else None].append(photo)
    in_turn = filter(None, chain.from_iterable(zip_longest(*parts.values())))
    return sorted([*in_turn][: limit or None], key=lambda photo: photo.path)


def describe(source: Path, *, level: int = 0) -> list[str]:
    """Returns what would be taken from a folder or archive as lines: parts, classes, and what is left out and why.

    Raises:
        DataError: the folder or archive does not exist or is damaged.
    """
    with ExitStack() as stack:
        inventory = take_inventory(source, stack, level=level)
    counts = Counter((photo.part or "", gem) for gem, photos in inventory.photos.items() for photo in photos)
    lines = []
    for part in sorted({part for part, _ in counts}):
        indent = "    " if part else ""
        if part:
            lines.append(f"{part}/  {sum(count for (of, _), count in counts.items() if of == part)}")
        lines += [f"{indent}{gem}/  {count}" for (of, gem), count in sorted(counts.items()) if of == part]
    lines.append(f"{counts.total()} photos of {len(inventory.photos)} classes")
    lines += [f"guessed: {guess}" for guess in inventory.guesses]
    lines += [f"joined: {name!r} is taken as {gem}" for name, gem in inventory.joined.items()]
    lines += [f"left out: {line}" for line in _left_out(inventory)]
    return lines


def _left_out(inventory: Inventory) -> Iterator[str]:
    """Yields how many photos and files are not taken for each reason, with examples."""
    by_reason = defaultdict(list)
    for name, reason in inventory.left_out:
        by_reason[reason].append(name)
    for reason, names in sorted(by_reason.items()):
        more = ", ..." if len(names) > MAX_EXAMPLES else ""
        yield f"{len(names)} x {reason}: {', '.join(names[:MAX_EXAMPLES])}{more}"
    for kind, count in sorted(inventory.other_files.items()):
        yield f"{count} x {kind}"


def _found(inventory: Inventory) -> str:
    """Returns what a source holds in place of class folders, with the remedy."""
    found = "; ".join(_left_out(inventory)) or "it holds no files"
    return (
        f"found {found}. It must hold one folder of photos per class, or photos and a CSV table with the columns file "
        f"and label; photos end in {', '.join(SUFFIXES)}"
    )


def _image_format(body: bytes) -> str | None:
    try:
        return decode.header(io.BytesIO(body)).format
    except decode.TooManyPixelsError:
        raise
    except DataError:  # for the clean stage to reject
        return None


def _targets(photos: dict[str, list[Photo]]) -> list[tuple[str, str, Photo]]:
    """Returns gem, path in the raw folder and photo of each photo; no two paths differ in capitals only."""
    folders = safe_names.folder_names(photos)
    targets = []
    taken: set[str] = set()
    for gem, gem_photos in photos.items():
        for photo in gem_photos:
            target = safe_names.safe_path(folders[gem], photo.path)
            salt = photo.file.name
            while safe_names.name_key(target) in taken:
                target = safe_names.safe_path(folders[gem], photo.path, salt=salt)
                salt += "/"
            taken.add(safe_names.name_key(target))
            targets.append((gem, target, photo))
    return targets
