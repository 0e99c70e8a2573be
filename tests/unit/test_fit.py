"""Fitting a classifier by epochs, on problems of a second, and its predictions for held-out photos."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from gemmodel.core.params import Params
from gemmodel.models import saving
from gemmodel.train import fit

Settings = Callable[..., Params]
Cloud = Callable[..., tuple[np.ndarray, np.ndarray]]
LABELS = np.arange(60) % 3  # of `cloud`


def dataset(features: np.ndarray, labels: np.ndarray, batch_size: int = 20) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((features, np.eye(3, dtype=np.float32)[labels])).batch(batch_size)


@pytest.fixture
def network() -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="softmax")])


@pytest.fixture
def parts(cloud: Cloud) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Batches for training and validation."""
    return dataset(*cloud(1)), dataset(*cloud(2, 30))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "plateau"])
def test_fit_learns_and_reports_each_epoch(
    settings: Settings, cloud: Cloud, network: keras.Model, parts: tuple[tf.data.Dataset, tf.data.Dataset],
    optimizer: str, schedule: str,
) -> None:  # fmt: skip
    params = settings(
        {"train.epochs": 12, "train.learning_rate": 0.05, "train.optimizer": optimizer, "train.schedule": schedule}
    ).train
    reported: list[tuple[int, dict[str, float]]] = []

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        reported.append((epoch, dict(metrics)))

    history = fit.fit(network, *parts, params, labels=LABELS, on_epoch=on_epoch)
    assert [epoch for epoch, _ in reported] == list(range(12))
    assert {name: [metrics[name] for _, metrics in reported] for name in history} == history
    rate = {"learning_rate"} if schedule == "plateau" else set()
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"} | rate
    features, labels = cloud(3)
    assert (network.predict(features, verbose=0).argmax(axis=1) == labels).mean() > 0.85


def test_the_plateau_schedule_halves_the_learning_rate(
    settings: Settings, network: keras.Model, parts: tuple[tf.data.Dataset, tf.data.Dataset]
) -> None:
    changes = {"train.epochs": 8, "train.learning_rate": 8, "train.schedule": "plateau", "train.optimizer": "adam"}
    params = settings(changes | {"train.patience": 6}).train
    history = fit.fit(network, *parts, params, labels=LABELS)
    expected, best, wait = 8.0, np.inf, 0
    for loss, rate in zip(history["val_loss"], history["learning_rate"], strict=True):
        assert rate == expected
        best, wait = (loss, 0) if loss < best - 1e-4 else (best, wait + 1)
        if wait == 2:  # a third of the patience
            expected, wait = expected / 2, 0
    assert min(history["learning_rate"]) < 8


def test_an_epoch_whose_loss_is_no_number_is_not_kept() -> None:
    losses = [2.0, 1.5, np.nan, np.nan]
    assert fit.summary({"loss": losses, "val_loss": losses})["best_epoch"] == 1


@pytest.mark.parametrize("patience", [2, 100])
def test_fit_restores_the_best_epoch(
    settings: Settings, network: keras.Model, parts: tuple[tf.data.Dataset, tf.data.Dataset], patience: int
) -> None:
    changes = {"train.epochs": 10, "train.learning_rate": 2, "train.schedule": "constant", "train.optimizer": "adam"}
    params = settings(changes | {"train.patience": patience}).train
    weights: list[list[np.ndarray]] = []
    history = fit.fit(network, *parts, params, labels=LABELS, on_epoch=lambda *_: weights.append(network.get_weights()))
    best = int(np.argmin(history["val_loss"]))
    assert best < len(weights) - 1, "the loss must rise at the end, or the test shows nothing"
    for restored, expected in zip(network.get_weights(), weights[best], strict=True):
        np.testing.assert_array_equal(restored, expected)
    assert len(weights) == (best + 1 + patience if patience == 2 else 10)
    summary = fit.summary(history)
    assert (summary["best_epoch"], summary["epochs"]) == (best, len(weights))
    assert summary["best_val_loss"] == pytest.approx(min(history["val_loss"]), abs=1e-6)  # rounded to six digits


@pytest.mark.parametrize(("class_weight", "weights"), [("none", [1, 1, 1]), ("balanced", [0.5, 1.25, 5])])
def test_class_weights_apply_to_the_training_loss_only(
    settings: Settings, network: keras.Model, class_weight: str, weights: list[float]
) -> None:
    labels = np.repeat([0, 1, 2], [20, 8, 2])
    features = np.random.default_rng(4).normal(size=(30, 5)).astype(np.float32)
    data = dataset(features, labels, batch_size=10)
    changes = {"train.epochs": 1, "train.learning_rate": 1e-9, "train.label_smoothing": 0}
    params = settings(changes | {"train.class_weight": class_weight}).train
    loss = -np.log(network.predict(features, verbose=0)[np.arange(30), labels])
    history = fit.fit(network, data, data, params, labels=labels)
    # float32 sums, and a learning rate that leaves the weights as they were in all but the last digits
    assert history["loss"][0] == pytest.approx((loss * np.take(weights, labels)).mean(), rel=1e-4)
    assert history["val_loss"][0] == pytest.approx(loss.mean(), rel=1e-4)


def test_the_reference_set_is_a_random_sample_of_many_training_photos(network: keras.Model) -> None:
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    labels, files = np.arange(40) % 3, np.arange(40).astype(str)
    for inputs in (features, tf.data.Dataset.from_tensor_slices(features).batch(16)):
        held_out = fit.held_out_predictions(
            network, train_inputs=inputs, train_labels=labels, train_files=files,
            val_inputs=features[:6], val_labels=labels[:6], max_reference=12,
        )  # fmt: skip
        indices = held_out.reference.files.astype(int)
        assert len(set(indices)) == 12
        assert held_out.reference.labels.tolist() == labels[indices].tolist()
        probs, embedding = saving.with_embedding(network).predict(features, verbose=0)
        # float32 matrix products of other batch sizes may differ in the last digits
        np.testing.assert_allclose(held_out.reference.embedding, embedding[indices], atol=1e-6)
        np.testing.assert_allclose(held_out.embedding, embedding[:6], atol=1e-6)
        np.testing.assert_allclose(held_out.probabilities, probs[:6], atol=1e-6)
        assert held_out.labels.tolist() == labels[:6].tolist()
