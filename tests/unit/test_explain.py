"""Maps of which parts of a photo an answer rests on, worked out by hand where that can be done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from gemmodel.core.params import Params
from gemmodel.embed import extractor
from gemmodel.explain import ablation, attribution, feature_maps
from gemmodel.explain.explainer import Explainer
from gemmodel.explain.report import ExplainedPhoto, choose
from gemmodel.figures import overlays
from gemmodel.models import fusion
from gemmodel.train import kernel_ridge
from gemmodel.train.cnn import cnn
from gemmodel.train.residual import residual
from gemmodel.train.transfer import transfer

Settings = Callable[..., Params]
SIDE = 8


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture
def linear() -> tuple[keras.Model, np.ndarray]:
    """A model whose log odds of class 1 are linear in the pixels, and its weights."""
    pixels = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.Flatten()(pixels)))
    weights = np.random.default_rng(0).normal(0, 1e-3, (SIDE * SIDE * 3, 2)).astype(np.float32)
    model.layers[-1].set_weights([weights, np.zeros(2)])
    return with_a_map(model), (weights[:, 1] - weights[:, 0]).reshape(SIDE, SIDE, 3)


def with_a_map(model: keras.Model) -> keras.Model:
    """Put a convolution that changes nothing in front, for every real model has one."""
    convolution = layers.Conv2D(3, 1, use_bias=False)
    pixels = keras.Input(model.input_shape[1:])
    joined = keras.Model(pixels, model(convolution(pixels)))
    convolution.set_weights([np.eye(3)[None, None]])
    return joined


def small_cnn(settings: Settings, **changes: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    shape = {"filters": [4, 6], "pooling": ["max", "average"], "dense": 8} | changes
    params = settings({f"model.cnn.{name}": value for name, value in shape.items()}).model.cnn
    return cnn(params, image_size=32, classes=2)


@pytest.mark.parametrize("baseline", ["black", "noise"])
def test_integrated_gradients_of_a_linear_model(linear: Any, photo: np.ndarray, baseline: attribution.Baseline) -> None:
    model, weights = linear
    opened = Explainer(model)
    found = attribution.integrated_gradients(opened, photo, 1, steps=3, baseline=baseline, seed=5)
    start = 0 if baseline == "black" else np.random.default_rng(5).uniform(0, 255, photo.shape)
    np.testing.assert_allclose(found, weights * (photo - start), atol=1e-5)
    assert attribution.completeness_error(opened, photo, 1, found, baseline=baseline, seed=5) < 1e-4


def test_vargrad_and_smoothgrad_of_a_linear_model(linear: Any, photo: np.ndarray) -> None:
    model, weights = linear
    noise = np.random.default_rng(5).normal(0, 20, (6, SIDE, SIDE, 3))
    found = attribution.vargrad(
        Explainer(model), photo, 1, copies=6, steps=4, deviation=20, baseline="black", seed=5
    )  # fmt: skip
    np.testing.assert_allclose(found, (np.abs(weights) * noise.std(axis=0)).sum(axis=-1), rtol=1e-3)
    found = attribution.smoothgrad(Explainer(model), photo, 0, copies=3, deviation=20, seed=5)
    np.testing.assert_allclose(found, np.abs(weights).sum(axis=-1), rtol=1e-3)


def test_integrated_gradients_add_up_the_closer_the_more_steps(settings: Settings) -> None:
    opened = Explainer(small_cnn(settings))
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    missed = []
    for steps in (1, 100):
        found = attribution.integrated_gradients(opened, photo, 0, steps=steps, baseline="noise", seed=0)
        missed.append(attribution.completeness_error(opened, photo, 0, found, baseline="noise", seed=0))
    assert missed[1] < 0.05
    assert missed[1] < missed[0]


def test_grad_cam_by_hand(photo: np.ndarray) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="map")(pixels)
    model = keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    kernel = np.array([[1.0, -1.0], [0.0, 0.01], [0.0, 0.0]])[None, None]
    model.get_layer("map").set_weights([kernel])
    model.layers[-1].set_weights([np.array([[0.0, 0.01], [0.0, -0.02]]), np.zeros(2)])
    values = photo @ kernel[0, 0]
    expected = np.maximum(values @ [0.01, -0.02] / SIDE**2, 0)
    np.testing.assert_allclose(attribution.grad_cam(Explainer(model), photo, 1), expected, rtol=1e-4)


def test_occlusion_finds_the_only_place_that_matters(settings: Settings, photo: np.ndarray) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    model = with_a_map(keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.Flatten()(pixels))))
    weights = np.zeros((SIDE, SIDE, 3, 2))
    weights[4:6, 2:4, :, 1] = 0.01
    model.layers[-1].set_weights([weights.reshape(-1, 2), np.zeros(2)])
    spot = np.zeros_like(photo)
    spot[4:6, 2:4] = 255
    method = attribution.methods(settings({"explain.occlusion": 4}).explain, seed=0)["occlusion"]
    found = method(Explainer(model), spot, 1)
    assert found[2, 1] > 1
    found[2, 1] = 0
    np.testing.assert_allclose(found, 0, atol=1e-4)


@pytest.mark.parametrize(("target", "sign"), [(0, -1), (1, 1)])
def test_a_sigmoid_unit_answers_for_both_classes(settings: Settings, target: int, sign: int) -> None:
    model = small_cnn(settings, output="sigmoid")
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    second = model.predict(pixels, verbose=0)[:, 1].astype(np.float64)
    scores = Explainer(model).score(pixels, target)
    np.testing.assert_allclose(scores, sign * np.log(second / (1 - second)), atol=1e-4)


def model_of(name: str, settings: Settings) -> keras.Model:
    params = settings({"embed.weights": "none", "model.transfer.weights": "none", "embed.histogram_bins": 4,
                       "embed.views": ["photo", "mirror"][: 2 if name == "kernel" else 1]})  # fmt: skip
    if name in ("kernel", "softmax"):
        extractor = extractor.extractor(params.embed, image_size=32)
        labels = np.arange(12) % 3
        tints = (0.2 + 0.8 * np.eye(3))[labels, None, None]  # a colour a class
        pixels = (tints * np.random.default_rng(0).uniform(0, 255, (12, 32, 32, 3))).astype(np.float32)
        known = extractor.predict(pixels, verbose=0)
        if name == "softmax":
            return fusion.attach(extractor, fusion.softmax_head(params.model.fusion, known, classes=3))
        blocks = extractor.blocks(extractor)
        head, *_ = kernel_ridge.kernel_head(params.model.fusion, known, labels, classes=3, blocks=blocks, penalty=0.1)
        return fusion.attach(extractor, head)
    if name == "residual":
        return residual(params.model.residual, image_size=32, classes=3)
    return transfer(params.model.transfer, image_size=32, classes=3)


@pytest.mark.parametrize("name", ["kernel", "softmax", "residual", "transfer"])
def test_every_architecture_can_be_opened(settings: Settings, name: str) -> None:
    model = model_of(name, settings)
    opened = Explainer(model)
    one = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    other = one * np.array([1, 0.2, 0.2], np.float32)
    expected = model.predict(one[None], verbose=0)
    np.testing.assert_allclose(opened.probabilities(one[None]), expected, atol=1e-5)
    assert np.abs(opened.gradients(one[None], 1, held=one)).max() > 0
    values, gradients = opened.last_map(one, 1)
    assert values.shape == gradients.shape == opened.maps[-1].tensor.shape[1:]
    recoloured = opened.probabilities(one[None], held=other)
    assert bool(opened.colours) is (name in ("kernel", "softmax"))
    assert bool(np.abs(recoloured - expected).max() > 1e-4) is bool(opened.colours)
    shown = feature_maps.groups(opened.maps)
    sides = [opened.maps[places[0]].tensor.shape[1] for places in shown]
    assert sides == sorted(set(sides), reverse=True)
    assert len(sides) >= 3


def test_shuffled_weights_give_other_maps_and_are_put_back(settings: Settings) -> None:
    opened = Explainer(small_cnn(settings, dense=[]))
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    before = opened.probabilities(photo[None])
    for name, method in attribution.methods(settings().explain, seed=0).items():
        known = method(opened, photo, 0)
        with opened.randomised(3):
            other = method(opened, photo, 0)
        assert abs(attribution.rank_correlation(known, other)) < 0.6, name
        np.testing.assert_array_equal(method(opened, photo, 0), known)
    np.testing.assert_array_equal(opened.probabilities(photo[None]), before)


def test_feature_maps_before_and_after_the_activation(settings: Settings) -> None:
    model = small_cnn(settings)
    opened = Explainer(model)
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    values = opened.feature_maps(photo)
    groups = feature_maps.groups(opened.maps)
    assert len(groups) == 2
    for before, after, pooled in groups:
        assert values[before].min() < 0
        np.testing.assert_array_equal(values[after], np.maximum(values[before], 0))
        assert values[pooled].shape[0] == values[after].shape[0] // 2
    np.testing.assert_allclose(model.predict(photo[None], verbose=0), opened.probabilities(photo[None]), atol=1e-6)
    assert len(feature_maps.plot(opened, photo).axes) == 2 * 4


def test_an_overlay_is_red_for_and_blue_against() -> None:
    photo = np.full((32, 32, 3), 128, np.uint8)
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3] = 1, -1
    picture = np.asarray(overlays.overlay(photo, values)).astype(int)
    assert picture[2, 2, 0] - picture[2, 2, 2] > 60
    assert picture[29, 29, 2] - picture[29, 29, 0] > 60
    assert np.ptp(picture[2, 29]) < 10
    np.testing.assert_array_equal(overlays.overlay(photo, np.zeros((32, 32))), photo)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"), [(9, 9, (2, 2)), (9, 1, (3, 1)), (0, 9, (0, 4)), (1, 1, (1, 1))]
)
def test_half_of_the_photos_are_wrong_where_there_are_so_many(
    right: int, wrong: int, expected: tuple[int, int]
) -> None:
    told = [ExplainedPhoto(Path("x"), actual, np.array([0.9, 0.1]), 32) for actual in [0] * right + [1] * wrong]
    chosen = choose(told, 4)
    assert (sum(a.right for a in chosen), sum(not a.right for a in chosen)) == expected


def test_what_each_change_takes_away(draw: Callable[..., Image.Image]) -> None:
    photo = np.asarray(draw(3, size=(48, 48), tint=(1, 0.5, 0.2)))
    assert np.ptp(ablation.grey(photo), axis=-1).max() == 0
    np.testing.assert_allclose(ablation.hue_shifted(photo, 360), photo, atol=1)
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    assert ablation.hue_shifted(red, 120)[0, 0].tolist() == [0, 200, 0]
    for grid in (4, 5):
        moved = ablation.shuffled(photo, grid, 0)
        assert (moved != photo).any()
        np.testing.assert_array_equal(np.sort(moved.reshape(-1, 3), axis=0), np.sort(photo.reshape(-1, 3), axis=0))
    assert ablation.blurred(photo, 5).std() < photo.std()
    stone = np.full((64, 64, 3), 255, np.uint8)
    stone[16:48, 16:48] = (200, 20, 20)
    outline = ablation.silhouette(stone)
    assert (outline[32, 32].tolist(), outline[2, 2].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert ablation.silhouette(np.full((64, 64, 3), 255, np.uint8)).max() == 0


def test_a_model_that_goes_by_colour_alone_is_found_out(settings: Settings) -> None:
    photos = np.full((6, 16, 16, 3), 30, np.uint8)
    actual = np.array([0, 0, 0, 1, 1, 1])
    photos[actual == 0, ..., 0] = 200
    photos[actual == 1, ..., 1] = 200

    def by_colour(pixels: np.ndarray) -> np.ndarray:
        green = (pixels[..., 1] > pixels[..., 0]).mean(axis=(1, 2))
        return np.stack([1 - green, green], axis=-1)

    params = settings({"explain.hue_shifts": [120], "explain.patches": [2]}).explain
    table = ablation.measure(by_colour, photos, actual, ablation.perturbations(params, seed=0))
    told = table.set_index("change")["accuracy"].to_dict()
    assert told["unchanged"] == told["2 x 2 patches shuffled"] == 1
    assert told["grey"] == 0.5
    assert told["hue + 120 degrees"] == 0  # red turns green, and green blue
    assert (table["low"] <= table["accuracy"]).all()
    assert len(ablation.plot(table, classes=2).axes) == 1
