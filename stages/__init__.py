"""One module per stage of dvc.yaml, and their common command line."""

import argparse
import gc
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from gemmodel.core import environment
from gemmodel.core.errors import cli_errors

if sys.argv[0] == "-m":  # `python -m` looks for the stage's module, which calls `command`
    gc.disable()  # until then: imports of TensorFlow take a quarter less time
environment.keep_freed_memory()
IGNORED = environment.apply_environment()  # here, since a stage imports Keras before it calls `command`


def command(main: Callable[..., None]) -> None:
    """Runs a stage as a command, with one option per parameter of `main`, which is a path."""
    gc.freeze()  # what was imported stays: no collection looks at it, nor does the end of the process
    gc.enable()
    parser = argparse.ArgumentParser(prog=Path(sys.argv[0]).stem, description=inspect.getdoc(main))
    for name, parameter in inspect.signature(main).parameters.items():
        option, required = f"--{name.replace('_', '-')}", parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        help_text = "required" if required else f"default: {default}"
        parser.add_argument(option, type=Path, required=required, default=default, metavar="PATH", help=help_text)
    arguments = vars(parser.parse_args())
    for line in IGNORED:
        print(f"{parser.prog}: {line}", file=sys.stderr)
    with cli_errors(parser.prog):
        main(**arguments)
