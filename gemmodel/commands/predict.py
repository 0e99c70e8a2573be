"""The command `gemmodel predict`."""

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmodel.commands.arguments import add_command, path_argument
from gemmodel.commands.registry import model_folder
from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError, ParameterError

if TYPE_CHECKING:
    from gemmodel.serve.predictions import Prediction

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # that --explain writes
CSV_COLUMNS = ("photo", "gem", "probability", "mineral_class", "prediction_set", "unknown", "text", "error")
MAX_WIDTH = 60  # characters of a photo's name in a table; a longer name moves the rest of its row


def add(commands: Any) -> None:
    """Adds the command to the subcommands of `gemmodel`."""
    predict = add_command(
        commands,
        "predict",
        "Predict the gem in photos",
        "gemmodel predict stone.jpg my-stones/ '*.png' --csv > gems.csv",
    )
    predict.add_argument("photos", nargs="+", metavar="PHOTO", help="a file, a folder, or a pattern such as '*.jpg'")
    predict.add_argument("--top", type=int, metavar="N", help="also print the N most probable gems of each photo")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print a table of comma-separated values, one photo per row")
    form.add_argument("--json", action="store_true", help="print the whole prediction, one JSON object per line")
    predict.add_argument(
        "--explain", type=path_argument, metavar="PNG", help="draw the part on which the answer rests, and say why"
    )
    predict.add_argument(
        "--model", type=path_argument, metavar="FOLDER", help="of a model (default: the registry's champion)"
    )
    predict.set_defaults(run=predict_photos)


def predict_photos(arguments: argparse.Namespace) -> None:
    """Prints the prediction for each photo, in their order. Photos that cannot be read are reported and skipped.

    Raises:
        ParameterError: an option is out of range or does not fit the others.
        DataError: there is no model; or, after all predictions, some photos could not be read.
    """
    paths = expand_paths(arguments.photos)
    if arguments.explain and len(paths) != 1:
        raise ParameterError(f"--explain: explains one photo, not {len(paths)}")
    if arguments.explain and arguments.explain.suffix.lower() not in PICTURES:
        raise ParameterError(f"--explain: {arguments.explain}: its name must end in {', '.join(PICTURES)}")
    if arguments.explain and (arguments.explain.is_dir() or arguments.explain.resolve() == paths[0].resolve()):
        raise ParameterError(f"--explain: {arguments.explain} is there, and would be lost; name a new file")
    if arguments.top is not None and arguments.top < 1:
        raise ParameterError(f"--top: {arguments.top} is less than 1")
    model = model_folder(arguments)
    from gemmodel.serve.predictor import Predictor

    predictor = Predictor(model, workers=1 if len(paths) == 1 and not arguments.explain else 0)
    results = zip(paths, predictor.predict(paths, top=arguments.top or 5), strict=True)
    write, failed = print, 0
    reasons: Sequence[str] = ()
    lines = row_writer(arguments, paths)
    if len(paths) > 1 and sys.stderr.isatty():
        from tqdm import tqdm

        write, results = tqdm.write, tqdm(results, total=len(paths), unit="photo")
    for path, prediction in results:
        if isinstance(prediction, DataError):
            failed += 1
            print(f"gemmodel: {path}: {prediction}", file=sys.stderr)
        elif arguments.explain:
            picture, reasons = predictor.explain(path)
            with files.atomic_write(arguments.explain) as new:
                picture.save(new)
        for line in lines(path, prediction, reasons):
            write(line)
    if failed:
        raise DataError(f"{failed} of {len(paths)} photos could not be read")


def row_writer(
    arguments: argparse.Namespace, paths: Sequence[Path]
) -> Callable[[Path, "Prediction | DataError", Sequence[str]], Iterator[str]]:
    """Returns what gives the lines for a photo: of JSON or CSV as requested, else of text; first the header, if any.

    Its last argument are the sentences of an explanation.
    """
    from gemmodel.serve.predictions import to_details, to_text

    top = arguments.top or 0
    width = min(max(len(str(path)) for path in paths), MAX_WIDTH)
    heads = []
    if arguments.csv:
        heads = [to_csv([*CSV_COLUMNS, *(f"{name}_{i}" for i in range(2, top + 1) for name in ("gem", "probability"))])]
    elif not arguments.json and len(paths) > 1:
        heads = [f"{'photo':{width}}  probability  gem"]

    def lines(path: Path, prediction: "Prediction | DataError", reasons: Sequence[str]) -> Iterator[str]:
        while heads:
            yield heads.pop()
        if isinstance(prediction, DataError):
            if arguments.json:
                yield to_json({"photo": str(path), "error": str(prediction)})
            elif arguments.csv:
                yield to_csv([path, *[""] * (len(CSV_COLUMNS) - 2), prediction, *[""] * (2 * max(0, top - 1))])
        elif arguments.json:
            texts = {"text": to_text(prediction), "details": to_details(prediction)}
            yield to_json(
                {"photo": str(path), **asdict(prediction), **texts} | ({"explanation": reasons} if reasons else {})
            )
        elif arguments.csv:
            yield to_csv(csv_row(path, prediction, to_text(prediction), top))
        else:
            yield from text_lines(path, prediction, to_text(prediction), top, width if len(paths) > 1 else None)
            yield from (f"    {sentence}" for sentence in reasons)

    return lines


def csv_row(path: Path, prediction: "Prediction", text: str, top: int) -> list[Any]:
    """Returns the values of CSV_COLUMNS, and after them the second to `top`-th gem, each with its probability."""
    row = [path, prediction.gem, f"{prediction.probability:.6f}", prediction.mineral_class]
    row += [" | ".join(prediction.prediction_set), prediction.unknown, text, ""]
    return row + [value for gem, probability in prediction.top[1:top] for value in (gem, f"{probability:.6f}")]


def text_lines(path: Path, prediction: "Prediction", text: str, top: int, width: int | None) -> Iterator[str]:
    """Yields a photo's prediction, and its most probable gems, as lines or, with a width, as rows of a table."""
    chance = "" if prediction.unknown else f"{100 * prediction.probability:.1f} %"
    whole = prediction.unknown or len(prediction.prediction_set) == 1 or text.startswith(prediction.gem)
    if width is not None:
        yield f"{path!s:{width}}  {chance:>11}  {text if whole else f'{prediction.gem} ({text})'}"
    elif len(prediction.prediction_set) == 1 or prediction.unknown:
        yield f"{path}: {text} {chance}".rstrip()
    else:
        yield f"{path}: {prediction.gem} {chance} ({text})"
    for gem, probability in prediction.top[0 if prediction.unknown else 1 : top]:
        yield f"{'':{width or 0}}  {f'{100 * probability:.1f} %':>11}  {gem}"


def to_csv(row: Sequence[Any]) -> str:
    """Returns a row of comma-separated values, without the end of its line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()


def expand_paths(names: Sequence[str]) -> list[Path]:
    """Returns the files that command-line arguments name: files, folders with all photos below them, and patterns.

    Raises:
        DataError: an argument matches no file, or a folder holds no photos.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if not name:
            raise DataError("PHOTO: an empty name; name a file, a folder or a pattern")
        if path.is_dir():
            matches = photos_below(path)
        elif path.exists():
            matches = [path]
        elif path.is_symlink():
            raise DataError(f"{name}: a link to {path.readlink()}, which is not there")
        else:
            try:
                matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
            except ValueError as error:
                raise DataError(f"{name}: {error}") from None
            hidden = path.name.startswith(".")  # as in a shell, `*` is for other names
            matches = [m for m in matches if m.is_file() and (hidden or not image_folder.is_hidden(m.name))]
        if not matches:
            raise DataError(f"{name}: {'no photos in it' if path.is_dir() else 'no such file, folder or pattern'}")
        paths += matches
    return paths


def photos_below(folder: Path) -> list[Path]:
    """Returns all photos below a folder, also through links to folders. Prints how many entries are left out, and why.

    Raises:
        DataError: a folder cannot be read.
    """
    entries: list[tuple[Path, str]] = []
    files = [path for _, paths in image_folder.walk(folder, entries) for path in paths]
    if unreadable := [(path, reason) for path, reason in entries if reason.startswith(image_folder.UNREADABLE)]:
        raise DataError(f"{unreadable[0][0]}: {unreadable[0][1]}")
    named = [path for path in files if path.suffix.lower() in image_folder.SUFFIXES]
    photos = [path for path in named if image_folder.is_image(path)]
    left_out = Counter(
        reason for path, reason in entries if path.suffix.lower() in image_folder.SUFFIXES or path.is_dir()
    )
    left_out += Counter({image_folder.HIDDEN: len(named) - len(photos)})
    if left_out:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))
        print(f"gemmodel: {folder}: left out {reasons}", file=sys.stderr)
    return sorted(photos)


def to_json(row: Mapping[str, Any]) -> str:
    """Returns JSON in one line; characters that standard output cannot encode are escaped as JSON has it."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(row)
    return line
