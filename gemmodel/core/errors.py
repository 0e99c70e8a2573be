"""Errors that a user can fix: each message names what is wrong, where, and the remedy."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_LINE = 300  # characters of an error's line
SECRET_NAMES = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|ACCESS_KEY|API_KEY|CREDENTIAL")  # of variables
OWN_PACKAGES = ("gemmodel", "sample_site", "scraper", "stages")
MIN_SECRET = 6  # characters: shorter ones would blank out parts of other words


class GemmodelError(Exception):
    """A failure that ends a command with one line instead of a stack trace."""


class ParameterError(GemmodelError):
    """A value in params.yaml or on the command line is unknown, missing or out of range."""


class DataError(GemmodelError):
    """A folder, a file or a class of photos does not fit the step that reads it."""


class SiteError(GemmodelError):
    """A web site does not respond, or its responses cannot be used."""


class DeviceError(GemmodelError):
    """The requested device is not available."""


class ModelError(GemmodelError):
    """A model, its weights and its classes do not fit together."""


class TrackingError(GemmodelError):
    """The MLflow store cannot be used."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the known one that is nearly the same, or nothing."""
    folded = {choice.casefold(): choice for choice in known}
    nearest = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[nearest[0]]}?" if nearest else ""


def shortened(text: str, length: int = 60) -> str:
    """Returns a text in one printable line of at most `length` characters, of a longer one its beginning and its end.

    What files and other programs say goes into a message through this, so that the message still shows its remedy.
    """
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    end = length // 3
    return text if len(text) <= length else f"{text[: length - end - 3]}...{text[-end:]}"


def first_line(error: BaseException, length: int = 200) -> str:
    """Returns the first line of what another library says, at most `length` characters, or else the error's class."""
    return (str(error).splitlines() or [type(error).__name__])[0][:length]


def without_secrets(text: str) -> str:
    """Returns a text with asterisks for passwords, tokens and keys.

    Those in an URI, `scheme://user:password@host` or `?password=...`, and the values of environment variables whose
    names say that they hold one, such as MLFLOW_TRACKING_PASSWORD and AWS_SECRET_ACCESS_KEY.
    """
    text = re.sub(r"(://[^/@:\s]*:)\S+@", r"\1***@", text)
    text = re.sub(r"(?i)([?&]\w*(?:password|passwd|pwd|token|secret)=)[^&\s\"']+", r"\1***", text)
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name.upper()) and len(value.strip()) >= MIN_SECRET:
            text = text.replace(value.strip(), "***")
    return text


@contextmanager
def cli_errors(command: str) -> Iterator[None]:
    """Ends a command on a failure that the user can fix: one line on standard error, exit status 1."""
    try:
        yield
        print(end="", flush=True)  # here, where a closed pipe is caught
    except GemmodelError as error:
        sys.exit(f"{command}: {shortened(without_secrets(str(error)), MAX_LINE)}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN_PACKAGES:
            raise
        sys.exit(
            f"{command}: {error.name} is not installed; `pip install 'gemmodel[pipeline]'` brings what predicting with "
            "most models does not need"
        )
    except BrokenPipeError:  # the reader of the output closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = error.filename or Path.cwd()
        if error.errno in DISK_FULL:  # of a copy the second name is the file that was written
            sys.exit(f"{command}: {error.filename2 or place}: no space left on its disk; free some and run this again")
        sys.exit(f"{command}: {place}: {error.strerror or error}")
    except MemoryError:
        sys.exit(f"{command}: not enough memory; close other programs, or use a machine with more, and run this again")
    except KeyboardInterrupt:
        sys.exit(f"{command}: interrupted; run it again to resume")


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Hides what a C++ library writes to standard error and has no switch for."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
