"""Where joblib processes photos: in processes of this machine, or on the workers of a Dask scheduler."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from joblib import parallel_config

from gemmodel.core.dask_client import dask_client


@contextmanager
def dask_backend() -> Iterator[None]:
    """Sends joblib's work within this context to Dask's workers, if the environment names their scheduler.

    Raises:
        DeviceError: see `dask_client`.
    """
    with dask_client() as client:
        if client is None:
            yield
            return
        from joblib._dask import DaskDistributedBackend

        backend = DaskDistributedBackend(client=client)
        backend._collect = partial(_collect, backend)
        with parallel_config(backend=backend):
            yield


async def _collect(backend: Any) -> None:
    """Passes results to joblib; its own method (of 1.6) drops the errors of failed tasks and then waits forever."""
    while backend._continue:
        async for future, result in backend.waiting_futures:
            backend._results.pop(future)
            backend._callbacks.pop(future)(result[1] if future.status == "error" else result)
        await asyncio.sleep(0.01)
