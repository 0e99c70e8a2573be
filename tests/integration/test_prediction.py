"""Prediction without TensorFlow: the LiteRT export, the predictor, and the command `gemmodel predict`."""

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError, GemmodelError, ModelError
from gemmodel.core.params import Params
from gemmodel.embed import extractor
from gemmodel.explain import cues, occlusion
from gemmodel.figures import overlays
from gemmodel.images import crop, decode
from gemmodel.models import fusion, saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import EXPORT, FILES, ModelMetadata
from gemmodel.serve import predictions
from gemmodel.serve.predictions import Prediction
from gemmodel.serve.predictor import Predictor
from gemmodel.train.cnn import cnn
from gemmodel.train.fusion_head import to_keras
from gemmodel.train.residual import residual
from gemmodel.train.ridge.kernel_ridge import KernelRidge
from gemmodel.train.transfer import transfer
from tests.conftest import LITERT_ATOL
from tests.tiny_backbone import NAME as TINY_BACKBONE

Run = Callable[..., Any]
SIDE = 64
TINY = {"model.cnn.filters": [4, 8], "model.cnn.pooling": ["max", "average"], "model.cnn.dense": 16}
SIGMOID = TINY | {"model.cnn.output": "sigmoid"}
FUSION = {"embed.backbone": TINY_BACKBONE}
SEPARATE = FUSION | {"model.fusion.labels": "separate"}
# LiteRT and Keras add float32 in other orders, and each CPU's kernels in their own: some 1e-6 of a value per layer.


def build_model(name: str, settings: Params, pixels: np.ndarray) -> keras.Model:
    """An untrained network of two or three classes; or a fusion model fitted to the features of these photos."""
    if name != "fusion":
        classes = 2 if settings.model.cnn.output == "sigmoid" else 3
        build: dict[str, Callable[..., keras.Model]] = {"cnn": cnn, "residual": residual, "transfer": transfer}
        return build[name](getattr(settings.model, name), image_size=SIDE, classes=classes)
    network = extractor.extractor(settings.embed, image_size=SIDE)
    features = network.predict(pixels, batch_size=8, verbose=0)
    params = settings.model.fusion
    blocks = list(extractor.blocks(network).values())
    ridge = KernelRidge(params, classes=3, blocks=blocks, penalty=0.1, parents=[0, 0, 1])
    return fusion.attach(network, to_keras(ridge.fit(features, np.arange(len(pixels)) % 3)))


def save(model: keras.Model, folder: Path, *, crop_method: str = "none") -> ModelMetadata:
    """Save a model with one reference photo per class, whose embeddings are orthogonal."""
    classes = ["Agate", "Ruby", "Topaz"][: model.outputs[0].shape[-1]]
    width = saving.with_embedding(model).outputs[1].shape[-1]
    reference = ReferenceSet(
        np.eye(len(classes), width, dtype=np.float32), np.arange(len(classes), dtype=np.int32), np.array(classes)
    )
    metadata = ModelMetadata(classes, dict.fromkeys(classes, "Stone"), Thresholds(0.9, 0.3, 1, 2.0), reference)
    saving.save(model, classes, folder, crop=crop_method, metadata=metadata)
    return metadata


@pytest.fixture(scope="module")
def real_photos(real_gems: Path) -> list[Path]:
    """Two real photos of every ninth gem."""
    return [path for paths in list(image_folder.list_images(real_gems).values())[::9] for path in paths[:2]]


@pytest.mark.photos
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cnn", TINY),
        ("cnn", SIGMOID),
        ("residual", {"model.residual.filters": [4, 8], "model.residual.dense": 8}),
        ("transfer", {}),
        ("fusion", FUSION),
        ("fusion", SEPARATE),
    ],
    ids=["cnn", "sigmoid cnn", "residual", "transfer", "fusion", "fusion with separate labels"],
)
def test_export_predicts_what_keras_predicts(
    tmp_path: Path, settings: Any, real_photos: list[Path], tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, changes: dict[str, Any],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_backbone, "backbones")
    pixels = np.stack([decode.load(path, SIDE) for path in real_photos]).astype(np.float32)
    model = build_model(name, settings(changes), pixels)
    metadata = save(model, tmp_path / "models")
    probs, embedding = (np.asarray(output) for output in saving.with_embedding(model).predict(pixels, verbose=0))
    predictor = Predictor(tmp_path / "models")
    outputs = [predictor.outputs(predictor.pixels(path)) for path in real_photos]
    litert_probs, litert_embedding = (np.concatenate(arrays) for arrays in zip(*outputs, strict=True))
    np.testing.assert_allclose(litert_probs, probs, atol=LITERT_ATOL)
    norms = np.linalg.norm(litert_embedding, axis=1) * np.linalg.norm(embedding, axis=1)
    cosines = (litert_embedding * embedding).sum(axis=1) / norms
    np.testing.assert_allclose(cosines, 1, atol=LITERT_ATOL)
    expected = predictions.to_predictions(probs, embedding, metadata)
    for prediction, keras_prediction in zip(predictor.predict(real_photos), expected, strict=True):
        assert isinstance(prediction, Prediction)
        assert prediction.probability == pytest.approx(keras_prediction.probability, abs=LITERT_ATOL)
        assert prediction.mineral_class == "Stone"


@pytest.fixture(scope="module")
def save_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a tiny model, and return its folder."""

    def make(crop_method: str = "none") -> Path:
        keras.backend.clear_session()  # Keras numbers its layers' names, which the export contains
        keras.utils.set_random_seed(1)
        tiny = [keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8), keras.layers.Flatten()]
        head = keras.layers.Dense(3, activation="softmax")
        folder = tmp_path_factory.mktemp("small") / "models"
        save(keras.Sequential([keras.Input((SIDE, SIDE, 3)), *tiny, head]), folder, crop_method=crop_method)
        return folder

    return make


@pytest.fixture(scope="module")
def model(save_small: Callable[..., Path]) -> Path:
    return save_small()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, draw: Any) -> Path:
    """A folder of two photos, one of them in a folder below it, and a text file with a photo's suffix."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    draw(1).save(folder / "one.jpg", **decode.JPEG)
    draw(2).save(folder / "deep" / "two.png")
    (folder / "text.jpg").write_text("no photo")
    return folder


def test_same_model_is_exported_as_the_same_bytes(save_small: Callable[..., Path], model: Path) -> None:
    assert (save_small() / EXPORT).read_bytes() == (model / EXPORT).read_bytes()


def test_export_leaves_no_shape_open(model: Path) -> None:
    """For an open one, LiteRT plans its memory again for each photo."""
    tensors = Interpreter(str(model / EXPORT)).get_tensor_details()
    assert tensors and not any(-1 in tensor["shape_signature"] for tensor in tensors)


@pytest.mark.parametrize("crop_method", ["canny", "otsu"])
def test_photo_is_cropped_as_in_training(
    save_small: Callable[..., Path], tmp_path: Path, crop_method: crop.Method
) -> None:
    picture = Image.new("RGB", (640, 400), "white")
    picture.paste((170, 20, 60), (60, 100, 260, 300))
    picture.save(tmp_path / "photo.png")
    cropped, box = crop.crop(decode.read(tmp_path / "photo.png"), crop_method)
    assert box
    pixels = Predictor(save_small(crop_method)).pixels(tmp_path / "photo.png")
    np.testing.assert_array_equal(pixels, decode.pixels(cropped, SIDE))


def test_predictions_are_in_the_order_of_the_photos(model: Path, photos: Path) -> None:
    paths = [photos / "one.jpg", photos / "text.jpg", photos / "deep" / "two.png"] * 5
    results = list(Predictor(model).predict(paths, top=2))
    assert [type(result) for result in results] == [Prediction, DataError, Prediction] * 5
    assert results[0] == results[3] != results[2]
    assert isinstance(results[0], Prediction)
    assert len(results[0].top) == 2


@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
def test_each_missing_or_damaged_file_of_a_model_is_an_error_with_the_remedy(
    tmp_path: Path, model: Path, photos: Path, kind: str
) -> None:
    for path in model.iterdir():
        files.copy(path, tmp_path / path.name)
    [expected] = Predictor(model).predict([photos / "one.jpg"])
    for path in model.iterdir():
        content, middle = path.read_bytes(), path.stat().st_size // 2
        damaged = content[:middle] + (
            bytes([content[middle] ^ 1]) + content[middle + 1 :] if kind == "flipped" else b""
        )
        if kind == "gone":
            (tmp_path / path.name).unlink()
        else:
            (tmp_path / path.name).write_bytes(damaged)
        if path.name == "model.keras" or (kind, path.name) == ("gone", "sha256.json"):  # not read; not checked
            assert list(Predictor(tmp_path).predict([photos / "one.jpg"])) == [expected]
        else:
            with pytest.raises(ModelError, match=r": (damaged|not there).*; `dvc checkout --force` restores models/"):
                Predictor(tmp_path)
        (tmp_path / path.name).write_bytes(content)
    assert list(Predictor(tmp_path).predict([photos / "one.jpg"])) == [expected]


def test_a_folder_without_a_model_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.tflite: no such model.*dvc repro"):
        Predictor(tmp_path)


@pytest.mark.parametrize(
    ("command", "file"), [("predict", "model.tflite"), ("predict", "input.json"), ("app", "input.json")]
)
def test_commands_refuse_a_damaged_model_in_one_line(
    tmp_path: Path, model: Path, photos: Path, forked: Run, refused: Any, command: str, file: str
) -> None:
    for path in model.iterdir():
        files.copy(path, tmp_path / path.name)
    (tmp_path / file).write_bytes((model / file).read_bytes()[:-1])
    arguments = [str(photos / "one.jpg")] if command == "predict" else []
    ended = forked("-m", "gemmodel.cli", command, *arguments, "--model", str(tmp_path), cwd=tmp_path)
    refused(ended, "gemmodel", f"{tmp_path / file}: damaged, or of another model than sha256.json; ")


def test_damaged_metadata_of_a_former_version_is_an_error_in_one_line(tmp_path: Path, model: Path) -> None:
    """Its folder has no hashes, so what can be parsed is taken."""
    for path in model.iterdir():
        if path.name != "sha256.json":
            files.copy(path, tmp_path / path.name)
    random = np.random.default_rng(0)
    for name in ("input.json", *FILES):
        if not (model / name).is_file():
            continue
        content = (model / name).read_bytes()
        for i in random.integers(0, len(content), 60):
            flipped = content[:i] + bytes([content[i] ^ 1 << random.integers(8)]) + content[i + 1 :]
            for damaged in (flipped, content[:i]):
                (tmp_path / name).write_bytes(damaged)
                try:
                    Predictor(tmp_path)
                except GemmodelError as error:
                    assert "\n" not in str(error)
        (tmp_path / name).write_bytes(content)


def corner(photos: Any) -> np.ndarray:
    """Returns probabilities of two classes that the contrast of the upper left corner decides."""
    logits = [(float(np.std(photo[: SIDE // 4, : SIDE // 4])) - 40) / 10 for photo in photos]
    first = 1 / (1 + np.exp(-np.array(logits)))
    return np.stack([first, 1 - first], axis=1)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def test_the_part_that_carries_the_answer_is_found() -> None:
    pixels = noise()
    part = occlusion.explain(corner, pixels, corner([pixels])[0])
    assert part.carries and part.probabilities[0] < 0.9
    half = occlusion.CELLS // 2
    assert part.values[:half, :half].mean() > part.values[half + 1 :, half + 1 :].mean()
    assert part.shown.min() == 0 and part.shown.argmax() == part.values.argmax()
    assert overlays.side_by_side(pixels, part.shown, side=SIDE).size == (2 * SIDE, SIDE)


def test_an_answer_that_no_part_carries_is_said_to_have_none() -> None:
    pixels, counts = noise(), []

    def constant(photos: Any) -> np.ndarray:
        counts.append(len(list(photos)))
        return np.array([[0.8, 0.2]] * counts[-1])

    explanation = cues.explain(constant, pixels, np.array([0.8, 0.2]), ["Ruby", "Spinel"], ["Ruby", "Spinel", "Ruby"])
    assert not explanation.part.carries and not explanation.part.shown.any()
    assert counts[:2] == [occlusion.HALVES, 1] and occlusion.RANDOM_PARTS not in counts
    assert explanation.sentences == [
        "No single part carries Ruby: without the part that matters most, Ruby stays at 80 %.",
        "Its colours do not decide: all in grey, Ruby stays at 80 %.",
        "The 3 known photos most like it show Ruby (2) and Spinel (1).",
    ]


@pytest.mark.parametrize("cells", [1, 2, 5, 6])
def test_every_cell_is_hidden_in_some_halves_and_visible_in_others(cells: int) -> None:
    hidden = occlusion.hidden_halves(cells)
    assert (hidden.sum(axis=0) == len(hidden) / 2).all()
    assert [part.sum() for part in occlusion.random_parts(cells)] == [max(1, round(cells**2 / 5))] * 19


def test_the_colour_that_decides_is_named() -> None:
    """A red stone on white, and a model that answers by its red."""
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pixels[8:24, 8:24] = (200, 20, 40)
    pixels[24:28, :] = (20, 40, 200)

    def redness(photos: Any) -> np.ndarray:
        red = np.array([float((photo[..., 0] > photo[..., 1].astype(int) + 100).mean()) for photo in photos])
        return np.stack([np.minimum(0.1 + 10 * red, 0.9), 1 - np.minimum(0.1 + 10 * red, 0.9)], axis=1)

    def sentences_of(pixels: np.ndarray) -> list[cues.Sentence]:
        return cues.explain(redness, pixels, redness([pixels])[0], ["Ruby", "Spinel"]).sentences

    sentences = sentences_of(pixels)
    assert sentences[1] == "Its red decides: in grey instead of red, the model would answer Spinel."
    assert sentences_of(np.full_like(pixels, 255))[1] == "The photo has hardly any colour."


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 20, 40), "red"), ((230, 130, 20), "orange"), ((100, 60, 20), "brown"), ((230, 220, 40), "yellow"),
        ((20, 140, 60), "green"), ((40, 200, 200), "turquoise"), ((20, 40, 180), "blue"), ((120, 40, 170), "purple"),
        ((240, 150, 190), "pink"), ((250, 250, 250), ""), ((128, 128, 128), ""), ((10, 5, 5), ""),
    ],
)  # fmt: skip
def test_colours_have_their_names(rgb: tuple[int, int, int], name: str) -> None:
    assert cues.colour_names(np.full((2, 2, 3), rgb, np.uint8)).tolist() == [[name] * 2] * 2


def predict(run: Run, cwd: Path, *arguments: Any, **variables: str) -> Any:
    return run("-m", "gemmodel.cli", "predict", *arguments, cwd=cwd, **variables)


@pytest.mark.parametrize("names", [["one.jpg", "deep"], ["one.jpg", "*/*.png"], ["**/*[oe].[jp]*g"]])
def test_predict_prints_one_line_per_photo(forked: Run, model: Path, photos: Path, names: Sequence[str]) -> None:
    ended = predict(forked, photos, *names, "--model", model)
    assert (ended.returncode, ended.stderr) == (0, "")
    head, *lines = ended.stdout.splitlines()
    assert head.split() == ["photo", "probability", "gem"]
    expected = list(Predictor(model).predict([photos / "deep" / "two.png", photos / "one.jpg"]))
    for line, name, prediction in zip(sorted(lines), (Path("deep", "two.png"), "one.jpg"), expected, strict=True):
        assert isinstance(prediction, Prediction)
        text = predictions.to_text(prediction)
        assert line.split(maxsplit=3) == [str(name), f"{100 * prediction.probability:.1f}", "%", text]


def test_predict_skips_an_unreadable_photo_and_fails_at_the_end(forked: Run, model: Path, photos: Path) -> None:
    ended = predict(forked, photos, ".", "--json", "--model", model)
    assert ended.returncode == 1
    rows = {row["photo"]: row for row in map(json.loads, ended.stdout.splitlines())}
    assert set(rows) == {"one.jpg", str(Path("deep", "two.png")), "text.jpg"}
    assert rows["text.jpg"] == {"photo": "text.jpg", "error": "not an image"}
    fields = {field.name for field in dataclasses.fields(Prediction)} | {"text", "details"}
    assert set(rows["one.jpg"]) == {"photo", *fields}
    # a float32 softmax of three classes sums to 1 but for three roundings of 6e-8
    assert sum(probability for _, probability in rows["one.jpg"]["top"]) == pytest.approx(1, abs=1e-6)
    assert ended.stderr.splitlines() == [
        "gemmodel: text.jpg: not an image",
        "gemmodel: 1 of 3 photos could not be read",
    ]


def test_predict_prints_a_table_of_comma_separated_values(forked: Run, model: Path, photos: Path) -> None:
    ended = predict(forked, photos, "one.jpg", "text.jpg", "--csv", "--top", "2", "--model", model)
    assert ended.returncode == 1
    rows = list(csv.DictReader(ended.stdout.splitlines()))
    assert [row["photo"] for row in rows] == ["one.jpg", "text.jpg"]
    [expected] = Predictor(model).predict([photos / "one.jpg"])
    assert isinstance(expected, Prediction)
    assert (rows[0]["gem"], rows[0]["gem_2"], rows[0]["error"]) == (expected.gem, expected.top[1][0], "")
    assert float(rows[0]["probability"]) == pytest.approx(expected.probability, abs=1e-6)
    assert rows[0]["prediction_set"].split(" | ") == expected.prediction_set
    assert (rows[1]["gem"], rows[1]["error"], None in rows[1]) == ("", "not an image", False)


def test_predict_prints_more_gems_and_draws_the_explanation(
    forked: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    picture_file = tmp_path / "explanation.png"
    ended = predict(forked, photos, "one.jpg", "--top", 3, "--explain", picture_file, "--model", model)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert len(lines) == 3 + 3  # the gems; the part, the colours, the known photos
    assert len({line.split()[-1] for line in lines[:3]}) == 3  # each gem once
    with Image.open(picture_file) as picture:
        assert picture.size == (896, 448)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none.jpg"], "none.jpg: no such file, folder or pattern"),
        (["*.tif"], "*.tif: no such file, folder or pattern"),
        (["empty"], "empty: no photos in it"),
        (["one.jpg", "text.jpg", "--explain", "explanation.png"], "--explain: explains one photo, not 2"),
        (["one.jpg", "--explain", "why.xyz"], "--explain: why.xyz: its name must end in .png"),
        (["one.jpg", "--explain", "./one.jpg"], "--explain: one.jpg is there, and would be lost"),
        ([""], "PHOTO: an empty name"),
        (["**jpg"], "**jpg: Invalid pattern"),
        (["gone.jpg"], "gone.jpg: a link to nothing.jpg, which is not there"),
        (["one.jpg", "--top", "0"], "--top: 0 is less than 1"),
        (["one.jpg", "--model", "empty"], "model.tflite: no such model"),
        (["one.jpg"], "mlflow.db: no such registry; `dvc repro` creates one"),
    ],
)
def test_predict_refuses_in_one_line(
    forked: Run, refused: Any, photos: Path, arguments: Sequence[str], expected: str
) -> None:
    (photos / "empty").mkdir(exist_ok=True)
    if not (photos / "gone.jpg").is_symlink():
        (photos / "gone.jpg").symlink_to("nothing.jpg")
    refused(predict(forked, photos, *arguments), "gemmodel", expected)


def test_predict_takes_the_photos_of_a_folder_and_names_what_it_leaves_out(
    run: Run, model: Path, tmp_path: Path, draw: Any
) -> None:
    folder = tmp_path / "photos"
    (folder / "folder.jpg").mkdir(parents=True)
    draw(1).save(folder / "folder.jpg" / "Rubí.jpg")
    (tmp_path / "other").mkdir()
    draw(2).save(tmp_path / "other" / "elsewhere.png")
    (tmp_path / "other" / "back").symlink_to(folder)
    draw(3).save(os.fsencode(folder) + b"/a\xff.jpg", format="JPEG")  # a name that is no UTF-8
    (folder / "._a.jpg").write_text("macOS")
    (folder / "gone.jpg").symlink_to("nothing.jpg")
    (folder / "linked").symlink_to(tmp_path / "other")
    os.mkfifo(folder / "pipe.jpg")
    for encoding, name in (("utf-8", "Rubí"), ("ascii", r"Rub\xed"), ("utf-8:strict", "Rubí")):
        ended = predict(run, tmp_path, "photos", "--model", model, PYTHONIOENCODING=encoding, PYTHONUTF8="1")
        assert ended.returncode == 0, ended.stderr
        names = [line.split()[0] for line in ended.stdout.splitlines()[1:]]
        assert names == [r"photos/a\udcff.jpg", f"photos/folder.jpg/{name}.jpg", "photos/linked/elsewhere.png"]
        assert ended.stderr == (
            "gemmodel: photos: left out a file of the operating system or of a tool: 1, "
            "a link to a folder above it: 1, a link to nothing: 1, not a regular file: 1\n"
        )
    ended = predict(run, tmp_path, "photos/folder.jpg", "--json", "--model", model, PYTHONIOENCODING="ascii")
    assert json.loads(ended.stdout)["photo"] == "photos/folder.jpg/Rubí.jpg"


@pytest.mark.parametrize("command", ["predict", "--help"])
def test_predict_and_help_import_no_slow_packages(run: Run, model: Path, photos: Path, command: str) -> None:
    arguments = [command, "one.jpg", "--model", str(model)] if command == "predict" else [command]
    code = f"""
import sys
from gemmodel import cli
sys.argv = ["gemmodel", *{arguments!r}]
try:
    cli.main()
except SystemExit as error:
    assert not error.code
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    ended = run("-c", code, cwd=photos)
    assert (ended.returncode, ended.stderr) == (0, "")
    imported = set(ended.stdout.splitlines()[-1].split())
    assert "gemmodel" in imported
    assert not imported & {"tensorflow", "keras", "mlflow", "pandas", "scipy", "sklearn", "matplotlib", "cv2"}
    assert command == "predict" or not imported & {"numpy", "ai_edge_litert"}
