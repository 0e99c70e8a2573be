"""Embed's shards and fusion's sums on the workers of a real Dask scheduler: the same bytes, even if a worker dies."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemmodel.core.dask_client import ADDRESS, dask_client
from gemmodel.core.errors import DeviceError
from gemmodel.core.params import Params
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.train.kernel_ridge import KernelRidge
from gemmodel.train.ridge import nystroem
from tests.integration.dask_cluster import DEADLINE, scheduler, wait_for, worker

distributed = pytest.importorskip("distributed")

PHOTOS, WIDTH, BLOCKS = 6_000, 300, 30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """The address of a scheduler with two workers, which this process uses, and the scheduler's process."""
    with ExitStack() as stack:
        address, process = stack.enter_context(scheduler(folder))
        for _ in range(2):
            stack.enter_context(worker(address, folder))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=DEADLINE)
        monkeypatch.setenv(ADDRESS, address)
        yield address, process


def kill_a_busy_worker(address: str) -> None:
    with distributed.Client(address, set_as_default=False) as client:
        pids = client.run(os.getpid)
        busy = wait_for(lambda: [name for name, work in client.processing().items() if work])
        os.kill(pids[busy[0]], signal.SIGKILL)


@pytest.fixture
def fit(folder: Path, settings: Callable[..., Params], monkeypatch: pytest.MonkeyPatch) -> Callable[[], KernelRidge]:
    """Fit a head to more photos than it has landmarks, in many blocks."""
    monkeypatch.setattr(nystroem, "BLOCK", PHOTOS // BLOCKS)
    labels = np.sort(np.arange(PHOTOS) % 5).astype(np.int32)
    features = np.random.default_rng(1).normal(np.eye(5, WIDTH)[labels] * 3).astype(np.float32)
    names = np.arange(PHOTOS).astype(str)
    photos = FeatureSet(features, labels, names, list("abcde"), {"maps": WIDTH})
    feature_set.write(folder / "features", photos, shard_size=1_000)
    params = replace(settings().model.fusion, landmarks=800)

    def call() -> KernelRidge:
        photos = feature_set.read(Path("features"))
        with dask_client() as client:
            ridge = KernelRidge(params, classes=5, blocks=[WIDTH], penalty=0.1, client=client, scratch=Path("scratch"))
            return ridge.fit(photos.features, photos.labels)

    return call


def test_workers_give_the_same_bits_to_fusion_even_if_one_is_killed(
    fit: Callable[[], KernelRidge], address: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(fit)
        kill_a_busy_worker(address[0])
        by_workers = running.result(DEADLINE)
    assert not list(Path("scratch").iterdir())
    with distributed.Client(address[0], set_as_default=False) as client:
        assert sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) > BLOCKS
    monkeypatch.delenv(ADDRESS)
    alone = fit()
    np.testing.assert_array_equal(by_workers.loo_probs_, alone.loo_probs_)
    for a, b in zip(by_workers.gems_.dual_coef, alone.gems_.dual_coef, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_scheduler_that_goes_away_is_an_error_of_one_line(
    fit: Callable[[], KernelRidge], address: tuple[str, Any]
) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "3s"}), ThreadPoolExecutor() as pool:
        running = pool.submit(fit)
        with distributed.Client(address[0], set_as_default=False) as client:
            wait_for(lambda: any(client.processing().values()))
        os.kill(address[1].pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"the scheduler is gone; start it and its workers, then run again$"):
            running.result(DEADLINE)
    assert not list(Path("scratch").iterdir())


def test_workers_write_the_same_shards_even_if_one_is_killed(
    folder: Path, settings: Callable[..., Params], draw: Any, address: tuple[str, Any]
) -> None:
    from gemmodel.embed import dask_shards, embedding, extractor

    params = settings({"embed.views": ["photo"], "base.image_size": 32})
    (folder / "photos" / "Ruby").mkdir(parents=True)
    for i in range(24):
        draw(i, size=(48, 48)).save(folder / "photos" / "Ruby" / f"{i:02}.png")
    model = extractor.extractor(params.embed, image_size=32)
    common: dict[str, Any] = {"classes": ["Ruby"], "shard_size": 4}
    embedding.embed({Path("photos"): Path("alone")}, model, **common)
    with dask_client() as client, ThreadPoolExecutor() as pool:
        on_workers = partial(dask_shards.embed_shards, client, params.base, params.embed)
        by_workers = {Path("photos"): Path("by_workers")}
        running = pool.submit(embedding.embed, by_workers, model, on_workers=on_workers, **common)
        kill_a_busy_worker(address[0])
        assert running.result(2 * DEADLINE) == [24]
    alone, other = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("alone", "by_workers"))
    assert len(alone) == 7 and alone == other
