"""What the subcommands' arguments share: one-line refusals with the nearest right name, and checks of values."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from gemmodel.core.errors import ParameterError, did_you_mean

INVALID_CHOICE = re.compile(r"(argument \S+: )invalid choice: '(.*?)' \(choose from (.*)\)", re.DOTALL)
UNRECOGNIZED = re.compile(r"unrecognized arguments: (-\S+?)(=\S*)?( .*)?", re.DOTALL)


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one line, without the usage, and names the nearest right command or option."""

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Parses arguments; unlike argparse, a subcommand refuses what it does not know itself, by its own options."""
        parsed, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Ends the command with status 2."""
        if match := INVALID_CHOICE.fullmatch(message):
            choices = re.findall(r"[\w-]+", match[3])
            hint = did_you_mean(match[2], choices)
            message = f"{match[1]}{match[2]}: no such choice{hint or '; it is one of ' + ', '.join(choices)}"
        elif match := UNRECOGNIZED.fullmatch(message):
            message += did_you_mean(match[1], re.findall(r"--[\w-]+", self.format_usage()))
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def path_argument(text: str) -> Path:
    """Returns the path of a command's argument; an empty one, as an unset variable gives it, would be `.`.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty name; name a file or folder")
    return Path(text)


def check_port(port: int) -> None:
    """Checks the number of a TCP port.

    Raises:
        ParameterError: it is none.
    """
    if not 0 < port < 65536:
        raise ParameterError(f"--port: {port} is no port; it must be 1 to 65535")


def add_server_arguments(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Adds the options of a server that clients reach: where it listens, and for whom.

    Args:
        parser: of the subcommand.
        port: the default port.
    """
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=port, help="(default: %(default)s)")
    parser.add_argument(
        "--allowed-hosts",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAMES",
        help="names by which clients reach it, such as that of a proxy, separated by commas",
    )
    parser.add_argument(
        "--per-address", type=int, default=32, help="connections of one address at once (default: %(default)s)"
    )


def check_server(arguments: argparse.Namespace) -> None:
    """Checks the options of `add_server_arguments`.

    Raises:
        ParameterError: a value is out of range.
    """
    check_port(arguments.port)
    if arguments.per_address < 1:
        raise ParameterError(f"--per-address: {arguments.per_address} is less than 1")
    for name in arguments.allowed_hosts:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
            raise ParameterError(
                f"--allowed-hosts: {name or 'an empty name'} is no host; name it without scheme and port"
            )


def add_command(commands: Any, name: str, about: str, example: str) -> argparse.ArgumentParser:
    """Adds a subcommand.

    Args:
        commands: the subcommands of `gemmodel`.
        name: of the subcommand.
        about: a sentence, without its full stop.
        example: a command line, and after two spaces what it does.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about[0].lower() + about[1:],
        description=f"{about}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
