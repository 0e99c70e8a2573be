"""Where joblib's work on photos is done: in processes of this machine, or by the workers of a Dask scheduler."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from joblib import parallel_config

from gemmodel.core.errors import DeviceError

ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
SOURCES = sorted(Path(__file__).parent.rglob("*.py"))
# As this process imported it: a worker that was started before an edit would go on doing what the old code says.
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]


@contextmanager
def dask_backend() -> Iterator[None]:
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
        import dask
        from distributed import CancelledError, Client
        from distributed.comm.addressing import get_address_host
        from distributed.scheduler import KilledWorker, NoWorkerError
        from joblib._dask import DaskDistributedBackend
    except ModuleNotFoundError:
        raise DeviceError(f"{ADDRESS} is set, but Dask is not installed: `pip install -e '.[dask]'`") from None
    for name in ("distributed.client", "tornado.application"):  # what they say of errors is told in one line here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    patience = dask.config.get("distributed.comm.timeouts.connect")
    try:
        get_address_host(address)  # refuses what is no address; a client takes long to do so
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DeviceError(f"{ADDRESS}: no scheduler at {address} ({error}); start one, or unset it") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=patience)
        except TimeoutError:
            raise DeviceError(f"{address}: no worker within {patience}; start `dask worker {address}`") from None
        _check(client.run(environment, on_error="return"), environment())
        backend = DaskDistributedBackend(client=client)
        backend._collect = partial(_collect, backend)
        try:
            with parallel_config(backend=backend):
                yield
        except KilledWorker:
            raise DeviceError(f"{address}: a piece of work killed worker after worker; see their logs") from None
        except NoWorkerError:
            raise DeviceError(f"{address}: all workers are gone; start some, then run again") from None
        except CancelledError:
            raise DeviceError(f"{address}: the scheduler is gone; start it and its workers, then run again") from None


def environment() -> dict[str, str]:
    """Returns what an output's bytes depend on that may differ from process to process."""
    return {"folder": str(Path.cwd()), "Pillow": version("pillow"), "code": CODE}


async def _collect(backend: Any) -> None:
    """Hands results to joblib, whose own method (of 1.6) keeps to itself what failed in Dask, and waits for ever."""
    while backend._continue:
        async for future, result in backend.waiting_futures:
            backend._results.pop(future)
            backend._callbacks.pop(future)(result[1] if future.status == "error" else result)
        await asyncio.sleep(0.01)


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
