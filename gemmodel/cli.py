"""The command `gemmodel`: small questions that people ask of the project."""

import argparse
from pathlib import Path

from gemmodel import params
from gemmodel.data import folders
from gemmodel.errors import DataError, told_in_one_line


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
    keep = commands.add_parser("keep-test", help="write the list that keeps the present test part as it is")
    keep.add_argument("--test", type=Path, default=Path("data/split/test"), help="the test part (default: %(default)s)")
    keep.add_argument("--clean", type=Path, default=Path("data/clean"), help="its source (default: %(default)s)")
    keep.add_argument("--list", type=Path, default=Path("photos/test_list.txt"), help="(default: %(default)s)")
    keep.set_defaults(run=lambda arguments: keep_test(arguments.test, arguments.clean, arguments.list))
    promote = commands.add_parser("promote", help="make a version of the registered model champion")
    promote.add_argument("version", help="its number in MLflow's registry")
    promote.set_defaults(run=lambda arguments: retitle(arguments.version))
    rollback = commands.add_parser("rollback", help="make the former champion champion again")
    rollback.set_defaults(run=lambda arguments: retitle(None))
    arguments = parser.parse_args()
    with told_in_one_line("gemmodel"):
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
    scores = folders.read_json(reports / "metrics.json")
    decision = folders.read_json(reports / "registration.json")
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
    for line in folders.tree(folder):
        print(line)


def keep_test(test: Path, clean: Path, out: Path) -> None:
    """Writes the photos of the test part to the list that split.keep_test names, and says what to do with it.

    Raises:
        DataError: there is no test part, or it does not stem from the clean folder.
    """
    from gemmodel.data import splitting

    number = splitting.write_test_list(test, clean, out)
    print(f"{out}: {number} photos stay the test part whatever comes in; commit the list")


def retitle(version: str | None) -> None:
    """Makes a version of the registered model champion, or, of None, the former champion; tells what was done.

    Raises:
        TrackingError: there is no such version, or no former champion.
    """
    name = params.load(Path("params.yaml")).register.name
    from gemmodel.delivery import tracking, versions

    with tracking.connected():
        print(versions.rollback(name) if version is None else versions.promote(name, version))


def print_devices() -> None:
    """Prints each processor that TensorFlow sees, a GPU with its name and memory."""
    from gemmodel import devices

    for line in devices.describe():
        print(line)


if __name__ == "__main__":
    main()
