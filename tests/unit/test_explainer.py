"""Attribution maps, computed by hand where possible, feature maps and the ablation of cues."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from gemmodel.core.params import Params
from gemmodel.embed import extractor as extractors
from gemmodel.explain import ablation, attribution, feature_maps
from gemmodel.explain.explainer import Explainer
from gemmodel.explain.report import ExplainedPhoto, choose
from gemmodel.figures import overlays
from gemmodel.models import fusion
from gemmodel.train.cnn import cnn
from gemmodel.train.fusion_head import to_keras
from gemmodel.train.residual import residual
from gemmodel.train.ridge.kernel_ridge import KernelRidge
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
    return with_identity_convolution(model), (weights[:, 1] - weights[:, 0]).reshape(SIDE, SIDE, 3)


def with_identity_convolution(model: keras.Model) -> keras.Model:
    """Put a convolution that changes nothing in front, since every real model has one."""
    convolution = layers.Conv2D(3, 1, use_bias=False)
    pixels = keras.Input(model.input_shape[1:])
    combined = keras.Model(pixels, model(convolution(pixels)))
    convolution.set_weights([np.eye(3)[None, None]])
    return combined


def small_cnn(settings: Settings, **changes: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    shape = {"filters": [4, 6], "pooling": ["max", "average"], "dense": 8} | changes
    params = settings({f"model.cnn.{name}": value for name, value in shape.items()}).model.cnn
    return cnn(params, image_size=32, classes=2)


@pytest.mark.parametrize("baseline", ["black", "noise"])
def test_integrated_gradients_of_a_linear_model(linear: Any, photo: np.ndarray, baseline: attribution.Baseline) -> None:
    model, weights = linear
    explainer = Explainer(model)
    gradients = attribution.integrated_gradients(explainer, photo, 1, steps=3, baseline=baseline, seed=5)
    start = 0 if baseline == "black" else np.random.default_rng(5).uniform(0, 255, photo.shape)
    # In float32: values are some 0.3, so 1e-5 is a hundred roundings; the sum of 192 of them has some more.
    np.testing.assert_allclose(gradients, weights * (photo - start), atol=1e-5)
    assert attribution.completeness_error(explainer, photo, 1, gradients, baseline=baseline, seed=5) < 1e-4


def test_vargrad_and_smoothgrad_of_a_linear_model(linear: Any, photo: np.ndarray) -> None:
    model, weights = linear
    noise = np.random.default_rng(5).normal(0, 20, (6, SIDE, SIDE, 3))
    explainer = Explainer(model)
    vargrad = attribution.vargrad(explainer, photo, 1, copies=6, steps=4, std=20, baseline="black", seed=5)
    # In float32: a std of differences of values up to 0.3 loses two of seven digits.
    np.testing.assert_allclose(vargrad, (np.abs(weights) * noise.std(axis=0)).sum(axis=-1), rtol=1e-3)
    smoothgrad = attribution.smoothgrad(explainer, photo, 0, copies=3, std=20, seed=5)
    np.testing.assert_allclose(smoothgrad, np.abs(weights).sum(axis=-1), rtol=1e-3)


def test_the_completeness_error_falls_with_the_number_of_steps(settings: Settings) -> None:
    explainer = Explainer(small_cnn(settings))
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    errors = []
    for steps in (1, 100):
        gradients = attribution.integrated_gradients(explainer, photo, 0, steps=steps, baseline="noise", seed=0)
        errors.append(attribution.completeness_error(explainer, photo, 0, gradients, baseline="noise", seed=0))
    assert errors[1] < 0.05  # a trapezoidal rule of 100 steps; with one step it is several times as much
    assert errors[1] < errors[0]


def test_grad_cam_by_hand(photo: np.ndarray) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="map")(pixels)
    model = keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    kernel = np.array([[1.0, -1.0], [0.0, 0.01], [0.0, 0.0]])[None, None]
    model.get_layer("map").set_weights([kernel])
    model.layers[-1].set_weights([np.array([[0.0, 0.01], [0.0, -0.02]]), np.zeros(2)])
    values = photo @ kernel[0, 0]
    expected = np.maximum(values @ [0.01, -0.02] / SIDE**2, 0)
    # In float32: differences of products up to 255 lose three of seven digits.
    np.testing.assert_allclose(attribution.grad_cam(Explainer(model), photo, 1), expected, rtol=1e-4)


def test_occlusion_finds_the_only_cell_that_matters(settings: Settings, photo: np.ndarray) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    model = with_identity_convolution(
        keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.Flatten()(pixels)))
    )
    weights = np.zeros((SIDE, SIDE, 3, 2))
    weights[4:6, 2:4, :, 1] = 0.001
    model.layers[-1].set_weights([weights.reshape(-1, 2), np.zeros(2)])
    spot = np.zeros_like(photo)
    spot[4:6, 2:4] = 255
    method = attribution.methods(settings({"explain.occlusion": 4}).explain, seed=0)["occlusion"]
    values = method(Explainer(model), spot, 1)
    assert values.argmax() == 2 * 4 + 1
    assert values.min() == 0  # what does not matter is not shown


@pytest.mark.parametrize(("target", "sign"), [(0, -1), (1, 1)])
def test_the_log_odds_of_both_classes_of_a_sigmoid_unit(settings: Settings, target: int, sign: int) -> None:
    model = small_cnn(settings, output="sigmoid")
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    second = model.predict(pixels, verbose=0)[:, 1].astype(np.float64)
    scores = Explainer(model).score(pixels, target)
    np.testing.assert_allclose(scores, sign * np.log(second / (1 - second)), atol=1e-4)  # float32


def model_of(name: str, settings: Settings) -> keras.Model:
    params = settings({"embed.weights": "none", "model.transfer.weights": "none", "embed.histogram_bins": 4,
                       "embed.views": ["photo", "mirror"][: 2 if name == "kernel" else 1]})  # fmt: skip
    if name == "kernel":
        extractor = extractors.extractor(params.embed, image_size=32)
        labels = np.arange(12) % 3
        tints = (0.2 + 0.8 * np.eye(3))[labels, None, None]  # one colour per class
        pixels = (tints * np.random.default_rng(0).uniform(0, 255, (12, 32, 32, 3))).astype(np.float32)
        features = extractor.predict(pixels, verbose=0)
        blocks = list(extractors.blocks(extractor).values())
        ridge = KernelRidge(params.model.fusion, classes=3, blocks=blocks, penalty=0.1)
        return fusion.attach(extractor, to_keras(ridge.fit(features, labels)))
    if name == "residual":
        return residual(params.model.residual, image_size=32, classes=3)
    return transfer(params.model.transfer, image_size=32, classes=3)


@pytest.mark.parametrize("name", ["kernel", "residual", "transfer"])
def test_every_architecture_can_be_explained(settings: Settings, name: str) -> None:
    trained = model_of(name, settings)
    model = keras.Model(trained.inputs[0], trained.outputs[0])  # without the embedding
    explainer = Explainer(model)
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    reddish = photo * np.array([1, 0.2, 0.2], np.float32)
    expected = model.predict(photo[None], verbose=0)
    np.testing.assert_allclose(explainer.probabilities(photo[None]), expected, atol=1e-5)  # float32, in another graph
    assert np.abs(explainer.gradients(photo[None], 1, histogram_photo=photo)).max() > 0
    values, gradients = explainer.last_conv_map(photo, 1)
    assert values.shape == gradients.shape == explainer.maps[-1].tensor.shape[1:]
    recoloured = explainer.probabilities(photo[None], histogram_photo=reddish)
    assert bool(explainer.histograms) is (name == "kernel")
    assert bool(np.abs(recoloured - expected).max() > 1e-4) is bool(explainer.histograms)
    sides = [explainer.maps[indices[0]].tensor.shape[1] for indices in feature_maps.groups(explainer.maps)]
    assert sides == sorted(set(sides), reverse=True)
    assert len(sides) >= 3


def test_shuffled_weights_give_other_maps_and_are_restored(settings: Settings) -> None:
    explainer = Explainer(small_cnn(settings, dense=[]))
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    before = explainer.probabilities(photo[None])
    for name, method in attribution.methods(settings().explain, seed=0).items():
        trained = method(explainer, photo, 0)
        with explainer.randomised(3):
            shuffled = method(explainer, photo, 0)
        # The maps of an unrelated model correlate by chance only: 1,024 pixels, or 25 cells, are far below 0.6.
        assert abs(attribution.rank_correlation(trained, shuffled)) < 0.6, name
        np.testing.assert_array_equal(method(explainer, photo, 0), trained)
    np.testing.assert_array_equal(explainer.probabilities(photo[None]), before)


def test_feature_maps_before_and_after_the_activation(settings: Settings) -> None:
    model = small_cnn(settings)
    explainer = Explainer(model)
    photo = np.random.default_rng(1).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    values = explainer.feature_maps(photo)
    groups = feature_maps.groups(explainer.maps)
    assert len(groups) == 2
    for before, after, pooled in groups:
        assert values[before].min() < 0
        np.testing.assert_array_equal(values[after], np.maximum(values[before], 0))
        assert values[pooled].shape[0] == values[after].shape[0] // 2
    expected = model.predict(photo[None], verbose=0)
    np.testing.assert_allclose(explainer.probabilities(photo[None]), expected, atol=1e-5)  # float32, in another graph
    figure = feature_maps.plot(explainer, photo)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[::4] == ["the photo at 32 x 32 pixels", "the photo at 16 x 16 pixels"]  # one row per convolution
    for row, (before, _, pooled) in enumerate(groups):
        for column, index in ((1, before), (3, pooled)):
            shape = values[index].shape
            axes = figure.axes[4 * row + column]
            assert f"{shape[0]} x {shape[1]}" in axes.get_title() and f"of {shape[2]} channels" in axes.get_xlabel()


def test_an_overlay_is_red_where_a_part_supports_and_blue_where_it_opposes() -> None:
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
def test_half_of_the_chosen_photos_are_wrong_if_there_are_enough(
    right: int, wrong: int, expected: tuple[int, int]
) -> None:
    photos = [ExplainedPhoto(Path("x"), actual, np.array([0.9, 0.1]), 32) for actual in [0] * right + [1] * wrong]
    chosen = choose(photos, 4)
    assert (sum(photo.right for photo in chosen), sum(not photo.right for photo in chosen)) == expected


def test_each_perturbation_removes_its_cue(draw: Callable[..., Image.Image]) -> None:
    photo = np.asarray(draw(3, size=(48, 48), tint=(1, 0.5, 0.2)))
    assert np.ptp(ablation.grey(photo), axis=-1).max() == 0
    np.testing.assert_allclose(ablation.shift_hue(photo, 360), photo, atol=1)  # grey levels are rounded
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    assert ablation.shift_hue(red, 120)[0, 0].tolist() == [0, 200, 0]
    for grid in (4, 5):
        shuffled = ablation.shuffle_patches(photo, grid, 0)
        assert (shuffled != photo).any()
        assert sorted(map(tuple, shuffled.reshape(-1, 3))) == sorted(map(tuple, photo.reshape(-1, 3)))
    assert ablation.blur(photo, 5).std() < photo.std()
    stone = np.full((64, 64, 3), 255, np.uint8)
    stone[16:48, 16:48] = (200, 20, 20)
    outline = ablation.silhouette(stone)
    assert (outline[32, 32].tolist(), outline[2, 2].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert ablation.silhouette(np.full((64, 64, 3), 255, np.uint8)).max() == 0


def test_ablation_exposes_a_model_that_uses_colour_only(settings: Settings) -> None:
    photos = np.full((6, 16, 16, 3), 30, np.uint8)
    actual = np.array([0, 0, 0, 1, 1, 1])
    photos[actual == 0, ..., 0] = 200
    photos[actual == 1, ..., 1] = 200

    def by_colour(perturbed: Iterable[np.ndarray]) -> np.ndarray:
        pixels = np.stack(list(perturbed))
        green = (pixels[..., 1] > pixels[..., 0]).mean(axis=(1, 2))
        return np.stack([1 - green, green], axis=-1)

    params = settings({"explain.hue_shifts": [120], "explain.patches": [2]}).explain
    table = ablation.measure(by_colour, photos, by_colour(photos), actual, ablation.perturbations(params, seed=0))
    rows = table.set_index("perturbation")
    accuracy = rows["accuracy"].to_dict()
    assert accuracy["unchanged"] == accuracy["2 x 2 patches shuffled"] == 1
    assert accuracy["grey"] == 0.5
    assert accuracy["hue + 120 degrees"] == 0  # red becomes green, and green blue
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    assert rows.loc["unchanged", "agreement"] == rows.loc["unchanged", "probability"] == 1
    assert rows.loc["grey", ["removed_cue", "photos", "agreement"]].tolist() == ["colour", 6, 0.5]
    (axes,) = ablation.plot(table, classes=2).axes
    assert sorted(bar.get_width() for bar in axes.patches) == sorted(table["accuracy"])
