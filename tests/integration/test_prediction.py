"""Prediction without TensorFlow: what the export tells, and the command that asks it."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError, ModelError
from gemmodel.core.params import Params
from gemmodel.embed import extractor
from gemmodel.explain import occlusion
from gemmodel.figures import overlays
from gemmodel.images import crop, decode
from gemmodel.models import fusion, saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import EXPORT, ModelMetadata
from gemmodel.serve import predictions
from gemmodel.serve.predictor import Predictor
from gemmodel.train import kernel_ridge
from gemmodel.train.cnn import cnn
from gemmodel.train.residual import residual
from gemmodel.train.transfer import transfer

Run = Callable[..., subprocess.CompletedProcess[str]]
SIDE = 64
TINY = {"model.cnn.filters": [4, 8], "model.cnn.pooling": ["max", "average"], "model.cnn.dense": 16}
SIGMOID = TINY | {"model.cnn.output": "sigmoid"}
SEPARATE = {"model.fusion.labels": "separate"}


def network(name: str, settings: Params, photos: np.ndarray) -> keras.Model:
    """An untrained network, or a fusion of a head on these photos' features; of two or three classes."""
    if name != "fusion":
        classes = 2 if settings.model.cnn.output == "sigmoid" else 3
        build: dict[str, Callable[..., keras.Model]] = {"cnn": cnn, "residual": residual, "transfer": transfer}
        return build[name](getattr(settings.model, name), image_size=SIDE, classes=classes)
    extractor = extractor.extractor(settings.embed, image_size=SIDE)
    known = extractor.predict(photos, batch_size=8, verbose=0)
    params, labels, parents = settings.model.fusion, np.arange(len(photos)) % 3, [0, 0, 1]
    if params.head == "softmax":
        head = fusion.softmax_head(params, known, classes=3, parents=parents)
        # Of twenty photos some features hardly vary, and are magnified: random weights, unlike learnt ones, heed them.
        head.get_layer("gem").set_weights([0.1 * weights for weights in head.get_layer("gem").get_weights()])
        return fusion.attach(extractor, head)
    blocks = extractor.blocks(extractor)
    head, *_ = kernel_ridge.kernel_head(params, known, labels, classes=3, blocks=blocks, penalty=0.1, parents=parents)
    return fusion.attach(extractor, head)


def save(model: keras.Model, folder: Path, *, crop: str = "none") -> ModelMetadata:
    """Save a model with a reference of one photo a class, its embedding along an axis of its own."""
    classes = ["Agate", "Ruby", "Topaz"][: model.output_shape[-1]]
    width = saving.with_embedding(model).output_shape[1][-1]
    reference = ReferenceSet(
        np.eye(len(classes), width, dtype=np.float32), np.arange(len(classes), dtype=np.int32), np.array(classes)
    )
    known = ModelMetadata(classes, dict.fromkeys(classes, "Stone"), Thresholds(0.9, 0.3, 1, 2.0), reference)
    saving.save(model, classes, folder, crop=crop, knowledge=known)
    return known


@pytest.fixture(scope="module")
def real(real_gems: Path) -> list[Path]:
    """Real photos of several gems."""
    return [path for paths in list(image_folder.list_images(real_gems).values())[::9] for path in paths[:2]]


@pytest.mark.photos
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cnn", TINY),
        ("cnn", SIGMOID),
        ("residual", {}),
        ("transfer", {}),
        ("fusion", {}),
        ("fusion", SEPARATE),
        ("fusion", {"model.fusion.head": "softmax", "embed.views": ["photo"]}),
    ],
    ids=["cnn", "sigmoid cnn", "residual", "transfer", "fusion", "fusion of two levels", "softmax fusion"],
)
def test_the_export_tells_what_keras_tells(
    tmp_path: Path, settings: Any, real: list[Path], name: str, changes: dict[str, Any]
) -> None:
    pixels = np.stack([decode.load(path, SIDE) for path in real]).astype(np.float32)
    model = network(name, settings(changes), pixels)
    known = save(model, tmp_path / "models")
    expected, embedding = (np.asarray(told) for told in saving.with_embedding(model).predict(pixels, verbose=0))
    predictor = Predictor(tmp_path / "models")
    told = [predictor.outputs(predictor.pixels(path)) for path in real]
    np.testing.assert_allclose(np.concatenate([probabilities for probabilities, _ in told]), expected, atol=1e-4)
    exported = np.concatenate([one for _, one in told])
    cosines = (exported * embedding).sum(axis=1) / np.linalg.norm(exported, axis=1) / np.linalg.norm(embedding, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)  # photos are compared by it
    for answer, other in zip(
        predictor.predict(real), predictions.to_predictions(expected, embedding, known), strict=True
    ):
        assert answer.probability == pytest.approx(other.probability, abs=1e-4)
        assert answer.mineral_class == "Stone"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the folder of a tiny model."""

    def make(crop: str = "none") -> Path:
        keras.backend.clear_session()  # names of layers are counted on, and stand in the export
        keras.utils.set_random_seed(1)
        tiny = [keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8), keras.layers.Flatten()]
        head = keras.layers.Dense(3, activation="softmax")
        folder = tmp_path_factory.mktemp("small") / "models"
        save(keras.Sequential([keras.Input((SIDE, SIDE, 3)), *tiny, head]), folder, crop=crop)
        return folder

    return make


@pytest.fixture(scope="module")
def model(small: Callable[..., Path]) -> Path:
    return small()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, draw: Any) -> Path:
    """A folder of two photos, one of them deeper, and a file that is none but by its name."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    draw(1).save(folder / "one.jpg", **decode.JPEG)
    draw(2).save(folder / "deep" / "two.png")
    (folder / "text.jpg").write_text("no photo")
    return folder


def test_the_same_model_is_exported_as_the_same_bytes(small: Callable[..., Path], model: Path) -> None:
    assert (small() / EXPORT).read_bytes() == (model / EXPORT).read_bytes()


@pytest.mark.parametrize("crop", ["canny", "otsu"])
def test_a_photo_is_cropped_as_in_training(small: Callable[..., Path], tmp_path: Path, crop: crop.Method) -> None:
    picture = Image.new("RGB", (640, 400), "white")
    picture.paste((170, 20, 60), (60, 100, 260, 300))
    picture.save(tmp_path / "photo.png")
    cut, box = crop.crop(decode.read(tmp_path / "photo.png"), crop)
    assert box
    seen = Predictor(small(crop)).pixels(tmp_path / "photo.png")
    np.testing.assert_array_equal(seen, decode.pixels(cut, SIDE))


def test_answers_come_in_the_order_of_the_photos(model: Path, photos: Path) -> None:
    paths = [photos / "one.jpg", photos / "text.jpg", photos / "deep" / "two.png"] * 5
    told = list(Predictor(model).predict(paths, top=2))
    assert [isinstance(answer, DataError) for answer in told] == [False, True, False] * 5
    assert told[0] == told[3] != told[2]
    assert not isinstance(told[0], DataError)
    assert len(told[0].top) == 2


def test_without_an_export_the_remedy_is_told(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match=r"model\.tflite: no export .*dvc repro"):
        Predictor(tmp_path)
    for path in model.iterdir():
        files.copy(path, tmp_path / path.name)
    (tmp_path / EXPORT).write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"model\.tflite: damaged .*train it anew"):
        Predictor(tmp_path)


def test_what_is_blurred_away_matters_where_the_model_looks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def detail(seen: Any) -> np.ndarray:
        """The contrast of the upper left quarter."""
        return np.array([float(np.std(photo[: SIDE // 2, : SIDE // 2])) / 128 for photo in seen])

    fall = occlusion.occlusion(detail, pixels)
    half = occlusion.CELLS // 2
    assert fall[: half - 1, : half - 1].min() > 0
    np.testing.assert_allclose(fall[half + 1 :], 0)
    np.testing.assert_allclose(fall[:, half + 1 :], 0)
    assert overlays.side_by_side(pixels, fall, side=SIDE).size == (2 * SIDE, SIDE)


def predict(run: Run, cwd: Path, *arguments: Any, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "gemmodel.cli", "predict", *arguments, cwd=cwd, **variables)


@pytest.mark.parametrize("named", [["one.jpg", "deep"], ["one.jpg", "*/*.png"], ["**/*[oe].[jp]*g"]])
def test_predict_tells_a_line_a_photo(run: Run, model: Path, photos: Path, named: Sequence[str]) -> None:
    ended = predict(run, photos, *named, "--model", model)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = sorted(ended.stdout.splitlines())
    expected = list(Predictor(model).predict([photos / "deep" / "two.png", photos / "one.jpg"]))
    for line, name, answer in zip(lines, (Path("deep", "two.png"), "one.jpg"), expected, strict=True):
        assert not isinstance(answer, DataError)
        assert line == f"{name}: {answer.gem} {answer.probability:.1%} ({predictions.to_text(answer)})"


def test_predict_goes_on_after_a_bad_photo_and_fails(run: Run, model: Path, photos: Path) -> None:
    ended = predict(run, photos, ".", "--json", "--model", model)
    assert ended.returncode == 1
    told = {row["photo"]: row for row in map(json.loads, ended.stdout.splitlines())}
    assert set(told) == {"one.jpg", str(Path("deep", "two.png")), "text.jpg"}
    assert told["text.jpg"] == {"photo": "text.jpg", "error": "not an image"}
    assert {"gem", "mineral_class", "probability", "top", "prediction_set", "unknown", "nearest"} <= set(
        told["one.jpg"]
    )
    assert sum(told["one.jpg"]["top"][place][1] for place in range(3)) == pytest.approx(1, abs=1e-5)
    assert ended.stderr.splitlines() == [
        "gemmodel: text.jpg: not an image",
        "gemmodel: 1 of 3 photos could not be read",
    ]


def test_predict_names_more_gems_and_draws_why(run: Run, model: Path, photos: Path, tmp_path: Path) -> None:
    ended = predict(run, photos, "one.jpg", "--top", 3, "--explain", tmp_path / "why.png", "--model", model)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 4
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.size == (896, 448)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.jpg"], "none.jpg: no such file, folder or pattern"),
        (["*.tif"], "*.tif: no such file, folder or pattern"),
        (["empty"], "empty: no photos in it"),
        (["one.jpg", "text.jpg", "--explain", "why.png"], "--explain: explains one photo, not 2"),
        (["one.jpg", "--top", "0"], "--top: 0 is less than 1"),
        (["one.jpg", "--model", "empty"], "no export of a model here"),
        (["one.jpg"], "mlflow.db: no such registry; `dvc repro` makes one"),
    ],
)
def test_predict_refuses_in_one_line(run: Run, refused: Any, photos: Path, arguments: Sequence[str], told: str) -> None:
    (photos / "empty").mkdir(exist_ok=True)
    refused(predict(run, photos, *arguments), "gemmodel", told)


@pytest.mark.parametrize("command", ["predict", "--help"])
def test_prediction_imports_nothing_heavy(run: Run, model: Path, photos: Path, command: str) -> None:
    arguments = [command, "one.jpg", "--model", str(model)] if command == "predict" else [command]
    code = f"""
import sys
from gemmodel import cli
sys.argv = ["gemmodel", *{arguments!r}]
try:
    cli.main()
except SystemExit as ended:
    assert not ended.code
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    ended = run("-c", code, cwd=photos)
    assert (ended.returncode, ended.stderr) == (0, "")
    loaded = set(ended.stdout.splitlines()[-1].split())
    assert "gemmodel" in loaded
    assert not loaded & {"tensorflow", "keras", "mlflow", "pandas", "scipy", "sklearn", "matplotlib", "cv2"}
    assert command == "predict" or not loaded & {"numpy", "ai_edge_litert"}
