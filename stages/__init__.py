"""One file a stage of dvc.yaml; what they have in common is here."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from gemmodel.core.errors import cli_errors


def command(main: Callable[..., None]) -> None:
    """Runs a stage as a command: each parameter of `main` is an option that takes a path."""
    parser = argparse.ArgumentParser(prog=Path(sys.argv[0]).stem, description=inspect.getdoc(main))
    for name, parameter in inspect.signature(main).parameters.items():
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        told = "required" if default is None else f"default: {default}"
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=Path, required=default is None, default=default, metavar="PATH", help=told)
    arguments = vars(parser.parse_args())
    with cli_errors(parser.prog):
        main(**arguments)
