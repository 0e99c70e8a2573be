"""Where joblib processes photos: in processes of this machine, or on the workers of a Dask scheduler."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from joblib import parallel_config

from gemmodel.core import hashing
from gemmodel.core.errors import DeviceError

ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
CODE = hashing.code_digest()[:12]  # at import: a worker that was started before an edit still runs the old code


@contextmanager
def dask_backend() -> Iterator[None]:
    """Sends joblib's work within this context to Dask's workers, if the environment names their scheduler.

    The result is the same, so this is not a parameter: no stage runs again because of it.

    Raises:
        DeviceError: Dask is not installed, its scheduler or workers are missing or fail, or a worker has another
            folder, Pillow version or code than this process.
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
    for name in ("distributed.client", "tornado.application"):  # their errors become one line here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    timeout = dask.config.get("distributed.comm.timeouts.connect")
    try:
        get_address_host(address)  # rejects a malformed address at once; a client takes long to do so
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DeviceError(f"{ADDRESS}: no scheduler at {address} ({error}); start one, or unset it") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=timeout)
        except TimeoutError:
            raise DeviceError(f"{address}: no worker within {timeout}; start `dask worker {address}`") from None
        _check(client.run(environment, on_error="return"), environment())
        backend = DaskDistributedBackend(client=client)
        backend._collect = partial(_collect, backend)
        try:
            with parallel_config(backend=backend):
                yield
        except KilledWorker:
            raise DeviceError(f"{address}: one task killed several workers; see their logs") from None
        except NoWorkerError:
            raise DeviceError(f"{address}: all workers are gone; start some, then run again") from None
        except CancelledError:
            raise DeviceError(f"{address}: the scheduler is gone; start it and its workers, then run again") from None


def environment() -> dict[str, str]:
    """Returns what an output's bytes depend on and what may differ between processes."""
    return {"folder": str(Path.cwd()), "Pillow": version("pillow"), "code": CODE}


async def _collect(backend: Any) -> None:
    """Passes results to joblib; its own method (of 1.6) drops the errors of failed tasks and then waits forever."""
    while backend._continue:
        async for future, result in backend.waiting_futures:
            backend._results.pop(future)
            backend._callbacks.pop(future)(result[1] if future.status == "error" else result)
        await asyncio.sleep(0.01)


def _check(workers: dict[str, dict[str, str] | Exception], expected: dict[str, str]) -> None:
    for worker, actual in workers.items():
        if isinstance(actual, Exception):
            raise DeviceError(f"{worker}: {actual}; start it in the project's environment and folder")
        for name, value in expected.items():
            if actual[name] != value:
                raise DeviceError(
                    f"{worker}: its {name} is {actual[name]}, not {value}; restart it in the project's folder, on a "
                    "disk that all hosts share, with the same environment"
                )
