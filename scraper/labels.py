"""Labels of photos in a table beside them: the other common form of a data set."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from scraper import archives
from scraper.layout import Assignment, part_name
from scraper.safe_names import is_photo

SUFFIXES = (".csv", ".tsv")
LABELS = ("label", "labels", "class", "classes", "category", "gem", "gemstone", "mineral", "species", "breed", "target")
PARTS = {"split", "part", "subset", "set", "partition", "usage"}
UNLABELLED = "photo without a label"
TWO_LABELS = "photo with two labels"
MIN_MATCHED = 0.5  # of the rows of a table, or of the photos


def read(
    collection: archives.Collection, paths: Sequence[PurePosixPath], assignments: Sequence[Assignment]
) -> tuple[list[Assignment], list[str]]:
    """Places photos by the tables of labels in a collection, where the folders give no classes.

    A table of labels is a CSV or TSV file with a header, with one column that names photos (by path, name, or name
    without suffix) and one column of labels: the one that is named label, class, gem or alike, or the only one.

    Args:
        collection: the files, with the tables among them.
        paths: of the photos.
        assignments: by the folders.

    Returns:
        The assignments by the folders, or by the tables where these label at least half of the photos and name other
        classes than the folders; and what was guessed or not used, as sentences.
    """
    guesses: list[str] = []
    labels: dict[int, set[tuple[str, str | None]]] = defaultdict(set)
    used = []
    for file in collection.files:
        if "submission" in file.name.lower():  # a form to be filled in
            continue
        if file.name.lower().endswith(SUFFIXES) and not image_folder.is_hidden(file.name) and not file.problem:
            rows, problem = _labels(file, paths)
            if problem:
                guesses.append(f"{collection.prefix}{file.name}: {problem}")
            if rows:
                used.append(f"{collection.prefix}{file.name}")
            for i, label, part in rows:
                labels[i].add((label, part))
    if not labels:
        return list(assignments), guesses
    folder_classes = {assignment.gem for assignment in assignments if assignment.gem}
    table_classes = {label for pairs in labels.values() for label, _ in pairs}
    assigned = sum(assignment.gem is not None for assignment in assignments)
    if len(table_classes | folder_classes) < 2:  # a form to be filled in, such as sample_submission.csv
        return list(assignments), guesses
    pairs = {(assignments[i].gem, label) for i in labels for label, _ in labels[i] if assignments[i].gem}
    same = len(pairs) == len({gem for gem, _ in pairs}) == len({label for _, label in pairs}) > 1  # numbers of folders
    by_table = (
        not same and not (folder_classes & table_classes) and len(table_classes) > 1 and 2 * len(labels) >= len(paths)
    )
    if not by_table and assigned:
        labels = {i: pairs for i, pairs in labels.items() if not assignments[i].gem}
        if not labels:
            if not table_classes <= folder_classes:
                guesses.append(f"{', '.join(used)}: not used, since the folders name classes")
            return list(assignments), guesses
    guesses.append(f"labels of {len(labels)} photos are from {', '.join(used)}")
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
    return result, guesses


def _labels(
    file: archives.File, paths: Sequence[PurePosixPath]
) -> tuple[list[tuple[int, str, str | None]], str | None]:
    """Returns the index, label and part of each photo that a table names; or why the table cannot be used."""
    try:
        rows = list(_rows(file))
    except (DataError, csv.Error) as error:
        return [], f"not read: {error}"
    if len(rows) < 2 or len(rows[0]) < 2:
        return [], None
    header, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    index = _Index(paths, PurePosixPath(file.name))
    found = [[index.find(row[column]) for row in body] for column in range(len(header))]
    hits = [sum(i is not None for i in column) for column in found]
    # A column of row numbers may match photos called 1.jpg as well as the column of their names does.
    suffixed = [sum(is_photo(row[column]) for row in body) for column in range(len(header))]
    file_column = max(range(len(header)), key=lambda column: (hits[column] > 0 and suffixed[column], hits[column]))
    if not hits[file_column] or hits[file_column] < MIN_MATCHED * min(len(body), len(paths)):
        return [], None  # a table of something else
    label_column, problem = _label_column(header, body, file_column)
    if label_column is None:
        return [], problem
    part_column = next((i for i, name in enumerate(header) if name.strip().lower() in PARTS), None)
    labelled = []
    for row, i in zip(body, found[file_column], strict=True):
        if i is not None and row[label_column].strip():
            part = row[part_column].strip() if part_column not in (None, label_column) else ""
            labelled.append((i, row[label_column].strip(), (part_name(part) or part) or None))
    return labelled, problem


def _rows(file: archives.File) -> Iterator[list[str]]:
    body = file.read()
    try:
        text = body.decode("utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("cp1252", "replace")
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text[:10_000], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel_tab if file.name.lower().endswith(".tsv") else csv.excel
    yield from csv.reader(io.StringIO(text, newline=""), dialect)


def _label_column(
    header: Sequence[str], body: Sequence[Sequence[str]], file_column: int
) -> tuple[int | None, str | None]:
    """Returns the column of the labels, and a remark: why there is none, or that it was guessed."""
    exact = {name.strip().lower(): i for i, name in enumerate(header) if i != file_column}
    wanted = [f"{label}{end}" for end in ("_name", "") for label in LABELS]
    if named_exactly := [exact[name] for name in wanted if name in exact]:
        return named_exactly[0], None
    named = {i: re.split(r"[\W_]+", name.strip().lower()) for i, name in enumerate(header) if i != file_column}
    for label in LABELS:
        for i, words in named.items():
            if label in words and "id" not in words:
                return i, None
    texts = [
        i
        for i in named
        if header[i].strip().lower() not in PARTS
        and 1 < len({row[i] for row in body}) <= len(body) / 2
        and not all(re.fullmatch(r"[-+.\deE]*", row[i]) for row in body)
    ]
    if len(texts) == 1:
        return texts[0], f"its column {header[texts[0]]!r} was taken for the labels"
    columns = ", ".join(header[i] for i in named)
    return None, f"names photos, but not used: which of its columns ({columns}) has the labels? Name that one label"


class _Index:
    """Finds photos by what a table calls them."""

    def __init__(self, paths: Sequence[PurePosixPath], table: PurePosixPath) -> None:
        self._paths, self._table = paths, table
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for i, path in enumerate(paths):
            self._by_name[path.name.lower()].append(i)
            self._by_name[path.stem.lower()].append(i)

    def find(self, cell: str) -> int | None:
        """Returns the index of the photo that a cell names, None for none or more than one."""
        named = PurePosixPath(cell.strip().replace("\\", "/").removeprefix("./"))
        matches = self._by_name.get(named.name.lower(), [])
        if len(named.parts) > 1:
            parts = tuple(part.lower() for part in named.parts)
            below = [i for i in matches if _ends_with(self._paths[i], parts)]
            matches = below or matches  # a URL, or an absolute path of another machine, may end in the name only
        if len(matches) > 1:  # train.csv names the photos in train/
            folders = {self._table.stem.lower(), part_name(self._table.stem) or ""}
            matches = [i for i in matches if folders & {part.lower() for part in self._paths[i].parts}]
        return matches[0] if len(matches) == 1 else None


def _ends_with(path: PurePosixPath, parts: tuple[str, ...]) -> bool:
    folders = tuple(part.lower() for part in path.parts[:-1])
    return any((*folders, name.lower())[-len(parts) :] == parts for name in (path.name, path.stem))
