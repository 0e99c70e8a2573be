"""Backbones of every kind, small and with random weights: features, saving, export and explanation."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from gemmodel import devices
from gemmodel.core.errors import GemmodelError, ModelError, suppress_stderr
from gemmodel.core.params import BACKBONE_FILES, Params
from gemmodel.embed import extractor, feature_set, litert
from gemmodel.embed.backbones.backbone import Downscale, backbone, parse
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.explain import feature_maps
from gemmodel.explain.explainer import Explainer
from gemmodel.models import fusion, metadata, saving
from gemmodel.register import registration
from gemmodel.train.fusion_head import to_keras
from gemmodel.train.ridge.kernel_ridge import KernelRidge
from stages import embed
from tests.conftest import LITERT_ATOL

Settings = Callable[..., Params]
SIDE = 48  # of the model's input; the backbones read 32 pixels
CLASSES = ["Agate", "Ruby", "Topaz"]
DESCRIPTION = {
    "image_size": "32", "channels": "last", "mean": "[120, 110, 100]", "std": "60.5", "maps": "[fine, coarse]",
    "tokens": "[]", "vectors": "[embedding]", "licence": "Apache-2.0",
}  # fmt: skip
SCALE = (np.array([120, 110, 100], np.float32), np.float32(60.5))


def require_onnx() -> None:
    """Skip a test that writes ONNX, where the packages for it are not installed. Keras alone can import tf2onnx."""
    if not all(find_spec(package) for package in ("onnxruntime", "tf2onnx")):
        pytest.skip("pip install -e '.[onnx]'")


def export_onnx(model: keras.Model, path: Path) -> None:
    model(np.zeros(model.inputs[0].shape, np.float32))  # Keras exports only a model that was called
    model.export(path, format="onnx", verbose=False)


def network(batch: int | None = None, *, side: int = 32) -> keras.Model:
    """Two feature maps, tokens of a 4 x 4 grid after a class token and two registers, and a vector."""
    keras.utils.set_random_seed(3)
    image = keras.Input(batch_shape=(batch, side, side, 3), name="image")
    fine = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="fine")(image)
    coarse = layers.Conv2D(12, 3, 4, padding="same", activation="relu", name="coarse")(fine)
    embedding = layers.GlobalAveragePooling2D(name="embedding")(coarse)
    patches = layers.Reshape((side * side // 64, 12))(coarse)
    tokens = layers.Concatenate(axis=1, name="tokens")([layers.RepeatVector(3)(embedding), patches])
    outputs = {"fine": fine, "coarse": coarse, "embedding": embedding, "tokens": tokens}
    return keras.Model(image, outputs if batch else list(outputs.values()), name="net")


def describe(path: Path, **changes: str) -> Path:
    text = "".join(f"{name}: {value}\n" for name, value in (DESCRIPTION | changes).items())
    path.with_suffix(".yaml").write_text(text)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Make a backbone of a kind, once; return its name for `embed.backbone`."""
    folder = tmp_path_factory.mktemp("backbones")

    def make(kind: str) -> str:
        if kind == "keras":
            path = describe(folder / "net.keras")
            network().save(path)
        elif kind == "large":
            path = describe(folder / "large.keras", image_size="40", vectors="[]")
            network(side=40).save(path)
        elif kind == "tflite":
            path = describe(folder / "my lite.tflite")
            small = network(1)
            litert.export(dict(zip(small.output_names, small.outputs, strict=True)), small.inputs[0], path)
        elif kind == "tokens":
            path = describe(folder / "transformer.keras", maps="[]", tokens="[tokens]", vectors="[]")
            network().save(path)
        elif kind == "onnx":
            require_onnx()
            path = describe(folder / "open.onnx")
            export_onnx(network(1), path)
        else:
            path = hub_preset(folder / kind, kind)
        return str(path)

    names: dict[str, str] = {}
    return lambda kind: names.get(kind) or names.setdefault(kind, make(kind))


def hub_preset(folder: Path, kind: str) -> Path:
    """Write a small preset of keras-hub to a folder, as its users do."""
    hub = pytest.importorskip("keras_hub")
    sizes = {"num_layers": 4, "hidden_dim": 16, "num_heads": 2, "image_shape": (32, 32, 3)}
    keras.utils.set_random_seed(4)
    if kind == "dinov2":
        model = hub.models.DINOV2Backbone(
            patch_size=8, intermediate_dim=32, num_register_tokens=2, position_embedding_shape=(32, 32), **sizes
        )
    elif kind == "siglip":
        images = hub.models.SigLIPVisionEncoder(patch_size=8, intermediate_dim=32, **sizes)
        text = hub.models.SigLIPTextEncoder(
            vocabulary_size=8, embedding_dim=16, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=8
        )
        model = hub.models.SigLIPBackbone(images, text)
    else:
        model = hub.models.ViTBackbone(patch_size=8, mlp_dim=32, **sizes)
    model.save_to_preset(folder)
    converters = {"dinov2": hub.layers.DINOV2ImageConverter, "vit": hub.layers.ViTImageConverter}
    converter = converters.get(kind, hub.layers.SigLIPImageConverter)
    converter(image_size=(32, 32), scale=1 / 127.5, offset=-1).save_to_preset(folder)
    return folder


def photos(count: int = 3, side: int = SIDE) -> np.ndarray:
    """Noise in which one channel is brighter: that of the photo's class, the index modulo 3."""
    noise = np.random.default_rng(1).integers(0, 180, (count, 6, 6, 3))
    noise[np.arange(count), :, :, np.arange(count) % 3] += 60
    return np.stack([np.asarray(Image.fromarray(x).resize((side, side)), np.float32) for x in noise.astype(np.uint8)])


def whole_model(settings: Settings, names: Any, image_size: int = SIDE) -> tuple[keras.Model, dict[str, int]]:
    """A fusion model on backbones, and its blocks."""
    params = settings({"embed.backbone": names, "embed.weights": "none", "embed.histogram_bins": 2})
    features = extractor.extractor(params.embed, image_size=image_size)
    sizes = extractor.blocks(features)
    ridge = KernelRidge(params.model.fusion, classes=3, blocks=list(sizes.values()), penalty=0.1)
    ridge.fit(np.asarray(features(photos(12, image_size))), np.arange(12) % 3)
    return fusion.attach(features, to_keras(ridge)), sizes


CNN = {"maps": 2 * (8 + 12), "covariances": 12 * 13 // 2, "vectors": 12, "colours": 24}
PATCHES = {"maps": 2 * 4 * 16, "covariances": 16 * 17 // 2, "vectors": 4 * 16, "colours": 24}
KINDS = {"tflite": CNN, "onnx": CNN, "tokens": CNN | {"maps": 2 * 12}, "dinov2": PATCHES}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_any_backbone_is_saved_exported_and_explained(
    tmp_path: Path, settings: Settings, made: Callable[[str], str], kind: str
) -> None:
    name = made(kind)
    model, sizes = whole_model(settings, name)
    assert sizes == KINDS[kind]
    expected = np.asarray(model.predict(photos(), verbose=0)[0])
    assert np.abs(expected - expected.mean(axis=0)).max() > 1e-3  # it tells the photos apart
    saving.save(model, CLASSES, tmp_path / "models")
    loaded, _ = saving.load(tmp_path / "models")
    np.testing.assert_allclose(np.asarray(loaded(photos())), expected, atol=1e-6)
    assert extractor.blocks(keras.Model(loaded.inputs[0], loaded.get_layer("blocks").output)) == sizes

    exports: list[list[Path]] = [[]]
    if kind in ("tflite", "onnx"):  # test_saving.py has the others
        file = tmp_path / "extractor.tflite"
        litert.export_model(keras.Model(model.inputs[0], model.get_layer("blocks").output), file)
        exports.append([file])
    for extractors in exports:
        saving.export(model, tmp_path / metadata.EXPORT, extractors=extractors)
        assert ("onnxruntime" in registration.packages(tmp_path)) == (kind == "onnx")
        graph = litert.Graph(tmp_path / metadata.EXPORT)
        assert graph.size == SIDE
        np.testing.assert_allclose(graph.probabilities(photos()), expected, atol=LITERT_ATOL)
    again = litert.Graph(tmp_path / "none", content=(tmp_path / metadata.EXPORT).read_bytes()).with_threads(2)
    np.testing.assert_allclose(again.probabilities(photos()), expected, atol=LITERT_ATOL)

    # A photo between two classes, of which no score is saturated: Grad-CAM works on maps of patches and of a file.
    explainer, photo = Explainer(loaded), photos()[:2].mean(axis=0)
    values, gradients = explainer.last_conv_map(photo, 0)
    assert values.ndim == 3
    assert np.abs(gradients).max() > 0
    pixel_gradients = explainer.gradients(photo[None], 0, histogram_photo=photo)
    assert pixel_gradients.any() == (kind in ("tokens", "dinov2"))  # none passes through a file
    assert feature_maps.plot(explainer, photo).axes


@pytest.mark.parametrize(("kind", "vectors"), [("vit", 4 * 16), ("siglip", 16)])
def test_transformers_of_keras_hub_give_maps_and_class_tokens(
    settings: Settings, made: Callable[[str], str], kind: str, vectors: int
) -> None:
    changes = {"embed.backbone": made(kind), "embed.weights": "none", "embed.histogram_bins": 2}
    features = extractor.extractor(settings(changes).embed, image_size=SIDE)
    assert extractor.blocks(features) == PATCHES | {"vectors": vectors}
    first, second, _ = np.asarray(features(photos()))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 1e-3


def test_an_operation_that_litert_lacks_is_an_error_of_one_line(tmp_path: Path, settings: Settings) -> None:
    path = describe(tmp_path / "fft.keras", maps="[]", vectors="[embedding]")
    image = keras.Input((32, 32, 3), name="image")
    waves = keras.ops.erfinv(keras.ops.tanh(image))
    keras.Model(image, layers.GlobalAveragePooling2D(name="embedding")(waves)).save(path)
    model, _ = whole_model(settings, str(path))
    with pytest.raises(ModelError, match=r"cannot be exported for LiteRT: .*; choose another backbone") as caught:
        saving.export(model, tmp_path / metadata.EXPORT)
    assert "\n" not in str(caught.value)


def test_a_damaged_chain_is_an_error(tmp_path: Path, made: Callable[[str], str]) -> None:
    pixels = keras.Input(batch_shape=(1, 32, 32, 3), name="pixels")
    features = backbone(made("tflite"), weights="none", image_size=32)(pixels)
    litert.export({"features": features[-1]}, pixels, path := tmp_path / metadata.EXPORT)
    content = bytearray(path.read_bytes())
    content[content.rindex(litert.CALLS.encode(), 0, content.rindex(litert.CALLS.encode())) + 30] ^= 1
    with pytest.raises(ModelError, match=r"model\.tflite: damaged"):
        litert.Graph(path, content=bytes(content))


@pytest.mark.parametrize("kind", ["keras", "tflite", "onnx"])
def test_a_file_gives_the_outputs_that_its_description_names_for_scaled_pixels(
    made: Callable[[str], str], kind: str
) -> None:
    pixels = photos(2, 32)
    fine, coarse, embedding, _ = network()((pixels - SCALE[0]) / SCALE[1])
    actual = backbone(made(kind), weights="imagenet", image_size=32)(pixels)
    for x, expected in zip(actual, (fine, coarse, embedding), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(expected), atol=1e-5)


def test_tokens_are_a_class_token_and_a_map_of_patches(made: Callable[[str], str]) -> None:
    pixels = photos(2, 32)
    _, coarse, embedding, _ = network()((pixels - SCALE[0]) / SCALE[1])
    patches, class_token = backbone(made("tokens"), weights="imagenet", image_size=32)(pixels)
    np.testing.assert_allclose(np.asarray(patches), np.asarray(coarse), atol=1e-5)
    np.testing.assert_allclose(np.asarray(class_token), np.asarray(embedding), atol=1e-5)


def test_a_tflite_file_may_have_no_signature(tmp_path: Path) -> None:
    path = describe(tmp_path / "net.tflite", maps="[]", vectors="[Identity]")
    image = tf.TensorSpec((1, 32, 32, 3), name="image")
    mean = tf.function(lambda image: tf.reduce_mean(image, axis=(1, 2)), input_signature=[image])
    with suppress_stderr():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([mean.get_concrete_function()])
        path.write_bytes(converter.convert())
    pixels = photos(2, 32)
    (actual,) = keras.tree.flatten(backbone(str(path), weights="imagenet", image_size=32)(pixels))
    expected = ((pixels - SCALE[0]) / SCALE[1]).mean(axis=(1, 2))
    np.testing.assert_allclose(np.asarray(actual), expected, atol=1e-5)


def test_channels_may_come_first(tmp_path: Path) -> None:
    require_onnx()
    inner = network()
    image = keras.Input(batch_shape=(1, 3, 32, 32), name="image")
    fine, coarse, embedding, _ = inner(layers.Permute((2, 3, 1))(image))
    first = {
        "fine": layers.Permute((3, 1, 2))(fine),
        "coarse": layers.Permute((3, 1, 2))(coarse),
        "embedding": embedding,
    }
    path = describe(tmp_path / "first.onnx", channels="first")
    export_onnx(keras.Model(image, first), path)
    pixels = photos(2, 32)
    expected = inner((pixels - SCALE[0]) / SCALE[1])
    for x, y in zip(backbone(str(path), weights="none", image_size=32)(pixels), expected, strict=False):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=1e-5)


def test_several_backbones_are_blocks_of_one_graph_each_at_its_own_size(
    settings: Settings, made: Callable[[str], str], tmp_path: Path
) -> None:
    names = [made("tokens"), made("tflite"), made("large")]
    model, sizes = whole_model(settings, names)
    kinds = ["maps", "covariances", "vectors"]
    first, second = ([f"{name}.{kind}" for kind in kinds] for name in ("transformer", "my_lite"))
    assert list(sizes) == [*first, "colours", *second, *(f"large.{kind}" for kind in kinds[:2])]
    together = keras.Model(model.inputs[0], model.get_layer("blocks").output)(photos())
    params = settings({"embed.backbone": names, "embed.weights": "none", "embed.histogram_bins": 2}).embed
    alone = [extractor.extractor(one, image_size=SIDE)(photos()) for one in extractor.apart(params).values()]
    np.testing.assert_allclose(np.asarray(together), np.hstack(alone), atol=1e-4)
    saving.export(model, tmp_path / metadata.EXPORT)
    graph = litert.Graph(tmp_path / metadata.EXPORT)
    np.testing.assert_allclose(graph.probabilities(photos()), model.predict(photos(), verbose=0)[0], atol=LITERT_ATOL)


@pytest.mark.parametrize(("size", "side"), [(48, 32), (97, 32), (64, 64)])
def test_photos_are_scaled_down_as_pillow_does(size: int, side: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR), np.float32)
    actual = np.asarray(Downscale(side=side)(photo[None].astype(np.float32)))[0]
    np.testing.assert_allclose(actual, expected, atol=1.01)  # Pillow rounds twice to whole grey levels


@pytest.mark.parametrize(
    ("text", "name", "side", "label"),
    [
        ("efficientnet_lite2", "efficientnet_lite2", None, "efficientnet_lite2"),
        ("MobileNetV3Small@96", "mobilenet_v3_small", 96, "mobilenet_v3_small_96"),
        ("backbones/dino.v2.onnx", "backbones/dino.v2.onnx", None, "dino.v2"),
        ("my net@", "my net@", None, "my_net_"),
    ],
)
def test_an_entry_names_a_backbone_and_its_side(text: str, name: str, side: int | None, label: str) -> None:
    assert (parse(text), parse(text).label) == ((name, side), label)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"maps": "[fine, middle]"}, r"no layer 'middle'; its last ones are .*coarse"),
        ({"maps": "[embedding]", "vectors": "[]"}, r"output embedding has the shape .*maps have 4 axes"),
        ({"maps": "[]", "vectors": "[]"}, r"net\.yaml: name at least one output"),
        ({"channels": "middle"}, r"net\.yaml: channels is 'middle'; it must be one of last, first"),
        ({"std": "0"}, r"net\.yaml: std\[?0?\]? ?is 0.0; it must be at least"),
        ({"mean": "[1, 2]"}, r"net\.yaml: mean and std are one number or three"),
        ({"image_size": "33"}, r"net\.keras: not for 33 pixels"),
        ({"colour": "red"}, r"net\.yaml: colour is not a known key"),
    ],
)
def test_a_wrong_description_is_an_error_of_one_line(tmp_path: Path, changes: dict[str, str], named: str) -> None:
    path = describe(tmp_path / "net.keras", **changes)
    network().save(path)
    with pytest.raises(GemmodelError, match=named) as caught:
        backbone(str(path), weights="imagenet", image_size=64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", BACKBONE_FILES)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    path = describe(tmp_path / f"net{suffix}")
    with pytest.raises(GemmodelError, match=rf"backbone .*net\{suffix}: no such file"):
        backbone(str(path), weights="imagenet", image_size=32)
    path.write_bytes(b"no network")
    with pytest.raises(GemmodelError, match=rf"net\{suffix}: ") as caught:
        backbone(str(path), weights="imagenet", image_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["efficientnet_lite0", "efficientnet_lite0"], r"embed\.backbone: efficientnet_lite0 is there twice"),
        (["efficientnet_lite0@260"], r"efficientnet_lite0 reads photos of 260 pixels, base.*lite0@64$"),
        (["efficientnet_lite3"], r"no backbone 'efficientnet_lite3'.*did you mean efficientnet_lite"),
    ],
)
def test_wrong_backbones_are_errors(settings: Settings, names: list[str], message: str) -> None:
    params = settings({"embed.backbone": names, "embed.weights": "none"}).embed
    with pytest.raises(GemmodelError, match=message):
        extractor.extractor(params, image_size=64)


def test_one_more_backbone_recomputes_none_of_the_others(
    tmp_path: Path,
    write_params: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "prepare", lambda base: "CPU")  # a process is prepared once, before its first tensor
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["train/Ruby/1.png", "train/Topaz/2.png", "val/Ruby/3.png"]):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos(i + 1)[i].astype(np.uint8)).save(name)
    Path("backbones").mkdir()
    one, two = (describe(Path(f"backbones/{name}.keras"), maps="[fine]") for name in ("one", "two"))
    for path in (one, two):
        network().save(path)

    def run(*paths: Path) -> FeatureSet:
        changes = {"embed.backbone": [str(path) for path in paths], "embed.views": ["photo"], "embed.histogram_bins": 2}
        file = write_params(tmp_path, changes | {"base.image_size": SIDE, "base.deterministic": False})
        shutil.rmtree("out", ignore_errors=True)  # as DVC does
        embed.main(Path("train"), Path("val"), Path("out"), Path("backup"), file)
        features = feature_set.read(Path("out/train"))
        return features._replace(features=features.features[:])  # the next run replaces the files

    first = run(one)
    assert list(first.blocks) == ["maps", "covariances", "vectors", "colours"]
    assert first.settings["embed.backbone"] == "backbones/one.keras"
    kept = {path: path.stat().st_mtime_ns for path in Path("backup").rglob("*.npy")}
    capsys.readouterr()

    both = run(one, two)
    assert "features of one are those of an earlier run" in capsys.readouterr().out
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in Path("backup").rglob("*.npy")}.items()
    names = [f"one.{kind}" for kind in ("maps", "covariances", "vectors")]
    assert list(both.blocks) == [*names, "colours", *(name.replace("one", "two") for name in names)]
    columns = first.features.shape[1]
    np.testing.assert_array_equal(both.features[:, :columns], first.features)
    assert both.files.tolist() == first.files.tolist() == ["Ruby/1.png", "Topaz/2.png"]

    exported = [path.read_bytes() for path in feature_set.extractors(Path("out"), 2)]
    shutil.rmtree("backup")
    run(one, two)
    assert [path.read_bytes() for path in feature_set.extractors(Path("out"), 2)] == exported

    for path in kept:
        path.write_bytes(b"no array")  # a damaged shard is computed again
    describe(two, maps="[fine]", std="30")  # so is a backbone whose description changed
    again = run(one, two)
    assert "computed again" in capsys.readouterr().out
    np.testing.assert_array_equal(again.features[:, :columns], first.features)
    assert np.abs(again.features[:, columns:] - both.features[:, columns:]).max() > 1e-2


def test_a_backbone_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    path = describe(tmp_path / "net.keras", maps="[]")
    image = keras.Input((32, 32, 3))
    scaled = layers.Lambda(lambda x: x / 255)(image)
    keras.Model(image, layers.GlobalAveragePooling2D(name="embedding")(scaled)).save(path)
    with pytest.raises(ModelError, match=r"net\.keras: Keras cannot read it"):
        backbone(str(path), weights="imagenet", image_size=32)


def write_onnx(path: Path, *, operator: str = "Add", domain: str = "", location: Path | None = None) -> None:
    """Write a network of one operator and one weight, which may be in another file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    weight = make.make_tensor("weight", onnx.TensorProto.FLOAT, [1], [1.0])
    if location:
        weight.ClearField("float_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=str(location))
    image, sum_ = (
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 32, 3]) for name in ("image", "sum")
    )
    node = make.make_node(operator, ["image", "weight"], ["sum"], domain=domain)
    graph = make.make_graph([node], "net", [image], [sum_], [weight])
    operators = [make.make_opsetid("", 13), make.make_opsetid("other", 1)]
    path.write_bytes(make.make_model(graph, opset_imports=operators, ir_version=8).SerializeToString())


def test_an_onnx_file_reads_no_file_outside_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(1, np.float32).tobytes())
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    path = describe(Path("net.onnx"), maps="[sum]", vectors="[]")
    write_onnx(path)
    pixels = photos(1, 32)
    (actual,) = keras.tree.flatten(backbone(str(path), weights="imagenet", image_size=32)(pixels))
    np.testing.assert_allclose(np.asarray(actual), (pixels - SCALE[0]) / SCALE[1] + 1, atol=1e-5)
    for location in (secret, Path("..", secret.name)):
        write_onnx(path, location=location)
        with pytest.raises(ModelError, match=r"backbone net\.onnx: damaged"):
            backbone(str(path), weights="imagenet", image_size=32)


def test_an_onnx_file_has_no_operator_but_those_of_onnx(tmp_path: Path) -> None:
    path = describe(tmp_path / "net.onnx", maps="[sum]", vectors="[]")
    write_onnx(path, operator="Run", domain="other")
    with pytest.raises(ModelError, match=r"other:Run.* is not a registered function/op"):
        backbone(str(path), weights="imagenet", image_size=32)
