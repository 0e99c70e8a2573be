"""Where joblib's work on photos is done: in processes of this machine, or by the workers of a Dask scheduler."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from joblib import parallel_config

from gemmodel.errors import DeviceError

ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
PATIENCE = 20  # seconds for a scheduler to answer, and for it to have a worker
SOURCES = sorted(Path(__file__).parent.rglob("*.py"))
# As this process imported it: a worker that was started before an edit would go on doing what the old code says.
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]


@contextmanager
def connected() -> Iterator[None]:
    """Lets joblib's work within this context go to Dask's workers, where the environment names their scheduler.

    The result is the same, so this is no parameter: nothing runs again because of it.

    Raises:
        DeviceError: Dask is not installed, its scheduler or workers are not there or fail, or a worker has another
            folder, Pillow or code than this process.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        yield
        return
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise DeviceError(f"{ADDRESS} is set, but Dask is not installed: `pip install -e '.[dask]'`") from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"{ADDRESS}: no scheduler at {address} ({error}); start `dask scheduler` or unset it"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise DeviceError(f"{address}: no worker within {PATIENCE} s; start `dask worker {address}`") from None
        _check(client.run(surroundings, on_error="return"), surroundings())
        try:
            with parallel_config(backend="dask", client=client):
                yield
        except KilledWorker as error:
            raise DeviceError(f"{address}: workers died at one piece of work, again and again: {error}") from None


def surroundings() -> dict[str, str]:
    """Returns what the bytes of an output depend on that may differ from process to process."""
    return {"folder": str(Path.cwd()), "Pillow": version("pillow"), "code": CODE}


def _check(told: dict[str, dict[str, str] | Exception], here: dict[str, str]) -> None:
    for worker, there in told.items():
        if isinstance(there, Exception):
            raise DeviceError(f"{worker}: {there}; start it in the project's environment and folder")
        for name, value in here.items():
            if there[name] != value:
                raise DeviceError(
                    f"{worker}: its {name} is {there[name]}, not {value}; start it anew in the project's folder, on a "
                    "disk that all hosts share, with the same environment"
                )
