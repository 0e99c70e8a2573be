"""Work on the workers of a Dask scheduler, where the environment names one; else in this process."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from joblib import cpu_count
from threadpoolctl import threadpool_limits

from gemmodel.core import hashing
from gemmodel.core.errors import DeviceError

T = TypeVar("T")
GONE = "{}: the scheduler is gone; start it and its workers, then run again"
ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
PACKAGES = (  # an output's bytes depend on their versions, and on whether the last ones are installed
    "Pillow", "numpy", "scipy", "tensorflow", "keras", "ai-edge-litert", "opencv-python-headless", "onnxruntime",
    "pillow-heif",
)  # fmt: skip
CODE = hashing.code_digest()[:12]  # at import: a worker that was started before an edit still runs the old code


@contextmanager
def dask_client() -> Iterator[Any]:
    """Yields a client of the scheduler that the environment names, or None.

    The result of the work is the same, so this is not a parameter: no stage runs again because of it.

    Raises:
        DeviceError: Dask is not installed, its scheduler or workers are missing or fail, or a worker has another
            folder, package version or code than this process, at the beginning or at the end.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        yield None
        return
    try:
        import dask
        from distributed import CancelledError, Client
        from distributed.client import ClosedClientError
        from distributed.comm.addressing import get_address_host
        from distributed.scheduler import KilledWorker, NoWorkerError
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
        checked = client.run(environment, on_error="return")
        _check(checked, environment())
        try:
            yield client
            if later := client.scheduler_info(n_workers=-1)["workers"].keys() - checked.keys():
                _check(client.run(environment, workers=[*later], on_error="return"), environment())
        except KilledWorker:
            raise DeviceError(f"{address}: one task killed several workers; see their logs") from None
        except NoWorkerError:
            raise DeviceError(f"{address}: all workers are gone; start some, then run again") from None
        except (CancelledError, ClosedClientError):
            raise DeviceError(GONE.format(address)) from None


def ordered_map(
    client: Any, function: Callable[..., T], arguments: Iterable[tuple[Any, ...]], *, threads: int = 0
) -> Iterator[T]:
    """Yields the results of a function in the order of its arguments, whichever worker is first.

    Each call has one thread of BLAS, whose number changes the rounding: the bits are the same on any number of cores
    and workers. One call more than there are threads is under way at a time: that bounds the memory.

    Args:
        client: of Dask; None: this process computes.
        function: of a module that workers can import; without a client, any.
        arguments: of each call.
        threads: of this process; 0: one per core.
    """
    if client is not None:
        tasks = (client.submit(_on_worker, function, *values, pure=False) for values in arguments)
        yield from _results(tasks, partial(_threads, client))
        return
    threads = threads or cpu_count()
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        yield from _results((pool.submit(function, *values) for values in arguments), lambda: threads)


def _on_worker(function: Callable[..., T], *values: Any) -> T:
    threadpool_limits(1)  # for good: a limit that ends would end that of the worker's other threads, too
    return function(*values)


def _results(tasks: Iterator[Any], threads: Callable[[], int]) -> Iterator[Any]:
    """Yields the results of tasks that are submitted one by one, with at most one more than threads under way."""
    submitted: deque[Any] = deque()
    for task in tasks:
        submitted.append(task)
        if len(submitted) > threads():
            yield submitted.popleft().result()
    while submitted:
        yield submitted.popleft().result()


def _threads(client: Any) -> int:
    try:
        return sum(client.nthreads().values())
    except OSError:  # the scheduler's answer
        raise DeviceError(GONE.format(os.environ[ADDRESS])) from None


def environment() -> dict[str, str]:
    """Returns what an output's bytes depend on and what may differ between processes."""
    return {"folder": str(Path.cwd())} | {name: _version(name) for name in PACKAGES} | {"code": CODE}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _check(workers: dict[str, dict[str, str] | Exception], expected: dict[str, str]) -> None:
    for worker, actual in workers.items():
        if isinstance(actual, Exception):
            raise DeviceError(f"{worker}: {actual}; start it in the project's environment and folder")
        for name, value in expected.items():
            if actual.get(name) != value:
                raise DeviceError(
                    f"{worker}: its {name} is {actual.get(name)}, not {value}; restart it in the project's folder, on "
                    "a disk that all hosts share, with the same environment"
                )
