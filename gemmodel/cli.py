"""The command `gemmodel`: predictions, the model registry and checks of a project."""

import argparse
import sys
from pathlib import Path

from gemmodel.commands import doctor, predict, project, registry, servers
from gemmodel.commands.arguments import OneLineParser, check_port, path_argument
from gemmodel.commands.registry import model_folder
from gemmodel.core import environment
from gemmodel.core.errors import ParameterError, cli_errors
from gemmodel.tune import command as tuning


class Version(argparse.Action):
    """Prints the version of this package and exits; its metadata is read only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Ends the command with status 0."""
        from importlib.metadata import version

        print(f"gemmodel {version('gemmodel')}")
        parser.exit()


def main() -> None:
    """Runs the command line."""
    ignored = environment.apply_environment()
    parser = OneLineParser(prog="gemmodel", description="Train, inspect and use classifiers of gemstones.")
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for subject in (project, doctor, predict, servers):
        subject.add(commands)
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
    app.add_argument("--per-minute", type=int, default=60, help="requests of one address (default: %(default)s)")
    app.set_defaults(run=serve_page)
    app.description, app.epilog = (
        "Serve a web page that predicts the gem in a photo.",
        "example: gemmodel app --port 8001",
    )
    tuning.add(commands)
    registry.add(commands)
    arguments = parser.parse_args()
    for line in ignored:
        print(f"gemmodel: {line}", file=sys.stderr)
    with cli_errors("gemmodel"):
        arguments.run(arguments)


def serve_page(arguments: argparse.Namespace) -> None:
    """Serves the web page until it is interrupted.

    Raises:
        ParameterError: an option is out of range.
        DataError: there is no model.
    """
    check_port(arguments.port)
    if arguments.per_minute < 1:
        raise ParameterError(f"--per-minute: {arguments.per_minute} is less than 1")
    from gemmodel.serve import app

    page = app.create_app(
        model_folder(arguments),
        photos=arguments.photos,
        manifest=arguments.manifest,
        per_minute=arguments.per_minute,
    )
    app.serve(page, host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
