"""Models on disk: the same bytes, the same probabilities, errors that name the folder, and the embedding."""

import json
import platform
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from gemmodel.core import hashing
from gemmodel.core.errors import DataError, ModelError
from gemmodel.core.params import Params
from gemmodel.embed import extractor, litert
from gemmodel.models import fusion, saving
from gemmodel.models.joint_probability import JointProbability
from gemmodel.train.fusion_head import to_keras
from gemmodel.train.ridge.kernel_ridge import KernelRidge

Settings = Callable[..., Params]
CLASSES = ["Agate", "Ruby", "Rubín"]
PARENTS = [0, 1, 0]


def photos(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 255, (count, side, side, 3)).astype(np.float32)


def probabilities(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    outputs = model(inputs, training=False)
    return np.asarray(outputs[0] if len(model.outputs) > 1 else outputs)


def make_head(kind: str, settings: Settings, features: np.ndarray, sizes: list[int], **changes: Any) -> keras.Model:
    """Returns a head for three classes: a fitted `kernel`, or `softmax`, as version 0.1 had it in registered models."""
    params = settings({f"model.fusion.{key}": value for key, value in changes.items()}).model.fusion
    if kind == "softmax":
        inputs, x = fusion.standardise(features.mean(axis=0), features.var(axis=0), clip=params.clip)
        x = layers.Dropout(0.8)(x)
        if params.labels == "all":
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="gem")(x), name="head")
        mineral_class, gem = layers.Dense(2, activation="softmax", name="mineral_class")(x), layers.Dense(3)(x)
        joint = JointProbability(parents=PARENTS, name="joint")([mineral_class, gem])
        return keras.Model(inputs, joint, name="head")
    ridge = KernelRidge(params, classes=3, blocks=sizes, penalty=0.1, parents=PARENTS)
    return to_keras(ridge.fit(features, np.arange(len(features)) % 3))


@pytest.mark.parametrize(("kind", "backbone"), [("softmax", "tiny.keras"), ("kernel", "efficientnet_lite0")])
def test_a_fusion_model_is_saved_as_the_same_bytes_and_loaded_with_the_same_probabilities(
    tmp_path: Path, settings: Settings, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, kind: str, backbone: str
) -> None:
    monkeypatch.chdir(tiny_backbone)
    params = settings({"embed.views": ["photo"], "embed.backbone": backbone, "embed.weights": "none"}).embed
    pixels_to_features = extractor.extractor(params, image_size=64)
    sizes = list(extractor.blocks(pixels_to_features).values())
    model = fusion.attach(
        pixels_to_features, make_head(kind, settings, probabilities(pixels_to_features, photos(12, 64)), sizes)
    )
    for name in ("first", "second"):
        saving.save(model, CLASSES, tmp_path / name)
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "classes.json", "input.json", "model.keras", "sha256.json",
    ]  # fmt: skip
    for name in ("model.keras", "classes.json", "input.json", "sha256.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    loaded, classes = saving.load(tmp_path / "first")
    assert classes == CLASSES
    np.testing.assert_array_equal(probabilities(loaded, photos(3, 64)), probabilities(model, photos(3, 64)))


@pytest.mark.parametrize("kind", ["softmax", "kernel"])
def test_a_head_of_separate_labels_is_loaded_with_the_same_probabilities(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    features = np.random.default_rng(4).normal(size=(48, 5)).astype(np.float32)
    head = make_head(kind, settings, features, [5], labels="separate")
    saving.save(head, CLASSES, tmp_path)
    probs = probabilities(saving.load(tmp_path)[0], features)
    np.testing.assert_array_equal(probs, probabilities(head, features))
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)  # float32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model of three classes without a backbone."""
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, activation="softmax")])
    saving.save(network, CLASSES, tmp_path / "models")
    return tmp_path / "models"


def test_other_weights_give_other_bytes(tmp_path: Path, folder: Path) -> None:
    model, classes = saving.load(folder)
    model.layers[-1].set_weights([weights + 1 for weights in model.layers[-1].get_weights()])
    saving.save(model, classes, tmp_path / "other")
    assert hashing.sha256(folder / "model.keras") != hashing.sha256(tmp_path / "other" / "model.keras")


def damage_config(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in content.items():
            archive.writestr(name, b"{" if name == "config.json" else body)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "model.keras").unlink(), DataError),
        (lambda folder: (folder / "classes.json").unlink(), DataError),
        (lambda folder: (folder / "classes.json").write_text(json.dumps(CLASSES[:2])), ModelError),
        (lambda folder: (folder / "classes.json").write_text("["), ModelError),
        (lambda folder: (folder / "model.keras").write_bytes(b"no archive"), ModelError),
        (lambda folder: (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:500]), ModelError),
        (lambda folder: damage_config(folder / "model.keras"), ModelError),
    ],
    ids=["no model", "no classes", "a class short", "classes cut", "no archive", "archive cut", "config cut"],
)
def test_a_missing_or_damaged_model_is_an_error_that_names_the_folder(
    folder: Path, damage: Callable[[Path], Any], error: type[Exception]
) -> None:
    assert saving.load(folder)[1] == CLASSES
    damage(folder)
    with pytest.raises(error, match=r"models"):
        saving.load(folder)


def small_model(kind: str, settings: Settings, **changes: Any) -> keras.Model:
    """Returns a small model from pixels, with features of 5 channels in its layer `blocks`."""
    pixels = keras.Input((4, 4, 3), name="pixels")
    x = layers.Rescaling(1 / 255)(layers.Flatten()(pixels))
    features = layers.Dense(5, name="blocks")(x)
    if kind == "network":
        return keras.Model(pixels, layers.Dense(3, activation="softmax", name="gem")(features))
    train = np.random.default_rng(5).normal(size=(48, 5)).astype(np.float32)
    head = make_head(kind.split()[0], settings, train, [5], components=3, **changes)
    model = fusion.attach(keras.Model(pixels, features), head)
    if not kind.endswith("ensemble"):
        return model
    other = small_model("network", settings)
    network = keras.Model(other.inputs[0], other.outputs[0], name=saving.NETWORK)
    return fusion.ensemble(model, network, weights=(0.7, 0.5))


@pytest.mark.parametrize(("kind", "size"), [("network", 5), ("softmax", 5), ("kernel", 3), ("kernel ensemble", 3)])
def test_a_loaded_model_and_its_export_give_the_embedding(
    settings: Settings, tmp_path: Path, kind: str, size: int
) -> None:
    model = small_model(kind, settings)
    saving.save(model, CLASSES, tmp_path / "models")
    probs, embedding = saving.load(tmp_path / "models", embedding=True)[0].predict(photos(3, 4), verbose=0)
    # float32: of a compiled graph and an eager one, whose sums may have another order
    np.testing.assert_allclose(probs, probabilities(model, photos(3, 4)), atol=1e-6)
    assert embedding.shape == (3, size)
    features = keras.Model(model.inputs[0], model.get_layer("blocks").output).predict(photos(3, 4), verbose=0)
    expected = features
    if kind != "network":
        head = model.get_layer("head")
        tensor = head.get_layer("gem").input if kind == "softmax" else head.get_layer("embedding").output
        expected = keras.Model(head.inputs[0], tensor).predict(features, verbose=0)
    if size == 5:  # not of the kernel head, whose embedding is shorter the less its components describe a photo
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-6)
    assert (np.linalg.norm(embedding, axis=1) < 1 + 1e-5).all()

    saving.export(model, tmp_path / "model.tflite")
    outputs = litert.Graph(tmp_path / "model.tflite")(photos(3, 4)[0])
    assert set(outputs) == {"probabilities", "embedding"}
    # LiteRT sums in another order than TensorFlow, and powers and logarithms are other approximations.
    np.testing.assert_allclose(outputs["probabilities"][0], probs[0], atol=1e-4)
    np.testing.assert_allclose(outputs["embedding"][0], embedding[0], atol=1e-5)


@pytest.mark.parametrize("labels", ["all", "separate"])
@pytest.mark.parametrize("kind", ["softmax", "kernel", "kernel ensemble"])
def test_an_export_takes_an_exported_extractor_and_gives_several_photos_the_bits_of_each(
    settings: Settings, tmp_path: Path, kind: str, labels: str
) -> None:
    model, file = small_model(kind, settings, labels=labels), tmp_path / "extractor.tflite"
    litert.export_model(keras.Model(model.inputs[0], model.get_layer("blocks").output), file)
    saving.export(model, tmp_path / "model.tflite", extractors=[file])
    graph, many = litert.Graph(tmp_path / "model.tflite"), photos(3, 4)
    assert graph.size == 4
    expected = model.predict(many, verbose=0)
    together = graph.finish([graph.start(photo) for photo in many])
    for name, values in zip(("probabilities", "embedding"), expected, strict=True):
        np.testing.assert_allclose(together[name], values, atol=1e-4)
        alone = np.concatenate([graph(photo)[name] for photo in many])
        x86 = platform.machine() in ("x86_64", "AMD64")  # elsewhere one row may have another kernel than several
        np.testing.assert_allclose(together[name], alone, rtol=0, atol=0 if x86 else 1e-6)
    np.testing.assert_array_equal(graph.probabilities(many), together["probabilities"])
