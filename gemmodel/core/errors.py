"""The errors that a user can mend: each message names what is wrong, where, and the remedy."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class GemmodelError(Exception):
    """A failure that ends a command with one line instead of a stack trace."""


class ParameterError(GemmodelError):
    """A value in params.yaml or on the command line is unknown, missing or out of range."""


class DataError(GemmodelError):
    """A folder, a file or a class of photos is not as the step needs it."""


class SiteError(GemmodelError):
    """A web site does not answer, or answers with nothing that can be used."""


class DeviceError(GemmodelError):
    """The device that was asked for is not there."""


class ModelError(GemmodelError):
    """A model, its weights or its classes do not fit."""


class TrackingError(GemmodelError):
    """The MLflow store cannot be used."""


@contextmanager
def cli_errors(command: str) -> Iterator[None]:
    """Ends a command on a failure that the user can mend: one line on standard error, exit status 1."""
    try:
        yield
    except GemmodelError as error:
        sys.exit(f"{command}: {error}")
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"{command}: {error.filename or Path.cwd()}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(f"{command}: interrupted; run it again to go on")


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Keeps off the standard error stream what a C++ library says for which it has no switch."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
