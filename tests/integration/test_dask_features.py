"""Embed's shards and fusion's sums on the workers of a real Dask scheduler: the same bytes, even if a worker dies."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemmodel.core.dask_client import ADDRESS, dask_client, ordered_map
from gemmodel.core.errors import DeviceError
from gemmodel.core.params import Params
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.train.ridge import nystroem
from gemmodel.train.ridge.kernel_ridge import KernelRidge
from tests.integration import dask_cluster
from tests.tiny_backbone import NAME as TINY_BACKBONE

distributed = pytest.importorskip("distributed")

PHOTOS, WIDTH, BLOCKS = 2_000, 100, 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Any]]:
    """The folder, the address and the process of a scheduler, which the last test stops, with three workers.

    Two tests kill one each, and no nanny starts another, which would import TensorFlow for the shards that remain.
    """
    folder = tmp_path_factory.mktemp("cluster")
    with dask_cluster.cluster(folder, "--no-nanny", workers=3) as (address, process):
        yield folder, address, process


@pytest.fixture
def address(cluster: tuple[Path, str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the scheduler, which this process uses."""
    folder, address, _ = cluster
    monkeypatch.chdir(folder)
    monkeypatch.setenv(ADDRESS, address)
    return address


def kill_after_the_first(results: Iterator[Any], kill: Callable[[], None]) -> Iterator[Any]:
    yield next(results)
    kill()
    yield from results


def kill_a_worker(address: str) -> None:
    with distributed.Client(address, set_as_default=False) as client:
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


@pytest.fixture
def fit(address: str, settings: Callable[..., Params], monkeypatch: pytest.MonkeyPatch) -> Callable[[], KernelRidge]:
    """Fit a head to more photos than it has landmarks, in many blocks."""
    monkeypatch.setattr(nystroem, "BLOCK", PHOTOS // BLOCKS)
    labels = np.sort(np.arange(PHOTOS) % 5).astype(np.int32)
    features = np.random.default_rng(1).normal(np.eye(5, WIDTH)[labels] * 3).astype(np.float32)
    names = np.arange(PHOTOS).astype(str)
    photos = FeatureSet(features, labels, names, list("abcde"), {"maps": WIDTH})
    feature_set.write(Path("features"), photos, shard_size=700)
    params = replace(settings().model.fusion, landmarks=300)

    def call() -> KernelRidge:
        photos = feature_set.read(Path("features"))
        with dask_client() as client:
            ridge = KernelRidge(params, classes=5, blocks=[WIDTH], penalty=0.1, client=client, scratch=Path("scratch"))
            return ridge.fit(photos.features, photos.labels)

    return call


def test_workers_give_the_same_bits_to_fusion_even_if_one_is_killed(
    fit: Callable[[], KernelRidge], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills: list[str] = []

    def kill() -> None:
        kills.append(address)
        kill_a_worker(address)

    def killing(*arguments: Any) -> Iterator[Any]:
        results = ordered_map(*arguments)
        return results if kills else kill_after_the_first(results, kill)

    with monkeypatch.context() as patch:
        patch.setattr(nystroem, "ordered_map", killing)
        by_workers = fit()
    assert kills and not list(Path("scratch").iterdir())
    with distributed.Client(address, set_as_default=False) as client:
        assert sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) > BLOCKS
    monkeypatch.delenv(ADDRESS)
    alone = fit()
    np.testing.assert_array_equal(by_workers.loo_probs_, alone.loo_probs_)
    for a, b in zip(by_workers.gems_.dual_coef, alone.gems_.dual_coef, strict=True):
        np.testing.assert_array_equal(a, b)


def test_workers_write_the_same_shards_even_if_one_is_killed(
    settings: Callable[..., Params], draw: Any, address: str, tiny_backbone: Path
) -> None:
    from gemmodel.embed import dask_shards, embedding, extractor, litert

    shutil.copytree(tiny_backbone, "backbones")
    params = settings({"embed.backbone": TINY_BACKBONE, "embed.views": ["photo"], "base.image_size": 64})
    Path("photos/Ruby").mkdir(parents=True)
    for i in range(24):
        draw(i, size=(48, 48)).save(f"photos/Ruby/{i:02}.png")
    model = extractor.extractor(params.embed, image_size=64)
    litert.export_model(model, exported := Path("extractor.tflite"))
    common: dict[str, Any] = {"classes": ["Ruby"], "shard_size": 4}
    embedding.embed({Path("photos"): Path("alone")}, model, exported=exported, **common)
    with dask_client() as client:

        def on_workers(shards: Any) -> Iterator[int]:
            counts = dask_shards.embed_shards(client, params.base, params.embed, exported, shards)
            return kill_after_the_first(counts, lambda: kill_a_worker(address))

        assert embedding.embed({Path("photos"): Path("by_workers")}, model, on_workers=on_workers, **common) == [24]
    alone, other = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("alone", "by_workers"))
    assert len(alone) == 7 and alone == other


def test_a_scheduler_that_goes_away_is_an_error_of_one_line(
    fit: Callable[[], KernelRidge], cluster: tuple[Path, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    def killing(*arguments: Any) -> Iterator[Any]:
        return kill_after_the_first(ordered_map(*arguments), lambda: os.kill(cluster[2].pid, signal.SIGKILL))

    monkeypatch.setattr(nystroem, "ordered_map", killing)
    message = r"the scheduler is gone; start it and its workers, then run again$"
    with dask.config.set({"distributed.comm.timeouts.connect": "3s"}), pytest.raises(DeviceError, match=message):
        fit()
    assert not list(Path("scratch").iterdir())
