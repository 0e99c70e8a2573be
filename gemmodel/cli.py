"""The command `gemmodel`: predictions, the model registry and checks of a project."""

import argparse
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from gemmodel.core import environment, files, image_folder, params
from gemmodel.core.errors import DataError, ParameterError, TrackingError, cli_errors
from gemmodel.tracking import store
from gemmodel.tune import command as tuning

# Options of `mlflow server` that would show another store than the project's.
SERVER_VARIABLES = ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # that --explain writes


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with status 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main() -> None:
    """Runs the command line."""
    ignored = environment.apply_environment()
    parser = OneLineParser(prog="gemmodel", description="Train, inspect and use classifiers of gemstones.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    summary = commands.add_parser("summary", help="print the scores of the last run and where its reports are")
    summary.add_argument(
        "--reports", type=path_argument, default=Path("reports"), help="folder of reports (default: reports)"
    )
    summary.set_defaults(run=lambda arguments: print_summary(arguments.reports))
    check = commands.add_parser("check", help="check params.yaml, without running a stage")
    check.set_defaults(run=lambda arguments: check_params(Path("params.yaml")))
    count = commands.add_parser("count", help="print the number of photos of each class in a folder, as a tree")
    count.add_argument("folder", type=path_argument)
    count.set_defaults(run=lambda arguments: print_tree(arguments.folder))
    inspect = commands.add_parser("inspect", help="show which photos of a folder or archive a crawl would take")
    inspect.add_argument("source", type=path_argument, metavar="FOLDER|ARCHIVE", help="as in crawl.folder")
    inspect.add_argument("--class-level", type=int, default=0, metavar="N", help="as crawl.class_level (default: 0)")
    inspect.set_defaults(run=lambda arguments: print_inventory(arguments.source, arguments.class_level))
    devices = commands.add_parser("devices", help="list the CPUs and GPUs that TensorFlow can use")
    devices.set_defaults(run=lambda arguments: print_devices())
    predict = commands.add_parser("predict", help="predict the gem in photos")
    predict.add_argument("photos", nargs="+", metavar="PHOTO", help="a file, a folder, or a pattern such as '*.jpg'")
    predict.add_argument("--top", type=int, metavar="N", help="also print the N most probable gems of each photo")
    predict.add_argument("--json", action="store_true", help="print the whole prediction, one JSON object per line")
    predict.add_argument(
        "--explain", type=path_argument, metavar="PNG", help="draw which parts of the photo support the gem"
    )
    predict.add_argument(
        "--model", type=path_argument, metavar="FOLDER", help="of a model (default: the registry's champion)"
    )
    predict.set_defaults(run=predict_photos)
    serve = commands.add_parser("serve", help="serve the registry's champion over HTTP, by MLflow's scoring server")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=5002, help="(default: %(default)s)")
    serve.set_defaults(run=lambda arguments: serve_champion(arguments.host, arguments.port))
    ui = commands.add_parser("ui", help="serve MLflow's UI: runs, metrics and registered models")
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    ui.set_defaults(run=lambda arguments: serve_ui(arguments.host, arguments.port))
    app = commands.add_parser("app", help="serve a web page that predicts the gem in a photo")
    app.add_argument(
        "--model", type=path_argument, metavar="FOLDER", help="of a model (default: the registry's champion)"
    )
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    app.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    app.add_argument(
        "--photos", type=path_argument, default=Path("data/clean"), help="training photos (default: %(default)s)"
    )
    app.add_argument(
        "--manifest",
        type=path_argument,
        default=Path("data/raw/manifest.jsonl"),
        help="of the crawl, with the gems' properties (default: %(default)s)",
    )
    app.add_argument(
        "--examples", type=path_argument, metavar="FOLDER", help="class folders to try (default: data/split/test)"
    )
    app.add_argument(
        "--feedback", type=path_argument, metavar="FOLDER", help="for photos that people correct and agree to give"
    )
    app.add_argument("--per-minute", type=int, default=60, help="requests of one address (default: %(default)s)")
    app.set_defaults(run=serve_page)
    tuning.add(commands)
    pin = commands.add_parser("pin-test", help="write the list that keeps the present test part as it is")
    pin.add_argument(
        "--test", type=path_argument, default=Path("data/split/test"), help="the test part (default: %(default)s)"
    )
    pin.add_argument(
        "--clean", type=path_argument, default=Path("data/clean"), help="its source (default: %(default)s)"
    )
    pin.add_argument("--list", type=path_argument, default=Path("photos/test_list.txt"), help="(default: %(default)s)")
    pin.set_defaults(run=lambda arguments: pin_test(arguments.test, arguments.clean, arguments.list))
    promote = commands.add_parser("promote", help="make a version of the registered model champion")
    promote.add_argument("version", help="its number in MLflow's registry")
    promote.set_defaults(run=lambda arguments: set_champion(arguments.version))
    rollback = commands.add_parser("rollback", help="make the previous champion champion again")
    rollback.set_defaults(run=lambda arguments: set_champion(None))
    worker = commands.add_parser("worker", help="train as one of several hosts; TF_CONFIG says which one")
    worker.set_defaults(run=lambda arguments: run_worker())
    arguments = parser.parse_args()
    for line in ignored:
        print(f"gemmodel: {line}", file=sys.stderr)
    with cli_errors("gemmodel"):
        arguments.run(arguments)


def path_argument(text: str) -> Path:
    """Returns the path of a command's argument; an empty one, as an unset variable gives it, would be `.`.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty name; name a file or folder")
    return Path(text)


def check_params(path: Path) -> None:
    """Checks a parameter file, and the files and folders that it names.

    Raises:
        ParameterError: a key, a value or a path is wrong.
    """
    params.check_paths(params.load(path))


def print_summary(reports: Path) -> None:
    """Prints the scores of the last `dvc repro`, and whether its model is champion.

    Raises:
        DataError: there are no reports.
    """
    scores = files.read_json(reports / "metrics.json")
    decision = files.read_json(reports / "registration.json")
    top = next(name for name in scores if name.startswith("top_"))
    alias = "champion" if decision["champion"] else "challenger"
    top_score = f"{top.replace('_', ' ')} {scores[top]:.3f}"
    print(f"accuracy   {scores['accuracy']:.3f}, {top_score}, on {scores['photos']} test photos")
    print(f"model      {decision['name']}, registered as {alias}: {decision['reason']}")
    print(f"reports    {reports.absolute()}")
    print("MLflow UI  make ui")


def print_tree(folder: Path) -> None:
    """Prints the number of photos in each folder, at any depth, and their sum.

    Raises:
        DataError: the folder does not exist or holds no photos.
    """
    for line in image_folder.tree(folder):
        print(line)


def print_inventory(source: Path, level: int) -> None:
    """Prints the parts and classes of a folder or archive, and what would be left out and why.

    Raises:
        DataError: the folder or archive does not exist or is damaged.
    """
    from scraper import local_photos

    for line in local_photos.describe(source, level=level):
        print(line)


def pin_test(test: Path, clean: Path, out: Path) -> None:
    """Writes the photos of the test part to the list that split.test_list names.

    Raises:
        DataError: there is no test part, or it was not split from the clean folder.
    """
    from gemmodel.split import test_list

    count = test_list.write(test, clean, out)
    print(f"{out}: {count} photos stay the test part, whatever photos are added; commit the list")


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
    from gemmodel.serve.predictions import to_details, to_text
    from gemmodel.serve.predictor import Predictor

    predictor = Predictor(model, workers=1 if len(paths) == 1 and not arguments.explain else 0)
    results = zip(paths, predictor.predict(paths, top=arguments.top or 5), strict=True)
    write, failed = print, 0
    if len(paths) > 1 and sys.stderr.isatty():
        from tqdm import tqdm

        write, results = tqdm.write, tqdm(results, total=len(paths), unit="photo")
    for path, prediction in results:
        if isinstance(prediction, DataError):
            failed += 1
            print(f"gemmodel: {path}: {prediction}", file=sys.stderr)
            row: dict[str, Any] = {"photo": str(path), "error": str(prediction)}
        else:
            texts = {"text": to_text(prediction), "details": to_details(prediction)}
            row = {"photo": str(path), **asdict(prediction), **texts}
            if arguments.explain:
                picture, row["explanation"] = predictor.explain(path)
                with files.atomic_write(arguments.explain) as new:
                    picture.save(new)
        if arguments.json:
            write(to_json(row))
        elif not isinstance(prediction, DataError):
            write(f"{path}: {prediction.gem} {prediction.probability:.1%} ({to_text(prediction)})")
            for gem, probability in prediction.top if arguments.top else ():
                write(f"    {probability:6.1%} {gem}")
            for sentence in row.get("explanation", ()):
                write(f"    {sentence}")
    if failed:
        raise DataError(f"{failed} of {len(paths)} photos could not be read")


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


def model_folder(arguments: argparse.Namespace) -> Path:
    """Returns the folder of --model, by default that of the registry's champion."""
    if arguments.model:
        return Path(arguments.model)
    from gemmodel.register import locate

    return locate.champion_path(registered_name())


def registered_name() -> str:
    """Returns `register.name` of the project's parameters; outside of a project that of the shipped ones."""
    path = Path("params.yaml")
    return params.load(path).register.name if path.is_file() else "gemstones"


def serve_champion(host: str, port: int) -> None:
    """Runs MLflow's scoring server with the champion, in this environment, and exits with the server's status.

    Raises:
        ParameterError: the port is none.
        DataError: there is no champion.
    """
    check_port(port)
    from gemmodel.register import locate

    name = registered_name()
    model = locate.mlflow_model(name)
    with tempfile.TemporaryDirectory() as scratch:
        if "%" in str(model.parent):  # which MLflow would decode; a link to the model itself it refuses
            (link := Path(scratch) / "models").symlink_to(model.parent)
            model = link / model.name
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
        command += ["--env-manager", "local", "--host", host, "--port", str(port)]
        address = f"http://{host}:{port}/invocations"
        print(f"gemmodel: champion of {name} at {address}; ready in about 15 seconds; Ctrl+C ends it", flush=True)
        status = run_server(command, os.environ | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
    sys.exit(status)


def serve_ui(host: str, port: int) -> None:
    """Runs MLflow's UI on the store, and exits with its status; of a store that is a server, prints its address.

    Raises:
        ParameterError: the port is none.
        DataError: there is no store.
        TrackingError: the store is no SQLite file, or cannot be written.
    """
    check_port(port)
    uri = store.tracking_uri()
    if uri.startswith("http"):
        print(f"the runs are on a server: open {store.display_uri(uri)}")
        return
    store.check_exists()
    try:
        store.relocate()
    except sqlite3.Error as error:
        raise TrackingError(f"{store.display_uri(uri)}: {error}") from None
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    variables = {name: value for name, value in os.environ.items() if name not in SERVER_VARIABLES}
    print(f"gemmodel: MLflow's UI at http://{host}:{port}; ready in about 15 seconds; Ctrl+C ends it", flush=True)
    command += ["--backend-store-uri", uri]
    sys.exit(run_server(command, variables | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}))


def run_server(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Runs a server until it ends or Ctrl+C ends it, which it gets too; returns its exit status."""
    with subprocess.Popen(command, env=variables) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.wait()
            return 0


def check_port(port: int) -> None:
    """Checks the number of a TCP port.

    Raises:
        ParameterError: it is none.
    """
    if not 0 < port < 65536:
        raise ParameterError(f"--port: {port} is no port; it must be 1 to 65535")


def serve_page(arguments: argparse.Namespace) -> None:
    """Serves the web page until it is interrupted.

    Raises:
        ParameterError: an option is out of range.
        DataError: there is no model.
        OSError: the folder for feedback cannot be written.
    """
    check_port(arguments.port)
    if arguments.per_minute < 1:
        raise ParameterError(f"--per-minute: {arguments.per_minute} is less than 1")
    if arguments.examples and not arguments.examples.is_dir():
        raise ParameterError(f"--examples: {arguments.examples}: no such folder; it must hold one folder per class")
    from gemmodel.serve import app

    model = model_folder(arguments)
    if arguments.feedback:
        arguments.feedback.mkdir(parents=True, exist_ok=True)
    with app.listen(arguments.host, arguments.port) as listening:
        page = app.create_app(
            model,
            photos=arguments.photos,
            manifest=arguments.manifest,
            examples=arguments.examples or Path("data/split/test"),
            feedback=arguments.feedback,
            per_minute=arguments.per_minute,
        )
        app.serve(page, listening)


def set_champion(version: str | None) -> None:
    """Makes a version of the registered model champion; None is the previous champion. Prints what has changed.

    Raises:
        DataError: there is no registry.
        TrackingError: there is no such version, or no previous champion.
    """
    from gemmodel.register import versions
    from gemmodel.tracking import runs

    name = registered_name()
    with runs.mlflow_store(create=False):
        print(versions.rollback(name) if version is None else versions.promote(name, version))


def run_worker() -> None:
    """Runs the train stage's command without DVC, since only the chief worker writes the stage's outputs.

    Raises:
        ParameterError: TF_CONFIG is not set.
    """
    if not os.environ.get("TF_CONFIG"):
        raise ParameterError("TF_CONFIG is not set: it lists all workers and says which one this is; see docs/gpus.md")
    stages = params.read(Path("dvc.yaml"))["stages"]
    _, *command = shlex.split(stages["train"]["cmd"])
    sys.exit(subprocess.call([sys.executable, *command]))


def print_devices() -> None:
    """Prints one line for each CPU and GPU; a GPU's has its name and memory."""
    from gemmodel import devices

    for line in devices.describe():
        print(line)


if __name__ == "__main__":
    main()
