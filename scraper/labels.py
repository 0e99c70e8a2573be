"""Labels of photos in a table beside them: the other common form of a data set."""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.image_folder import class_key
from scraper import archives
from scraper.layout import Assignment, part_kinds, part_name
from scraper.safe_names import is_photo

SUFFIXES = (".csv", ".tsv", ".jsonl")
LISTS = ".txt"  # a path and a label on each line
MAX_LISTS = 20  # more are annotations of one photo each
LABELS = ("label", "labels", "class", "classes", "category", "gem", "gemstone", "mineral", "species", "breed", "target")
PARTS = {"split", "part", "subset", "set", "partition", "usage"}
FILES = {"file", "filename", "file_name", "image", "image_id", "img", "id", "name", "path", "photo", "picture"}
CORRECTIONS = "corrections.csv"
OWN_FILES = {CORRECTIONS, "test_list.txt", "hierarchy.yaml"}  # of this project, in its folder `photos`
FLAGS, ONES = {"", "0", "1", "0.0", "1.0", "true", "false"}, {"1", "1.0", "true"}
LISTED = re.compile(rf"(.*(?:{'|'.join(map(re.escape, image_folder.SUFFIXES))}))\s+(.*)", re.IGNORECASE)
UNLABELLED = "photo without a label"
TWO_LABELS = "photo with two labels"
UNMATCHED = "not used: most of its names match no photo, or several"
MIN_MATCHED = 0.5  # of the rows of a table, or of the photos
MAX_LOOKED_AT = 2_000_000  # cells, to find the column of the files
MAX_NAMED = 10  # columns in a message

Label = tuple[int, str, str | None]  # index of the photo, label, part


def tables(collection: archives.Collection) -> dict[str, archives.File]:
    """Returns the files that may be tables of labels, by their names in the source.

    A form that is to be filled in (`sample_submission.csv`) is none, nor is this project's table of corrections.
    """
    named = {
        name: file
        for file in collection.files
        if (name := f"{collection.prefix}{file.name}").lower().endswith((*SUFFIXES, LISTS))
        and name != CORRECTIONS
        and not (file.problem or image_folder.is_hidden(file.name) or "submission" in file.name.lower())
    }
    many_lists = sum(name.lower().endswith(LISTS) for name in named) > MAX_LISTS
    return {name: file for name, file in named.items() if not (many_lists and name.lower().endswith(LISTS))}


def read(
    tables: Mapping[str, archives.File],
    paths: Sequence[PurePosixPath],
    assignments: Sequence[Assignment],
    *,
    above: Sequence[str] = (),
) -> tuple[list[Assignment], list[str], set[str]]:
    """Places photos by tables of labels, where the folders give no classes.

    A table of labels has one column that names photos (by path, name, or name without suffix) and one column of labels:
    the one that is named label, class, gem or alike, or the only one. Instead it may have one column per class, with a
    1 in one of them. It is a CSV or TSV file, JSON lines, or a text file with a path and a label on each line.

    Args:
        tables: by their names in the source.
        paths: of the photos.
        assignments: by the folders.
        above: names of the archive that the photos are in, and of the folders around it.

    Returns:
        The assignments by the folders, or by the tables where these label at least half of the photos and name other
        classes than the folders; what was guessed or not used, as sentences; and the names of the tables that were
        used.
    """
    if not paths:
        return [], [], set()
    guesses: list[str] = []
    labels: dict[int, set[tuple[str, str | None]]] = defaultdict(set)
    used: dict[str, str] = {}
    for name, file in tables.items():
        rows, by_columns, remarks = _labels(file, paths, above)
        guesses += [f"{name}: {remark}" for remark in remarks]
        if rows:
            used[name] = f"the columns of {name}" if by_columns else name
        for i, label, part in rows:
            labels[i].add((label, part))
    if not labels:
        return list(assignments), guesses, set()
    folder_classes = {assignment.gem for assignment in assignments if assignment.gem}
    table_classes = {label for pairs in labels.values() for label, _ in pairs}
    assigned = sum(assignment.gem is not None for assignment in assignments)
    if len(table_classes | folder_classes) < 2:  # a form to be filled in, such as sample_submission.csv
        return list(assignments), guesses, set()
    pairs = {(assignments[i].gem, label) for i in labels for label, _ in labels[i] if assignments[i].gem}
    same = len(pairs) == len({gem for gem, _ in pairs}) == len({label for _, label in pairs}) > 1  # numbers of folders
    by_table = (
        not same and not (folder_classes & table_classes) and len(table_classes) > 1 and 2 * len(labels) >= len(paths)
    )
    if not by_table and assigned:
        keys = {class_key(gem) for gem in folder_classes}
        unknown = keys.isdisjoint(map(class_key, table_classes))  # such as numbers of the folders
        labels = {i: pairs for i, pairs in labels.items() if not (assignments[i].gem or unknown)}
        if not labels:
            if not table_classes <= folder_classes:
                guesses.append(f"{', '.join(used.values())}: not used, since the folders name classes")
            return list(assignments), guesses, set()
    guesses.append(f"labels of {len(labels)} photos are from {', '.join(used.values())}")
    result = list(assignments)
    for i, (path, assignment) in enumerate(zip(paths, assignments, strict=True)):
        if i in labels:
            gems = {label for label, _ in labels[i]}
            part = next((part for _, part in labels[i] if part), None)
            part = part or next(filter(None, map(part_name, path.parts[:-1])), None)
            if len(gems) > 1:
                result[i] = Assignment(None, path.parts, reason=TWO_LABELS)
            else:
                result[i] = Assignment(gems.pop(), path.parts, part)
        elif by_table or not assignment.gem:
            result[i] = Assignment(None, path.parts, reason=UNLABELLED if by_table else assignment.reason)
    return result, guesses, set(used)


def _labels(
    file: archives.File, paths: Sequence[PurePosixPath], above: Sequence[str]
) -> tuple[list[Label], bool, list[str]]:
    """Returns the labels in a table, whether columns are its classes, and how it was read, or why not."""
    if file.size > archives.MAX_BYTES:
        return [], False, [f"not read: larger than {archives.MAX_BYTES // 2**20} MB"]
    try:
        rows = [row for row in _rows(file) if any(row)]
    except (DataError, csv.Error, ValueError, RecursionError) as error:
        return [], False, [f"not read: {error}"]
    if len(rows) < 2:
        return [], False, []
    header, body, remarks = _split_header(rows)
    index = _Index(paths, PurePosixPath(file.name), above, header)
    if len(header) < 2 or (file_column := _file_column(body, index, len(header))) is None:
        return [], False, [] if body or file.name.lower().endswith(LISTS) else remarks
    if index.find(header[file_column]) is not None and FILES.union(LABELS).isdisjoint(map(str.lower, header)):
        header, body = [f"column {i}" for i in range(1, len(header) + 1)], [header, *body]
        remarks.append("its first row names a photo, so it has no header")
    found = [index.find(row[file_column]) for row in body]
    hits = sum(i is not None for i in found)
    if hits < MIN_MATCHED * min(len(body), len(paths)):
        photo_names = sum(is_photo(row[file_column]) for row in body)
        return [], False, [UNMATCHED] if 2 * photo_names > len(body) else []  # or a table of something else
    part_column = next((i for i, name in enumerate(header) if name.lower() in PARTS), None)
    columns = {i: set(column) for i, column in enumerate(zip(*body, strict=True)) if i != file_column}
    flags = _one_hot(header, body, columns)
    label_column, problem = _label_column(header, {i: columns[i] for i in columns if i not in flags}, len(body), flags)
    remarks += [problem] if problem else []
    labels: list[Label] = []
    for row, i in zip(body, found, strict=True):
        if i is not None:
            part = row[part_column] if part_column not in (None, label_column) else ""
            if label_column is None:
                names = [header[j] for j in flags if row[j].lower() in ONES]
            else:  # `cat dog` beside `cat` and `dog` is two labels
                pieces = re.split(r"[\s,;|]+", row[label_column])
                names = pieces if columns[label_column].issuperset(pieces) else [row[label_column]]
            labels += [(i, name, (part_name(part) or part) or None) for name in names if name]
    return labels, label_column is None, remarks


def _split_header(rows: Sequence[list[str]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Returns the first row of a table, the other rows with as many cells, and a remark if there are others."""
    header, body = rows[0], [row if any(row[len(rows[0]) :]) else row[: len(rows[0])] for row in rows[1:]]
    if len(header) > 1 and all(len(row) == len(header) + 1 for row in body):  # R writes no name above names of rows
        return ["", *header], body, ["its rows have a cell more than its header; the first was taken for their name"]
    equal = [row for row in body if len(row) == len(header)]
    if len(equal) == len(body):
        return header, body, []
    others = f"{len(body) - len(equal)} rows are not read: they have more or fewer cells than the first row"
    return header, equal, [f"{others} ({len(header)})"]


def _rows(file: archives.File) -> Iterator[list[str]]:
    """Yields the rows of a table, all of the same number of cells unless it is damaged."""
    body, suffix = file.read(), PurePosixPath(file.name).suffix.lower()
    try:
        text = body.decode("utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("cp1252", "replace")
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    if suffix == ".jsonl":
        objects = [row for row in map(json.loads, filter(str.strip, text.split("\n"))) if isinstance(row, dict)]
        header = list(dict.fromkeys(key for row in objects for key in row))
        yield header
        yield from (
            ["" if isinstance(cell := row.get(key, ""), dict | list | None) else str(cell).strip() for key in header]
            for row in objects
        )
    elif delimiter not in first and suffix == LISTS:
        for line in text.split("\n"):
            match = LISTED.fullmatch(line.strip())
            yield list(match.groups()) if match else line.split(None, 1)
    else:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True):
            yield list(map(str.strip, row))


def _file_column(body: Sequence[Sequence[str]], index: "_Index", width: int) -> int | None:
    """Returns the column that names most photos; without one, that of most names of photos that are not there, or None.

    A column of row numbers may match photos called 1.jpg as well as the column of their names does.
    """
    sample = body[:: max(1, len(body) * width // MAX_LOOKED_AT)]
    matched = {}
    for i, column in enumerate(zip(*sample, strict=True)):
        counts = Counter(column)
        hits = sum(count for cell, count in counts.items() if index.find(cell) is not None)
        names = sum(count for cell, count in counts.items() if is_photo(cell))
        if hits or names:
            matched[i] = hits > 0, names, hits
    return max(matched, key=lambda i: matched[i], default=None)


def _one_hot(header: Sequence[str], body: Sequence[Sequence[str]], columns: Mapping[int, set[str]]) -> list[int]:
    """Returns the columns that are one class each: those of 0 and 1 of which most rows have a single 1; or none."""
    flags = [i for i in columns if {*map(str.lower, columns[i])} <= FLAGS and not part_name(header[i])]
    ones = {value for i in flags for value in columns[i] if value.lower() in ONES}
    single = [on[0] for row in body if len(on := [i for i in flags if row[i] in ones]) == 1]
    return flags if len(set(single)) > 1 and 2 * len(single) >= len(body) else []


def _label_column(
    header: Sequence[str], columns: Mapping[int, set[str]], n_rows: int, flags: Sequence[int]
) -> tuple[int | None, str | None]:
    """Returns the column of the labels, and a remark: why there is none, or that it was guessed.

    Args:
        header: the names of the columns.
        columns: the values in each column that may have the labels.
        n_rows: the number of rows.
        flags: columns that are one class each; the labels are from these where no other column is called as one.
    """
    exact = {re.sub(r"[\W_]+", "", header[i].lower()): i for i in columns}  # ClassName, class_name
    wanted = [f"{label}{end}" for end in ("name", "") for label in LABELS]
    if named_exactly := [exact[name] for name in wanted if name in exact]:
        return named_exactly[0], None
    named = {i: re.split(r"[\W_]+", header[i].lower()) for i in columns}
    for label in LABELS:
        for i, words in named.items():
            if label in words and "id" not in words:
                return i, None
    if flags:
        return None, None
    if (
        len(columns) == 1
        and header[i := next(iter(columns))].startswith("column ")
        and (
            len(columns[i]) < n_rows and "-1" not in columns[i]  # Pascal VOC's lists for one class
        )
    ):
        return i, None
    texts = [
        i
        for i, values in columns.items()
        if header[i].lower() not in PARTS
        and 1 < len(values) <= n_rows / 2
        and not all(re.fullmatch(r"[-+.\deE]*", value) for value in values)
    ]
    if len(texts) == 1:
        return texts[0], f"its column {header[texts[0]]!r} was taken for the labels"
    more = ", ..." if len(columns) > MAX_NAMED else ""
    names = ", ".join([header[i] for i in columns][:MAX_NAMED]) + more
    return None, f"names photos, but not used: which of its columns ({names}) has the labels? Name that one label"


class _Index:
    """Finds photos by what a table calls them."""

    def __init__(
        self, paths: Sequence[PurePosixPath], table: PurePosixPath, above: Sequence[str], header: Sequence[str]
    ) -> None:
        self.find = cache(self._find)  # a cell is looked up to find the column of files, and to read it
        self._folders = [_folders(path.as_posix()) for path in paths]
        kinds_of = cache(part_kinds)
        self._kinds = [kinds_of(*above, *path.parts[:-1]) for path in paths]
        self._table = table
        # Where a column names the part of each photo, the name of the table does not.
        self._table_kinds = set() if PARTS.intersection(map(str.lower, header)) else part_kinds(table.stem)
        self._own = {_name_key(table.stem), part_name(table.stem)}  # train.csv names the photos in train/
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for i, path in enumerate(paths):
            self._by_name[_name_key(path.name)].append(i)
            self._by_name[_name_key(path.stem)].append(i)

    def _find(self, cell: str) -> int | None:
        """Returns the index of the photo that a cell names, None for none or more than one.

        It is of the part that the cell's folders name, or else the table's name. Of several photos of a name it is the
        one whose path has the longest common end with the cell's: that may be a URL, or a path on another machine.
        """
        path = cell.strip().replace("\\", "/")
        matches = self._by_name.get(_name_key(path.rsplit("/", 1)[-1]), [])
        below = posixpath.normpath(posixpath.join(self._table.parent, path)) if matches else ""
        if any(self._kinds[i] for i in matches):
            kinds = next(filter(None, map(part_kinds, below.split("/")[-2::-1])), self._table_kinds)
            matches = [i for i in matches if not (kinds and self._kinds[i]) or kinds & self._kinds[i]]
        for wanted in (below, posixpath.normpath(path)) if len(matches) > 1 else ():
            for depth, folder in enumerate(_folders(wanted)):
                nearer = [i for i in matches if self._folders[i][depth : depth + 1] == [folder]]
                if not nearer:
                    break
                matches = nearer
        if len(matches) > 1:
            matches = [i for i in matches if self._own & {*self._folders[i]}]
        return matches[0] if len(matches) == 1 else None


def _folders(path: str) -> list[str]:
    """Returns the folders of a path, the innermost first; the last one, which is empty, is where the path begins."""
    return ["", *_name_key(path).split("/")[:-1]][::-1]


def _name_key(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().lower())
