"""Labels in the names of photos (`cat.1.jpg`, `ruby_002.jpg`), where neither folders nor tables give classes."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from gemmodel.core.image_folder import class_key
from scraper.layout import MASK, MASKS, NO_NAMES, Assignment, part_name

LABELLED = re.compile(r"([^\W\d_]+(?:[\W_]+[^\W\d_]+)*)[\W_]+\d+[\W_]*")  # words, a separator, a number
CAMERA = NO_NAMES | MASKS | {  # what cameras, phones and programs call pictures
    "dsc", "dscn", "dscf", "dcim", "pxl", "mvimg", "gopr", "dji", "sam", "cimg", "imag", "pict", "wp", "mg", "fb", "p",
    "pic", "pics", "foto", "fotos", "bild", "imagen", "scan", "scans", "screenshot", "screen", "shot", "frame",
    "frames", "capture", "video", "vid", "burst", "file", "untitled", "unnamed", "download", "copy", "page", "whatsapp",
    "signal", "snapchat", "telegram",
}  # fmt: skip
MIN_PHOTOS = 2  # of each of two labels


def read(paths: Sequence[PurePosixPath], assignments: Sequence[Assignment]) -> tuple[list[Assignment], list[str]]:
    """Places the photos of folders in which every name is a label, a separator and a number.

    Two labels at least must have two photos each. Names of cameras (`IMG_1.jpg`) and of parts are no labels.

    Args:
        paths: of the photos.
        assignments: by folders and tables.

    Returns:
        The assignments, as they are if one photo has a class already; and what was guessed, or could be, as sentences.
    """
    result, guesses = list(assignments), []
    gems = {assignment.gem for assignment in assignments if assignment.gem}
    folders = defaultdict(list)
    for i, path in enumerate(paths):
        if assignments[i].reason != MASK:
            folders[path.parent].append(i)
    for folder, indices in folders.items() if len(gems) < 2 else ():
        labels = [match[1] if (match := LABELLED.fullmatch(paths[i].stem)) else "" for i in indices]
        counts = Counter(map(class_key, labels))
        if sum(n >= MIN_PHOTOS for n in counts.values()) < 2 or not all(map(_is_label, set(labels))):
            continue
        names = ", ".join(sorted(set(labels))[:5])
        if gems:
            guesses.append(
                f"{folder} is taken as one class; to take labels from its file names ({names}), name it itself"
            )
            continue
        part = next(filter(None, map(part_name, folder.parts)), None)
        for i, label in zip(indices, labels, strict=True):
            result[i] = Assignment(label, paths[i].parts, part)
        guesses.append(
            f"labels of {len(indices)} photos are from their file names, such as {names}; class folders, a table of "
            "labels or crawl.class_level: 1 overrule it"
        )
    return result, guesses


def _is_label(name: str) -> bool:
    words = re.split(r"[\W_]+", name.lower())
    return bool(name) and not all(word in CAMERA or part_name(word) for word in words)
