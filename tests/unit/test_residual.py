"""The residual convolutional network."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import Params
from gemmodel.models import saving
from gemmodel.train.residual import residual

Settings = Callable[..., Params]
SMALL = {"model.residual.filters": [4, 8], "model.residual.dense": 6}


def test_the_default_is_the_published_network(settings: Settings) -> None:
    model = residual(settings().model.residual, image_size=256, classes=87)
    assert model.count_params() == 2_184_663
    assert (model.input_shape, model.output_shape) == ((None, 256, 256, 3), (None, 87))
    sums = [layer for layer in model.layers if isinstance(layer, layers.Add)]
    assert [layer.output.shape[1:] for layer in sums] == [
        (127, 127, 32), (63, 63, 64), (31, 31, 128), (15, 15, 256), (256,),
    ]  # fmt: skip


def test_a_block_adds_its_input(settings: Settings) -> None:
    """With the weights of its second convolution at zero, a block returns its input."""
    model = residual(settings(SMALL).model.residual, image_size=32, classes=3)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    first = next(layer for layer in model.layers if isinstance(layer, layers.Add))
    convolutions[2].set_weights([np.zeros_like(values) for values in convolutions[2].get_weights()])
    both = keras.Model(model.inputs[0], [convolutions[0].output, first.output])
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    before, after = both(pixels, training=False)
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_probabilities_are_float32_and_the_same_when_loaded(settings: Settings, tmp_path: Path, policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = residual(settings(SMALL).model.residual, image_size=32, classes=2)
    finally:
        keras.config.set_dtype_policy("float32")
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    probs = np.asarray(model(pixels, training=False))
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)  # float32
    saving.save(model, ["cat", "dog"], tmp_path / "models")
    loaded, _ = saving.load(tmp_path / "models")
    np.testing.assert_array_equal(np.asarray(loaded(pixels, training=False)), probs)


def test_an_image_too_small_for_the_blocks_is_refused(settings: Settings) -> None:
    params = settings({"model.residual.filters": [4] * 6}).model.residual
    with pytest.raises(ParameterError, match=r"base\.image_size of 32 pixels is too small for 5 blocks"):
        residual(params, image_size=32, classes=3)
