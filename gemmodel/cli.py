"""The command `gemmodel`: predictions, the model registry and checks of a project."""

import argparse
import sys

from gemmodel.commands import doctor, page, predict, project, registry, servers
from gemmodel.commands.arguments import OneLineParser
from gemmodel.core import environment
from gemmodel.core.errors import cli_errors
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
    for subject in (project, doctor, predict, servers, page):
        subject.add(commands)
    tuning.add(commands)
    registry.add(commands)
    arguments = parser.parse_args()
    for line in ignored:
        print(f"gemmodel: {line}", file=sys.stderr)
    with cli_errors("gemmodel"):
        arguments.run(arguments)


if __name__ == "__main__":
    main()
