"""The command `gemmodel`: small questions that people ask of the project."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from gemmodel.core import files, image_folder, params
from gemmodel.core.errors import DataError, ParameterError, cli_errors
from gemmodel.tune import command as tuning


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="gemmodel", description="Gemstone photos in, a registered classifier out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    summary = commands.add_parser("summary", help="the scores of the last run, and where to look")
    summary.add_argument("--reports", type=Path, default=Path("reports"), help="folder of reports (default: reports)")
    summary.set_defaults(run=lambda arguments: summarise(arguments.reports))
    check = commands.add_parser("check", help="whether params.yaml is as the stages need it, also where none would run")
    check.set_defaults(run=lambda arguments: check_params(Path("params.yaml")))
    count = commands.add_parser("count", help="the photos of each class in a folder, as a tree")
    count.add_argument("folder", type=Path)
    count.set_defaults(run=lambda arguments: print_tree(arguments.folder))
    devices = commands.add_parser("devices", help="the processors that TensorFlow sees")
    devices.set_defaults(run=lambda arguments: print_devices())
    predict = commands.add_parser("predict", help="which gem photos show")
    predict.add_argument("photos", nargs="+", metavar="PHOTO", help="a file, a folder, or a pattern such as '*.jpg'")
    predict.add_argument("--top", type=int, help="also name this many gems of each photo, with their probabilities")
    predict.add_argument("--json", action="store_true", help="all that is known of each photo, one JSON object a line")
    predict.add_argument("--explain", type=Path, metavar="PNG", help="write a picture of what speaks for the gem")
    predict.add_argument("--model", type=Path, metavar="FOLDER", help="of a model (default: the registry's champion)")
    predict.set_defaults(run=predict_photos)
    serve = commands.add_parser("serve", help="answer HTTP requests with the registry's champion, by MLflow's server")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=5002, help="(default: %(default)s)")
    serve.set_defaults(run=lambda arguments: serve_champion(arguments.host, arguments.port))
    page = commands.add_parser("app", help="a web page that names the gem of a photo")
    page.add_argument("--model", type=Path, metavar="FOLDER", help="of a model (default: the registry's champion)")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    page.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    page.add_argument("--photos", type=Path, default=Path("data/clean"), help="known ones (default: %(default)s)")
    page.add_argument(
        "--manifest", type=Path, default=Path("data/raw/manifest.jsonl"), help="properties (default: %(default)s)"
    )
    page.add_argument("--per-minute", type=int, default=60, help="requests of one address (default: %(default)s)")
    page.set_defaults(run=serve_page)
    tuning.add(commands)
    keep = commands.add_parser("pin-test", help="write the list that keeps the present test part as it is")
    keep.add_argument("--test", type=Path, default=Path("data/split/test"), help="the test part (default: %(default)s)")
    keep.add_argument("--clean", type=Path, default=Path("data/clean"), help="its source (default: %(default)s)")
    keep.add_argument("--list", type=Path, default=Path("photos/test_list.txt"), help="(default: %(default)s)")
    keep.set_defaults(run=lambda arguments: pin_test(arguments.test, arguments.clean, arguments.list))
    promote = commands.add_parser("promote", help="make a version of the registered model champion")
    promote.add_argument("version", help="its number in MLflow's registry")
    promote.set_defaults(run=lambda arguments: retitle(arguments.version))
    rollback = commands.add_parser("rollback", help="make the former champion champion again")
    rollback.set_defaults(run=lambda arguments: retitle(None))
    worker = commands.add_parser("worker", help="take part in a training on several hosts; TF_CONFIG tells which one")
    worker.set_defaults(run=lambda arguments: train_along())
    arguments = parser.parse_args()
    with cli_errors("gemmodel"):
        arguments.run(arguments)


def check_params(path: Path) -> None:
    """Reads a parameter file, and looks for the folder of photos that it names.

    Raises:
        ParameterError: a key or value is wrong.
        DataError: there is no such folder or archive; DVC alone would only say that it is missing.
    """
    crawl = params.load(path).crawl
    if "folder" in crawl.source and not Path(crawl.folder).exists():
        raise DataError(f"crawl.folder: {crawl.folder}: no such folder or archive")


def summarise(reports: Path) -> None:
    """Prints what the last `dvc repro` came to.

    Raises:
        DataError: there are no reports.
    """
    scores = files.read_json(reports / "metrics.json")
    decision = files.read_json(reports / "registration.json")
    top = next(name for name in scores if name.startswith("top_"))
    title = "champion" if decision["champion"] else "challenger"
    top_score = f"{top.replace('_', ' ')} {scores[top]:.3f}"
    print(f"accuracy   {scores['accuracy']:.3f}, {top_score}, on {scores['photos']} test photos")
    print(f"model      {decision['name']}, registered as {title}: {decision['reason']}")
    print(f"reports    {reports.absolute()}")
    print("MLflow UI  make ui")


def print_tree(folder: Path) -> None:
    """Prints the number of photos in each folder, deep folders included, and their sum.

    Raises:
        DataError: the folder does not exist or holds no photos.
    """
    for line in image_folder.tree(folder):
        print(line)


def pin_test(test: Path, clean: Path, out: Path) -> None:
    """Writes the photos of the test part to the list that split.test_list names, and says what to do with it.

    Raises:
        DataError: there is no test part, or it does not stem from the clean folder.
    """
    from gemmodel.split import test_list

    number = test_list.write(test, clean, out)
    print(f"{out}: {number} photos stay the test part whatever comes in; commit the list")


def predict_photos(arguments: argparse.Namespace) -> None:
    """Prints what the model tells of each photo, in their order; those that cannot be read are told of and left out.

    Raises:
        ParameterError: an option makes no sense.
        DataError: a photo cannot be read, after all others are told; or there is no model.
    """
    paths = photos_named(arguments.photos)
    if arguments.explain and len(paths) != 1:
        raise ParameterError(f"--explain: explains one photo, not {len(paths)}")
    if arguments.top is not None and arguments.top < 1:
        raise ParameterError(f"--top: {arguments.top} is less than 1")
    model = model_folder(arguments)
    from gemmodel.serve.predictions import to_text
    from gemmodel.serve.predictor import Predictor

    predictor = Predictor(model, workers=1 if len(paths) == 1 and not arguments.explain else 0)
    say, failed = print, 0
    told = zip(paths, predictor.predict(paths, top=arguments.top or 5), strict=True)
    if len(paths) > 1 and sys.stderr.isatty():
        from tqdm import tqdm

        say, told = tqdm.write, tqdm(told, total=len(paths), unit="photo")
    for path, answer in told:
        if isinstance(answer, DataError):
            failed += 1
            print(f"gemmodel: {path}: {answer}", file=sys.stderr)
            told_as = {"photo": str(path), "error": str(answer)}
        else:
            told_as = {"photo": str(path), **asdict(answer), "text": to_text(answer)}
        if arguments.json:
            say(json.dumps(told_as, ensure_ascii=False))
        elif not isinstance(answer, DataError):
            say(f"{path}: {answer.gem} {answer.probability:.1%} ({to_text(answer)})")
            for gem, probability in answer.top if arguments.top else ():
                say(f"    {probability:6.1%} {gem}")
    if arguments.explain and not failed:
        predictor.why(paths[0]).save(arguments.explain)
    if failed:
        raise DataError(f"{failed} of {len(paths)} photos could not be read")


def photos_named(names: Sequence[str]) -> list[Path]:
    """Returns the files that names on the command line stand for: files, folders with all below, and patterns.

    Raises:
        DataError: nothing of such a name, or a folder without photos.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(below for below in path.rglob("*") if below.suffix.lower() in image_folder.SUFFIXES)
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        if not found:
            raise DataError(f"{name}: {'no photos in it' if path.is_dir() else 'no such file, folder or pattern'}")
        paths += found
    return paths


def model_folder(arguments: argparse.Namespace) -> Path:
    """Returns the folder that --model names, or that of the registry's champion."""
    if arguments.model:
        return Path(arguments.model)
    from gemmodel.register import locate

    return locate.champion_path(registered_name())


def registered_name() -> str:
    """Returns the name that the project registers its model by; outside of a project the shipped one."""
    path = Path("params.yaml")
    return params.load(path).register.name if path.is_file() else "gemstones"


def serve_champion(host: str, port: int) -> None:
    """Starts MLflow's scoring server on the champion, in this environment; ends with its exit status."""
    model = f"models:/{registered_name()}@champion"
    options = ["--env-manager", "local", "--host", host, "--port", str(port)]
    store = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model, *options]
    print(f"gemmodel: {model} at http://{host}:{port}/invocations; ready in some 15 seconds; Ctrl+C ends it")
    sys.exit(subprocess.call(command, env=os.environ | {"MLFLOW_TRACKING_URI": store}))


def serve_page(arguments: argparse.Namespace) -> None:
    """Serves the web page until it is interrupted."""
    from gemmodel.serve import app

    page = app.app(
        model_folder(arguments),
        photos=arguments.photos,
        manifest=arguments.manifest,
        per_minute=arguments.per_minute,
    )
    app.serve(page, host=arguments.host, port=arguments.port)


def retitle(version: str | None) -> None:
    """Makes a version of the registered model champion, or, of None, the former champion; tells what was done.

    Raises:
        TrackingError: there is no such version, or no former champion.
    """
    from gemmodel.register import versions
    from gemmodel.tracking import runs

    name = registered_name()
    with runs.mlflow_store():
        print(versions.rollback(name) if version is None else versions.promote(name, version))


def train_along() -> None:
    """Runs the train stage's command without DVC, since a worker that is not the chief has no outputs.

    Raises:
        ParameterError: TF_CONFIG is not set.
    """
    if "TF_CONFIG" not in os.environ:
        raise ParameterError("TF_CONFIG is not set: it names all workers, and which of them this is; see docs/gpus.md")
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    _, *command = shlex.split(stages["train"]["cmd"])
    sys.exit(subprocess.call([sys.executable, *command]))


def print_devices() -> None:
    """Prints each processor that TensorFlow sees, a GPU with its name and memory."""
    from gemmodel import devices

    for line in devices.describe():
        print(line)


if __name__ == "__main__":
    main()
