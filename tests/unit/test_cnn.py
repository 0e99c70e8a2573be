"""The plain convolutional network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gemmodel.errors import ParameterError
from gemmodel.models.cnn import cnn
from gemmodel.params import Params

Settings = Callable[..., Params]


def test_the_default_is_the_public_network(settings: Settings) -> None:
    model = cnn(settings().model.cnn, image_size=220, classes=87)
    assert model.count_params() == 2_792_855
    assert (model.input_shape, model.output_shape) == ((None, 220, 220, 3), (None, 87))


@pytest.mark.parametrize(("padding", "classes"), [("same", 2), ("valid", 5)])
def test_it_gives_probabilities_of_any_number_of_classes(settings: Settings, padding: str, classes: int) -> None:
    blocks = {"model.cnn.filters": [4, 8], "model.cnn.pooling": ["max", "average"], "model.cnn.padding": padding}
    model = cnn(settings(blocks).model.cnn, image_size=32, classes=classes)
    told = model.predict(np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)), verbose=0)
    assert told.shape == (3, classes)
    assert told.min() >= 0
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "size", "told"),
    [
        ({"model.cnn.filters": [8] * 6, "model.cnn.pooling": ["max"] * 6}, 32, "32 pixels is too small"),
        ({"model.cnn.padding": "valid"}, 64, "base.image_size of 64 pixels is too small for 5 blocks"),
        ({"model.cnn.filters": [8, 8]}, 64, "model.cnn.pooling has 5 entries and model.cnn.filters has 2"),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused(settings: Settings, changes: dict[str, Any], size: int, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        cnn(settings(changes).model.cnn, image_size=size, classes=3)


@pytest.mark.parametrize("size", [46, 94])
def test_each_block_of_the_smallest_image_has_a_pixel_left(settings: Settings, size: int) -> None:
    """With valid padding n blocks need 3 * 2 ** n - 2 pixels, which leaves 2 before the last pooling."""
    blocks = {46: 4, 94: 5}[size]
    changes = {"filters": [4] * blocks, "pooling": ["max"] * blocks, "padding": "valid"}
    params = settings({f"model.cnn.{key}": value for key, value in changes.items()}).model.cnn
    assert cnn(params, image_size=size, classes=2).output_shape == (None, 2)
    with pytest.raises(ParameterError, match="too small"):
        cnn(params, image_size=size - 1, classes=2)
