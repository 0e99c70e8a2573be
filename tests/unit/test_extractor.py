"""The features of the fusion model: colour histograms, pooled maps and covariances."""

import colorsys
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError, ModelError
from gemmodel.core.params import Params
from gemmodel.embed import embedding, extractor, feature_set
from gemmodel.embed.backbones.backbone import backbone
from gemmodel.embed.extractor import ColourHistogram
from gemmodel.images import decode

Draw = Callable[..., Image.Image]
Settings = Callable[..., Params]
MAPS = 2 * (16 + 24 + 40 + 112 + 320 + 1280)  # mean and standard deviation of each channel of each map
COVARIANCES = 112 * 113 // 2  # of the coarsest map with at most 128 channels


def histogram(pixels: np.ndarray, spaces: Sequence[str], bins: int) -> np.ndarray:
    layer = ColourHistogram(bins=bins, spaces=spaces)
    return np.asarray(layer(np.asarray(pixels, np.float32)))


def noise(seed: int, side: int = 16, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.float32)


def features(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(model(np.ascontiguousarray(pixels), training=False))


def signed_square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.square(x)


def assert_equal_features(model: keras.Model, actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare features within the rounding of float32.

    Engines and CPUs add the products of a convolution in different orders, which changes maps by up to some 1e-5 of
    their maximum. The signed root of covariances is undone, since it turns an error of 1e-6 near 0 into one of 1e-3.
    """
    assert actual.shape == expected.shape
    start = 0
    for name, size in extractor.blocks(model).items():
        a, b = actual[:, start : start + size], expected[:, start : start + size]
        if name == "covariances":
            a, b = signed_square(a), signed_square(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max(), err_msg=name)
        start += size


@pytest.mark.parametrize("bins", [2, 8, 16])
def test_rgb_is_numpys_joint_histogram(bins: int) -> None:
    pixels = noise(0)
    expected = [np.histogramdd(photo.reshape(-1, 3) / 255, bins, [(0, 1)] * 3)[0].ravel() / 256 for photo in pixels]
    np.testing.assert_allclose(histogram(pixels, ["rgb"], bins), np.sqrt(expected), atol=1e-6)  # float32


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 20), (90, 10, 160), (10, 120, 110), (77, 77, 77),
           (0, 0, 0), (255, 255, 255), (250, 20, 60), (20, 60, 250)]  # fmt: skip


@pytest.mark.parametrize("colour", COLOURS, ids=str)
@pytest.mark.parametrize("space", ["hsv", "ycbcr"])
def test_a_colour_falls_into_its_bin(space: str, colour: tuple[int, int, int]) -> None:
    bins = 8
    red, green, blue = np.array(colour) / 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    values = {
        "hsv": colorsys.rgb_to_hsv(red, green, blue),
        "ycbcr": (luma, 0.5 + (blue - luma) / 1.772, 0.5 + (red - luma) / 1.402),
    }
    index = np.clip(np.floor(np.array(values[space]) * bins + 1e-5), 0, bins - 1).astype(int)
    counted = histogram(np.full((1, 4, 4, 3), colour), [space], bins)[0]
    assert np.flatnonzero(counted).tolist() == [np.ravel_multi_index(index, (bins, bins, bins))]
    assert counted.max() == 1


@pytest.mark.parametrize("space", ["rgb", "ycbcr"])  # HSV turns a rounding error of grey into a hue
@pytest.mark.parametrize("bins", [2, 8])
def test_the_bin_of_grey_does_not_depend_on_rounding(space: str, bins: int) -> None:
    """White and grey backgrounds are common. Their bin must be the same on every device and in every export."""
    greys = np.broadcast_to(np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1), (1, 16, 16, 3))
    nudged = greys / 255 + np.random.default_rng(0).choice([-1e-6, 0, 1e-6], (1, 16, 16, 3))
    np.testing.assert_array_equal(
        histogram(np.clip(nudged * 255, 0.001, 254.999), [space], bins), histogram(greys, [space], bins)
    )


def test_each_histogram_has_norm_1_and_a_fixed_position() -> None:
    spaces, pixels = ["ycbcr", "rgb", "hsv"], noise(1)
    histograms = histogram(pixels, spaces, 8)
    assert histograms.shape == (3, 3 * 8**3)
    np.testing.assert_allclose(np.linalg.norm(histograms.reshape(3, 3, 512), axis=2), 1, atol=1e-5)  # float32
    for i, space in enumerate(spaces):
        np.testing.assert_array_equal(histograms[:, i * 512 : (i + 1) * 512], histogram(pixels, [space], 8))


def test_an_unknown_colour_space_is_an_error_with_its_name() -> None:
    with pytest.raises(ModelError, match=r"embed\.colour_spaces: cmyk is not one of rgb, hsv, ycbcr"):
        ColourHistogram(bins=8, spaces=["rgb", "cmyk"])


VIEWS = {
    "photo": lambda x: x,
    "mirror": lambda x: x[:, :, ::-1],
    "quarter_turn": lambda x: np.rot90(x, 1, (1, 2)),
    "half_turn": lambda x: x[:, ::-1, ::-1],
    "three_quarter_turn": lambda x: np.rot90(x, 3, (1, 2)),
}


@pytest.mark.parametrize("view", extractor.VIEWS)
def test_each_view_is_the_flipped_or_rotated_photo(view: str) -> None:
    pixels = noise(2)
    np.testing.assert_array_equal(np.asarray(extractor.VIEWS[view](pixels)), VIEWS[view](pixels))


@pytest.mark.parametrize("view", ["mirror", "half_turn"])
def test_features_are_invariant_to_a_flip_that_is_a_view(draw: Draw, settings: Settings, view: str) -> None:
    # This holds for views that are their own inverse: photo and view are swapped.
    params = settings({"embed.views": ["photo", view]}).embed
    model = extractor.extractor(params, image_size=64)
    pixels = np.stack([np.asarray(draw(seed, size=(64, 64), tint=(1, 0.6, 0.3)), np.float32) for seed in range(3)])
    original = features(model, pixels)
    assert original.shape == (3, MAPS + COVARIANCES + 3 * 8**3)
    assert extractor.blocks(model) == {"maps": MAPS, "covariances": COVARIANCES, "colours": 3 * 8**3}
    assert_equal_features(model, features(model, VIEWS[view](pixels)), original)
    other = "half_turn" if view == "mirror" else "mirror"
    assert np.abs(features(model, VIEWS[other](pixels)) - original)[:, :MAPS].max() > 1e-2


def test_features_are_the_mean_over_the_views(draw: Draw, settings: Settings) -> None:
    changes = {"embed.colour_spaces": [], "embed.covariance_channels": 0}
    pixels = np.asarray(draw(1, size=(64, 64)), np.float32)[np.newaxis]
    plain = extractor.extractor(settings(changes | {"embed.views": ["photo"]}).embed, image_size=64)
    both = extractor.extractor(settings(changes | {"embed.views": ["photo", "quarter_turn"]}).embed, image_size=64)
    assert both.output_shape == (None, MAPS)
    assert extractor.blocks(both) == {"maps": MAPS}
    single = [features(plain, np.asarray(extractor.VIEWS[view](pixels))) for view in ("photo", "quarter_turn")]
    assert_equal_features(both, features(both, pixels), np.mean(single, axis=0))


def test_covariances_are_those_of_numpy() -> None:
    maps = np.random.default_rng(4).normal(3, 2, (2, 5, 4, 6)).astype(np.float32)
    expected = [np.cov(one.reshape(20, 6), rowvar=False, bias=True)[np.triu_indices(6)] for one in maps]
    # float32: 20 products of up to 100, whose mean is about 4.
    np.testing.assert_allclose(np.asarray(extractor.Covariance()(maps)), expected, atol=1e-4)


def test_covariances_are_those_of_the_coarsest_map_that_is_narrow_enough(draw: Draw, settings: Settings) -> None:
    changes = {"embed.views": ["photo", "mirror"], "embed.colour_spaces": [], "embed.covariance_channels": 40}
    params = settings(changes).embed
    model = extractor.extractor(params, image_size=64)
    assert extractor.blocks(model) == {"maps": MAPS, "covariances": 40 * 41 // 2}
    pixels = np.asarray(draw(3, size=(64, 64)), np.float32)[np.newaxis]
    maps = backbone("efficientnet_lite0", weights="imagenet", image_size=64)
    views = [maps(np.ascontiguousarray(VIEWS[view](pixels)))[2] for view in params.views]
    mean = np.mean([np.asarray(extractor.Covariance()(view)) for view in views], axis=0)
    covariances = signed_square(features(model, pixels)[:, MAPS:])  # see assert_equal_features
    np.testing.assert_allclose(covariances, mean, rtol=0, atol=1e-4 * np.abs(mean).max())


@pytest.mark.parametrize("names", [["maps", "covariances"], ["lite0.maps", "colours", "lite2.maps"]])
def test_the_mean_of_the_last_map_is_that_of_the_first_backbone(names: list[str]) -> None:
    features = np.arange(2 * 6 * len(names), dtype=np.float32).reshape(2, -1)
    photos = feature_set.FeatureSet(
        features, np.zeros(2, np.int32), np.array(["a", "b"]), ["Ruby"], dict.fromkeys(names, 6)
    )
    np.testing.assert_array_equal(extractor.last_map_mean(photos, channels=2), features[:, 2:4])


@pytest.mark.parametrize("views", [["photo", "upside_down"], ["colour"]])
def test_an_unknown_view_is_an_error_with_its_name(settings: Settings, views: list[str]) -> None:
    with pytest.raises(ModelError, match=rf"embed\.views: {views[-1]} is not one of photo, mirror"):
        extractor.extractor(settings({"embed.views": views}).embed, image_size=64)


@pytest.fixture
def embed(tmp_path: Path, settings: Settings, tiny_backbone: Path) -> Callable[..., list[int]]:
    """Write the features of the photos in `photos` to a folder, by a small extractor."""
    backbone = str(tiny_backbone / "tiny.keras")
    params = settings({"embed.views": ["photo"], "embed.backbone": backbone, "base.image_size": 64})
    model = extractor.extractor(params.embed, image_size=64)
    of = extractor.settings(params.base, params.embed)

    def write(name: str = "out", **options: Any) -> list[int]:
        options = {"classes": ["Agate", "Ruby", "Topaz"]} | options
        return embedding.embed({tmp_path / "photos": tmp_path / name}, model, settings=of, **options)

    write.model = model  # type: ignore[attr-defined]
    write.settings = of  # type: ignore[attr-defined]
    return write


def test_a_folder_of_features_has_labels_files_classes_blocks_and_settings(
    tmp_path: Path, draw: Draw, embed: Any
) -> None:
    for seed, name in enumerate(["Agate/1.png", "Agate/2.png", "Topaz/3.png"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        draw(seed, size=(64, 64), tint=(1, 0.6, 0.3)).save(tmp_path / "photos" / name)
    assert embed(shard_size=2) == [3]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000.npy", "0001.npy", "photos.json"]
    photos = feature_set.read(tmp_path / "out")
    assert (photos.labels.tolist(), photos.classes) == ([0, 0, 2], ["Agate", "Ruby", "Topaz"])
    assert photos.files.tolist() == ["Agate/1.png", "Agate/2.png", "Topaz/3.png"]
    assert photos.blocks == extractor.blocks(embed.model)
    photos.check_settings(embed.settings, tmp_path)
    with pytest.raises(DataError, match=r"of another embed\.views; `dvc repro embed` computes it again"):
        photos.check_settings(embed.settings | {"embed.views": ["mirror"]}, tmp_path)
    pixels = decode.load(tmp_path / "photos" / "Topaz" / "3.png", 64)[np.newaxis].astype(np.float32)
    # float16 has 11 bits; the histograms' counts also differ by a pixel
    np.testing.assert_allclose(photos.features[2:], features(embed.model, pixels), rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match="Topaz is not a class"):
        embed(classes=["Agate", "Ruby"])


def test_an_extractor_is_exported_once_and_again_where_it_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = keras.Input((4, 4, 3), name="pixels")
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    file = tmp_path / "extractor_0.tflite"
    with pytest.raises(DataError, match=r"extractor_0\.tflite: not there; `dvc repro embed` makes it$"):
        feature_set.extractors(tmp_path, 1)
    embedding.export(model, file)
    written = file.stat().st_mtime_ns
    embedding.export(model, file)
    assert file.stat().st_mtime_ns == written
    assert feature_set.extractors(tmp_path, 1) == [file]
    with pytest.raises(DataError, match=r"extractor_1\.tflite: not there"):
        feature_set.extractors(tmp_path, 2)
    for damaged in (file, feature_set.digest_file(file)):
        damaged.write_bytes(b"\xff" + damaged.read_bytes()[1:])
        with pytest.raises(DataError, match=r"extractor_0\.tflite: damaged; `dvc repro embed` makes it again$"):
            feature_set.extractors(tmp_path, 1)
        embedding.export(model, file)
        assert feature_set.extractors(tmp_path, 1) == [file]
        assert "damaged; computed again" in capsys.readouterr().out


def test_whole_shards_of_an_interrupted_embed_are_not_computed_again(
    tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    width = embed.model.output_shape[1]
    (tmp_path / "photos" / "Agate").mkdir(parents=True)
    for i in range(2 * 8 + 1):
        (tmp_path / "photos" / "Agate" / f"{i:02}.png").touch()

    def by_name(paths: Sequence[Path]) -> Iterator[np.ndarray]:
        return (np.full(width, int(path.stem), np.float32) for path in paths)

    def write_shards(shards: Any) -> Iterator[int]:
        return chain.from_iterable(embedding.write_shard(shard, paths, by_name) for shard, paths in shards)

    embed("whole", shard_size=8, on_workers=write_shards)
    before = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}

    def interrupted(name: str, damage: Callable[[Path], Any]) -> dict[str, bytes]:
        """What a second call makes of the folder of a first one that was killed before its last step."""
        folder = tmp_path / name
        shutil.copytree(tmp_path / "whole", folder)
        for shard in folder.glob("*.npy"):
            shard.with_suffix(".sha256").write_text(hashing.sha256(shard))
        (folder / "photos.json").unlink()
        damage(folder)
        embed(name, shard_size=8, resume=True, on_workers=write_shards)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def mark(folder: Path) -> None:
        np.save(folder / "0001.npy", np.full((8, width), 99, np.float16))
        (folder / "0001.sha256").write_text(hashing.sha256(folder / "0001.npy"))
        (folder / "0002.npy").unlink()

    interrupted("marked", mark)
    resumed, whole = (feature_set.read(tmp_path / name).features for name in ("marked", "whole"))
    assert (resumed[8:16] == 99).all(), "read from the disk"
    np.testing.assert_array_equal(resumed[np.r_[:8, 16]], whole[np.r_[:8, 16]])
    assert capsys.readouterr().out == ""
    for name, damage in (
        ("cut", lambda folder: (folder / "0001.npy").write_bytes(before["0001.npy"][:-100])),
        ("unfinished", lambda folder: (folder / "0000.sha256").unlink()),
    ):
        assert interrupted(name, damage) == before
    assert capsys.readouterr().out == f"embed: {tmp_path / 'cut' / '0001.npy'}: damaged; computed again\n"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Features of 10 photos in shards of four."""
    features, labels = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10, dtype=np.int32) // 4
    photos = feature_set.FeatureSet(features, labels, labels.astype(str), ["Agate", "Ruby", "Topaz"], {"maps": 2})
    feature_set.write(tmp_path / "train", photos, shard_size=4)
    return tmp_path / "train"


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(3, 9), np.array([9, 0, 4, 4]), np.array([0, 4, 1]), np.array([], int), np.arange(10) % 2 == 0],
)
def test_rows_of_shards_are_those_of_one_array(stored: Path, rows: Any) -> None:
    whole, photos = np.arange(20, dtype=np.float32).reshape(10, 2), feature_set.read(stored)
    assert photos.features[rows].dtype == np.float32
    np.testing.assert_array_equal(photos.features[rows], whole[rows])
    both = photos.concat(photos)
    np.testing.assert_array_equal(both.features[8:12], np.tile(whole, (2, 1))[8:12])
    np.testing.assert_array_equal(both.block("maps"), np.tile(whole, (2, 1)))
    assert both.labels.tolist() == photos.labels.tolist() * 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "0001.npy").write_bytes(b"no array"), r"0001\.npy: damaged, or of other parameters"),
        (lambda folder: files.copy(folder / "0000.npy", folder / "0001.npy"), r"0001\.npy: damaged, or of other"),
        (lambda folder: (folder / "0002.npy").unlink(), r"0002\.npy: not there; `dvc repro embed` computes it again"),
        (lambda folder: (folder / "photos.json").unlink(), r"train: not there; `dvc repro embed`"),
        (lambda folder: (folder / "photos.json").write_text("{}"), r"photos\.json: .*`dvc repro embed`"),
        (lambda folder: (folder / "photos.json").write_text("{"), r"photos\.json: not JSON"),
        (lambda folder: folder.rename(folder.with_suffix(".npz")), r"train: not there"),
    ],
)
def test_missing_and_damaged_features_are_errors_that_name_the_file(
    stored: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(stored)
    with pytest.raises(DataError, match=message):
        feature_set.read(stored)


def test_features_of_a_former_version_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.npz").touch()
    with pytest.raises(DataError, match=r"train: of a former version; `dvc repro embed` computes it"):
        feature_set.read(tmp_path / "train")


def test_features_beyond_float16_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.npy: features beyond 65504; choose another embed\.backbone"):
        feature_set.write_shard(tmp_path / "0.npy", np.array([[1.0, 1e6]], np.float32))
    assert not list(tmp_path.iterdir())


def test_both_engines_compute_the_same_features_in_the_order_of_the_photos(
    tmp_path: Path, draw: Draw, settings: Settings
) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(5)]
    for seed, path in enumerate(paths):
        draw(seed, size=(64, 64), tint=(1, 0.6, 0.3)).save(path)
    model = extractor.extractor(settings({"embed.views": ["photo"]}).embed, image_size=64)
    with embedding.features_on_cpu(model) as cpu, embedding.features_on_gpu(model) as gpu:
        by_litert, by_keras = (np.stack(list(embed_fn(paths))) for embed_fn in (cpu, gpu))
        expected = features(model, np.stack([decode.load(path, 64) for path in paths]).astype(np.float32))
        (tmp_path / "3.png").write_bytes(b"not an image")
        with pytest.raises(DataError, match=r"3\.png"):
            list(cpu(paths))
    assert_equal_features(model, by_litert, expected)
    assert_equal_features(model, by_keras, expected)
