"""One file a stage of dvc.yaml; what they have in common is here."""

import argparse
import errno
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from gemmodel.errors import GemError


def command(main: Callable[..., None]) -> None:
    """Runs a stage as a command: each parameter of `main` is an option that takes a path.

    A failure that the user can mend ends in one line on standard error and exit status 1.
    """
    parser = argparse.ArgumentParser(description=inspect.getdoc(main), formatter_class=argparse.RawTextHelpFormatter)
    for name, parameter in inspect.signature(main).parameters.items():
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=Path, required=default is None, default=default, metavar="PATH"
        )
    arguments = vars(parser.parse_args())
    try:
        main(**arguments)
    except GemError as error:
        sys.exit(f"{parser.prog}: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"{parser.prog}: no space left on the disk of {error.filename or Path.cwd()}; free some and run again")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: interrupted")
