"""The registered model sees a photo as training did."""

import base64
import io
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from PIL import Image, ImageDraw

from gemmodel.data import cropping, images
from gemmodel.delivery.serving import Classifier
from gemmodel.models import archive
from gemmodel.models.confidence import Confidence, Reference
from gemmodel.models.knowledge import Knowledge


@pytest.mark.parametrize("crop", ["none", "canny", "otsu"])
def test_a_photo_is_cropped_as_in_training(tmp_path: Path, crop: cropping.Method) -> None:
    network = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), layers.Flatten()])
    network.add(layers.Dense(3, activation="softmax"))
    reference = Reference(np.eye(3, 3072, dtype=np.float32), np.arange(3, dtype=np.int32), np.array(list("xyz")))
    known = Knowledge(["a", "b", "c"], {"a": "d", "b": "d", "c": "c"}, Confidence(0.9, 0.3, 1, 2.0), reference)
    archive.save(network, known.classes, tmp_path, crop=crop, knowledge=known)
    picture = Image.new("RGB", (640, 400), "white")
    ImageDraw.Draw(picture).ellipse((60, 100, 260, 300), fill=(170, 20, 60))
    file = io.BytesIO()
    picture.save(file, **images.JPEG)
    answer = Classifier(tmp_path).predict(pd.DataFrame({"photo": [base64.b64encode(file.getvalue()).decode()]}))
    trained_on, box = cropping.crop(images.read(file), crop)
    assert (box is None) == (crop == "none")
    seen = images.pixels(trained_on, 32)[None].astype(np.float32)
    expected = np.asarray(network(seen))[0]
    told = dict(zip(answer["top"][0], answer["top_probabilities"][0], strict=True))
    np.testing.assert_allclose([told[name] for name in "abc"], expected, atol=1e-6)
    assert answer["mineral_class"][0] == known.hierarchy[answer["gem"][0]]
    assert set(answer["possible"][0]) == {name for name in told if told[name] >= 0.3} | {answer["gem"][0]}
    assert not answer["unknown"][0]
