"""params.yaml: a mistake in it is an error with the key's full name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml

from gemmodel.core import params
from gemmodel.core.errors import ParameterError

ROOT = Path(__file__).parents[2]
Settings = Callable[..., params.Params]


def test_the_shipped_file_loads() -> None:
    shipped = params.load(ROOT / "params.yaml")
    assert shipped.crawl.source == ("sample",)
    assert shipped.split.train + shipped.split.val + shipped.split.test == pytest.approx(1)
    assert len(shipped.model.cnn.filters) == len(shipped.model.cnn.pooling)
    assert (shipped.model.cnn.kernel, shipped.model.cnn.dense, shipped.model.transfer.dense) == ((3,), (512,), ())


def test_an_integer_is_accepted_for_a_float(settings: Settings) -> None:
    rotation = settings({"augment.rotation": 40}).augment.rotation
    assert (rotation, type(rotation)) == (40.0, float)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base.seeed", 1),
        ("clean.blur", 1),
        ("model.cnn.depth", 3),
        ("tuning", {}),
    ],
)
def test_an_unknown_key_is_an_error(settings: Settings, key: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=rf"params.yaml: {re.escape(key)} is not a known key"):
        settings({key: value})


@pytest.mark.parametrize("key", ["base.seed", "model.cnn.filters", "evaluate.top", "train.epochs"])
def test_a_missing_key_is_an_error(tmp_path: Path, key: str) -> None:
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    section, last = key.split(".")[-2:]
    start = next(n for n, line in enumerate(lines) if line.strip() == f"{section}:")
    drop = next(n for n, line in enumerate(lines) if n > start and line.strip().startswith(f"{last}:"))
    (tmp_path / "params.yaml").write_text("".join([*lines[:drop], *lines[drop + 1 :]]), encoding="utf-8")
    with pytest.raises(ParameterError, match=rf"{key} is missing"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base.seed", True),
        ("base.seed", 1.5),
        ("base.seed", None),
        ("base.deterministic", 1),
        ("base.deterministic", "yes"),
        ("augment.rotation", "40"),
        ("train.learning_rate", "fast"),
        ("augment.shear", False),
        ("crawl.folder", 7),
        ("embed.weights", False),
        ("embed.backbone", {"efficientnet_lite0": 224}),
        ("embed.backbone", None),
        ("crawl.only", 7),
        ("embed.views", {"photo": 1}),
    ],
)
def test_an_ill_typed_value_is_an_error(settings: Settings, key: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=rf"{key} is {re.escape(repr(value))}; it must be of type"):
        settings({key: value})


def test_a_single_value_is_a_list_of_one(settings: Settings) -> None:
    assert settings({"crawl.only": "Ruby"}).crawl.only == ("Ruby",)
    assert settings({"crawl.source": ["minerals", "folder"]}).crawl.source == ("minerals", "folder")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base.image_size", 31),
        ("base.image_size", 1025),
        ("base.seed", -1),
        ("base.seed", 2**32),  # NumPy and Keras take 32 bits
        ("split.train", 1.01),
        ("clean.hash_distance", 257),
        ("train.epochs", 0),
        ("train.learning_rate", 0),
        ("embed.histogram_bins", 17),
        ("model.cnn.dropout", 1.0),
    ],
)
def test_a_value_out_of_range_is_an_error(settings: Settings, key: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=rf"{key} is .*at least"):
        settings({key: value})


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**400], ids=["nan", "inf", "huge"])
@pytest.mark.parametrize(("key", "name"), [("clean.pixel_difference", ""), ("explain.hue_shifts", "[1]")])
def test_a_number_that_is_not_finite_is_an_error(settings: Settings, key: str, name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=rf"{key}{re.escape(name)} is .{{2,50}}; it must be a finite number"):
        settings({key: [0.5, value] if name else value})


@pytest.mark.parametrize(
    ("key", "value", "choice"),
    [
        ("crawl.source", "google", "minerals"),
        ("model.name", "resnet", "fusion"),
        ("train.device", "tpu", "auto"),
        ("train.schedule", "step", "plateau"),
        ("model.cnn.padding", ["same"], "valid"),
    ],
)
def test_a_wrong_choice_is_an_error_with_the_right_ones(settings: Settings, key: str, value: Any, choice: str) -> None:
    with pytest.raises(ParameterError, match=rf"{key} is {re.escape(repr(value))}; it must be one of .*{choice}"):
        settings({key: value})


@pytest.mark.parametrize(
    ("key", "value", "index"),
    [
        ("crawl.only", ["Ruby", 5], 1),
        ("crawl.source", ["folder", "google"], 1),
        ("model.cnn.filters", [32, 64, 0, 128, 128], 2),
        ("model.cnn.filters", ["32", 64, 128, 128, 128], 0),
        ("model.cnn.pooling", ["max", "max", "max", "max", "mean"], 4),
    ],
)
def test_a_wrong_item_of_a_list_is_an_error_with_its_index(
    settings: Settings, key: str, value: Any, index: int
) -> None:
    with pytest.raises(ParameterError, match=rf"{key}\[{index}\] is "):
        settings({key: value})


@pytest.mark.parametrize("key", ["base", "model", "model.cnn"])
@pytest.mark.parametrize("value", [None, 3, ["seed"]])
def test_a_section_that_is_not_a_mapping_is_an_error(settings: Settings, key: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=rf"params.yaml: {key} is not a section"):
        settings({key: value})


def test_names_map_to_lists(settings: Settings) -> None:
    assert settings({"evaluate.panels": {"blue": ["Iolite", "Opal"], 1: "Ruby"}}).evaluate.panels == {
        "blue": ("Iolite", "Opal"), "1": ("Ruby",),
    }  # fmt: skip
    assert settings({"evaluate.panels": {}}).evaluate.panels == {}


@pytest.mark.parametrize("value", [["Ruby"], "Ruby", None, {"../red": ["Ruby"]}, {"": ["Ruby"]}])
def test_names_that_cannot_be_file_names_are_errors(settings: Settings, value: Any) -> None:
    with pytest.raises(ParameterError, match=r"evaluate\.panels is .*it must map names"):
        settings({"evaluate.panels": value})


def test_a_wrong_item_of_a_mapping_is_an_error_with_its_name(settings: Settings) -> None:
    with pytest.raises(ParameterError, match=r"evaluate\.panels\.red\[1\] is 5"):
        settings({"evaluate.panels": {"red": ["Ruby", 5]}})


def test_a_list_that_must_not_be_empty_is_an_error(settings: Settings) -> None:
    with pytest.raises(ParameterError, match=r"embed\.views"):
        settings({"embed.views": []})


@pytest.mark.parametrize(
    "content", [b"", b"- a\n- b\n", b"base: [1\ncrawl: 2", b"\tbase: 1\n", "base: {}  # größer".encode("latin-1")]
)
def test_a_file_that_is_not_a_parameter_file_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=r"params\.yaml") as caught:
        params.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=re.escape(str(tmp_path / "none.yaml"))):
        params.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1E-3", 1e-3), ("1e-05", 1e-5), ("1.2e2", 120.0), ("0010", 10.0), ("1_0", 10.0), (".5", 0.5), ("0o10", 8.0)],
)
def test_a_number_is_the_one_that_dvc_sees(tmp_path: Path, text: str, value: float) -> None:
    path = changed_line(tmp_path, "  rotation: 40.0", f"  rotation: {text}")
    assert params.load(path).augment.rotation == value
    assert load_yaml(path)["augment"]["rotation"] == value


def changed_line(folder: Path, old: str, new: str) -> Path:
    """Write the shipped parameters with another text for one line's beginning."""
    shipped = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert shipped.count(f"{old} ") == 1
    (folder / "params.yaml").write_text(shipped.replace(f"{old} ", f"{new} "), encoding="utf-8")
    return folder / "params.yaml"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  rotation: 40.0", "  rotation: 40.0\n  rotation: 30.0", r':\d+: found duplicate key "rotation".*remove one'),
        ("  deterministic: true", "  deterministic: yes", "deterministic is 'yes'.*; write true or false"),
        ("  tensorboard: false", "  tensorboard: Off", "tensorboard is 'Off'.*; write true or false"),
        ("  only: []", "  only: [1, 2]", r"only\[0\] is 1; .*write it in quotes"),
        ("  rotation: 40.0", "  rotation: 0:40", "rotation is '0:40'; it must be of type float"),
        ("  rotation: 40.0", "  rotation: ~", "rotation is None; it must be of type float"),
        ("  folder: photos", "  folder: [photos", r"params\.yaml:\d+: not valid YAML"),
    ],
)
def test_what_dvc_would_see_otherwise_or_not_at_all_is_refused(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    with pytest.raises(ParameterError, match=expected):
        params.load(changed_line(tmp_path, old, new))


def test_a_byte_order_mark_is_read_and_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    path, text = tmp_path / "params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8-sig")
    assert params.load(path) == params.load(ROOT / "params.yaml")
    for encoding in ("utf-16", "utf-16-le"):  # with and without a mark
        path.write_text(text, encoding=encoding)
        with pytest.raises(ParameterError, match=r"params\.yaml: not UTF-8, but like UTF-16.*save it as UTF-8"):
            params.load(path)
    path.write_text(f"# größer\n{text}", encoding="cp1252")
    with pytest.raises(ParameterError, match=r"params\.yaml:1: not UTF-8: byte 0xf6"):
        params.load(path)


def lookup(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the section of a key, and the key's last part."""
    *sections, key = name.split(".")
    for section in sections:
        values = values[section]
    return values, key


@pytest.mark.parametrize(("old", "new"), params.RENAMED.items())
def test_a_renamed_key_is_an_error_with_its_new_name(old: str, new: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    section, key = lookup(values, new)
    value = section.pop(key)
    section, key = lookup(values, old)
    section[key] = value
    with pytest.raises(ParameterError) as caught:
        params.checked(values, "params.yaml")
    assert str(caught.value) == f"params.yaml: {old} is now called {new}; rename it"


@pytest.mark.parametrize("key", params.REMOVED)
def test_a_removed_key_is_an_error_that_says_what_to_do(key: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    section, name = lookup(values, key)
    section[name] = "softmax"
    with pytest.raises(ParameterError, match=rf"^params\.yaml: {key} does not exist any more: .*; remove this line$"):
        params.checked(values, "params.yaml")


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("model.cnn.augmentation", "fly", "on_the_fly"),
        ("model.residual.augmentation", "fly", "on_the_fly"),
        ("model.transfer.augmentation", "fly", "on_the_fly"),
        ("register.rule", "by_hand", "manual"),
    ],
)
def test_a_renamed_value_is_an_error_with_its_new_name(settings: Settings, key: str, old: str, new: str) -> None:
    with pytest.raises(ParameterError, match=rf"{key} is '{old}'; .*; {old} is now called {new}$"):
        settings({key: old})


def test_an_old_value_is_not_explained_where_it_never_was_one(settings: Settings) -> None:
    with pytest.raises(ParameterError) as caught:
        settings({"register.rule": "fly"})
    assert "is now called" not in str(caught.value)


@pytest.mark.parametrize("key", ["crawl.only", "register.name"])
@pytest.mark.parametrize("value", [1, 1.5, True])
def test_a_name_that_yaml_takes_for_another_type_is_an_error_with_the_remedy(
    settings: Settings, key: str, value: Any
) -> None:
    with pytest.raises(ParameterError, match=rf"{key}(\[0\])? is {value}; it must be of type str; write it in quotes"):
        settings({key: value})


@pytest.mark.parametrize("name", ["gemstones", "my gems", "gems.v2", "红宝石", "-x", "x" * 250])
def test_a_registered_model_may_have_any_name_that_mlflow_takes(settings: Settings, name: str) -> None:
    assert settings({"register.name": name}).register.name == name


REFUSED_NAMES = [
    "a/b", "a:b", "a'b", 'a"b', "a@b", "a?b", "a#b", "a%b", "a\\b", "a\nb", "a\tb", "", " ", ".", "..", "...", " a",
    "a ", "x" * 251,
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_a_name_that_mlflow_refuses_somewhere_is_an_error(settings: Settings, name: str) -> None:
    with pytest.raises(ParameterError, match=r"register\.name is .*(MLflow's registry takes no|it must be 1 to 250)"):
        settings({"register.name": name})


def test_every_name_that_mlflow_itself_refuses_is_among_them() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    def is_refused(name: str) -> bool:
        try:
            _validate_model_name(name)
        except MlflowException:
            return True
        return False

    chars = [chr(i) for i in range(32, 127)]
    assert {"a/b", "a:b"} <= {f"a{char}b" for char in chars if is_refused(f"a{char}b")} <= set(REFUSED_NAMES)
    assert is_refused("..") and is_refused(" ")


def test_panels_whose_files_some_disks_take_for_one_are_an_error(settings: Settings) -> None:
    with pytest.raises(ParameterError, match=r"evaluate\.panels has names that differ in capitals only"):
        settings({"evaluate.panels": {"Red": ["Ruby"], "red": ["Pyrope"]}})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the shipped parameters name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("corrections.csv", "test_list.txt", "hierarchy.yaml"):
        (tmp_path / "photos" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("crawl.folder", "nowhere", "no such folder or archive"),  # DVC tracks it whatever crawl.source is
        ("crawl.folder", "", "must be a path"),
        ("crawl.folder", "https://host.example/gems.zip", "must be a path"),
        ("crawl.folder", ".", "writes to data"),
        ("crawl.folder", "..", "writes to data"),
        ("crawl.folder", "data", "writes to data"),
        ("crawl.folder", "photos/../data/raw", "writes to data"),
        ("crawl.folder", "reports/photos", "writes to reports"),
        ("clean.corrections", "none.csv", "no such file; an empty one will do"),
        ("clean.corrections", "photos", "not a file"),
        ("split.test_list", "", "must be a path"),
        ("split.hierarchy", "models/hierarchy.yaml", "writes to models"),
        ("embed.weights", "ImageNet", "must be imagenet, none or a weights file"),
        ("model.transfer.weights", "lite0.pth", "must be imagenet, none or a weights file"),
        ("embed.weights", "photos/mine.keras", "DVC would not see a change of it; move it into backbones"),
        ("embed.backbone", ["efficientnet_lite0", "backbones/dino.onnx@224"], "dino.onnx: no such file; put it into"),
        ("model.transfer.backbone", "photos/mine.keras", "DVC would not see a change of it; move it into backbones"),
    ],
)
def test_a_path_that_dvc_or_a_stage_would_refuse_is_an_error(
    settings: Settings, project: Path, key: str, value: str, expected: str
) -> None:
    for folder in ("data/raw", "reports/photos", "models"):
        (project / folder).mkdir(parents=True)
    (project / "models" / "hierarchy.yaml").touch()
    (project / "photos" / "mine.keras").touch()
    with pytest.raises(ParameterError, match=f"^{re.escape(key)}.*{expected}"):
        params.check_paths(settings({key: value}))


def test_the_shipped_paths_are_right_and_outputs_are_those_of_the_pipeline(settings: Settings, project: Path) -> None:
    params.check_paths(settings())
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics") for out in stage.get(kind, ())]
    assert {next(iter([out] if isinstance(out, str) else out)).split("/")[0] for out in outs} <= set(params.OUTPUTS)
