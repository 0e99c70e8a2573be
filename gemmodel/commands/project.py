"""Commands about a project and its photos: summary, check, count, inspect, devices, pin-test and worker."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from gemmodel.commands import dvc_files
from gemmodel.commands.arguments import add_command, path_argument
from gemmodel.core import files, image_folder, params
from gemmodel.core.errors import ParameterError

INTERRUPT_TIMEOUT_S = 60  # in which an interrupted stage ends its run in MLflow


def add(commands: Any) -> None:
    """Adds the commands to the subcommands of `gemmodel`."""
    summary = add_command(
        commands, "summary", "Print the scores of the last run and where its reports are", "gemmodel summary"
    )
    summary.add_argument(
        "--reports", type=path_argument, default=Path("reports"), help="folder of reports (default: reports)"
    )
    summary.set_defaults(run=lambda arguments: print_summary(arguments.reports))
    check = add_command(
        commands,
        "check",
        "Check params.yaml, and mend what a killed run left: DVC's files, open runs",
        "gemmodel check",
    )
    check.set_defaults(run=lambda arguments: check_params(Path("params.yaml")))
    count = add_command(
        commands,
        "count",
        "Print the number of photos of each class in a folder, as a tree",
        "gemmodel count data/clean",
    )
    count.add_argument("folder", type=path_argument)
    count.set_defaults(run=lambda arguments: print_tree(arguments.folder))
    inspect = add_command(
        commands,
        "inspect",
        "Show which photos of a folder or archive a crawl would take, and which it would leave out and why",
        "gemmodel inspect ../my-photos.zip",
    )
    inspect.add_argument("source", type=path_argument, metavar="FOLDER|ARCHIVE", help="as in crawl.folder")
    inspect.add_argument("--class-level", type=int, default=0, metavar="N", help="as crawl.class_level (default: 0)")
    inspect.set_defaults(run=lambda arguments: print_inventory(arguments.source, arguments.class_level))
    devices = add_command(commands, "devices", "List the CPUs and GPUs that TensorFlow can use", "gemmodel devices")
    devices.set_defaults(run=lambda arguments: print_devices())
    pin = add_command(
        commands,
        "pin-test",
        "Write the list that keeps the present test part as it is when photos are added",
        "gemmodel pin-test && git add photos/test_list.txt",
    )
    pin.add_argument(
        "--test", type=path_argument, default=Path("data/split/test"), help="the test part (default: %(default)s)"
    )
    pin.add_argument(
        "--clean", type=path_argument, default=Path("data/clean"), help="its source (default: %(default)s)"
    )
    pin.add_argument("--list", type=path_argument, default=Path("photos/test_list.txt"), help="(default: %(default)s)")
    pin.set_defaults(run=lambda arguments: pin_test(arguments.test, arguments.clean, arguments.list))
    worker = add_command(
        commands,
        "worker",
        "Train as one of several hosts; TF_CONFIG says which one",
        'TF_CONFIG="$(cat worker1.json)" gemmodel worker',
    )
    worker.set_defaults(run=lambda arguments: run_worker())


def check_params(path: Path) -> None:
    """Checks a parameter file, and the files and folders that it names; mends what killed processes left.

    That is DVC's own files (`dvc_files`), and runs in MLflow that are still open.

    Raises:
        ParameterError: a key, a value or a path is wrong.
        TrackingError: runs may be open, and the store does not answer.
    """
    for sentence in dvc_files.mend():
        print(f"gemmodel: {sentence}", file=sys.stderr)
    params.check_paths(params.load(path))
    if any(Path("logs/running").glob("*.json")):
        from gemmodel.tracking import runs  # imports MLflow, which takes seconds

        runs.end_killed()


def print_summary(reports: Path) -> None:
    """Prints the scores of the last `dvc repro`, and whether its model is champion.

    Raises:
        DataError: there are no reports.
    """
    scores = files.read_json(reports / "metrics.json")
    decision = files.read_json(reports / "registration.json")
    top = next(name for name in scores if name.startswith("top_"))
    photos = scores.get("test_photos", scores.get("photos"))  # the second in reports of older versions
    alias = "champion" if decision["champion"] else "challenger"
    top_score = f"{top.replace('_', ' ')} {scores[top]:.3f}"
    print(f"accuracy   {scores['accuracy']:.3f}, {top_score}, on {photos} test photos")
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


def run_worker() -> None:
    """Runs the train stage's command without DVC, since only the chief worker writes the stage's outputs.

    Raises:
        ParameterError: TF_CONFIG is not set.
    """
    if not os.environ.get("TF_CONFIG"):
        raise ParameterError("TF_CONFIG is not set: it lists all workers and says which one this is; see docs/gpus.md")
    run_stage("train")


def run_stage(name: str) -> NoReturn:
    """Runs a stage's command without DVC, and exits with its status; an interruption waits for the stage's end."""
    stages = params.read(Path("dvc.yaml"))["stages"]
    _, *command = shlex.split(stages[name]["cmd"])
    with subprocess.Popen([sys.executable, *command]) as stage:
        try:
            status = stage.wait()
        except KeyboardInterrupt:
            try:
                status = stage.wait(timeout=INTERRUPT_TIMEOUT_S)  # Ctrl+C interrupts the stage, too
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                stage.terminate()
                status = stage.wait()
    sys.exit(status)


def print_devices() -> None:
    """Prints one line for each CPU and GPU; a GPU's has its name and memory."""
    from gemmodel import devices

    for line in devices.describe():
        print(line)
