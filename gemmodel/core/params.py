"""The parameters of all stages: one frozen dataclass per section of params.yaml.

Each field is checked against its annotation: an unknown, missing or ill-typed key is an error with the key's full name.
Where a list is expected, a single value is a list of one.
The comments in params.yaml explain each value and its default.
"""

import os
import re
import reprlib
import sys
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from gemmodel.core import files
from gemmodel.core.errors import DataError, ParameterError, did_you_mean


@dataclass(frozen=True)
class Range:
    """The closed interval for a number, or for the length of a list."""

    low: float
    high: float = float("inf")


@dataclass(frozen=True)
class RegistryName:
    """What MLflow takes as the name of a registered model in every place where this project uses it.

    MLflow's own check knows of `/`, `:` and dots only. A quote ends a search, `@`, `?` and `#` end a model's URI, its
    page decodes `%`, and the registry's lock appends six characters to a name, of which a database holds 256.
    """

    forbidden: str = "/:@?#%'\"\\"
    max_length: int = 250


Seed = Annotated[int, Range(0, 2**31)]  # NumPy takes 32 bits, and some layers add a small number
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0)]
LearningRate = Annotated[float, Range(1e-9, 10)]
Augmentation = Literal["none", "disk", "on_the_fly"]


RENAMED = {  # keys of version 0.1 and their present names
    "augment.up_to": "augment.target_per_class",
    "evaluate.disputes": "evaluate.label_issues",
    "evaluate.resamples": "evaluate.bootstrap_samples",
    "explain.compared": "explain.comparison_photos",
    "explain.measured": "explain.ablation_photos",
    "model.fusion.confusion_penalty": "model.fusion.stacking_penalty",
    "model.fusion.learn_validation": "model.fusion.refit_on_validation",
    "model.fusion.network_share": "model.fusion.ensemble_weight",
    "model.fusion.networks": "model.fusion.ensemble_size",
    "split.keep_test": "split.test_list",
    "split.most_per_class": "split.max_per_class",
    "train.unknown_share": "train.ood_false_positive_rate",
}
REMOVED = {  # keys of version 0.1 that nothing replaces, and why
    "model.fusion.dropout": "of the softmax head, which kernel ridge regression replaces for any number of photos",
    "model.fusion.head": "kernel ridge regression is the only head, for any number of photos (model.fusion.landmarks)",
}
YAML_1_1_BOOLEANS = {"yes", "no", "on", "off", "y", "n"}  # text to YAML 1.2, which DVC and this project read
BACKBONES, BACKBONE_FILES = "backbones", (".keras", ".tflite", ".onnx")  # the folder that dvc.yaml takes as an input
OUTPUTS = ("data", "models", "reports", "mlruns", "mlflow.db", "logs", ".dvc")  # what a run of the pipeline changes
RENAMED_VALUES = {"fly": "on_the_fly", "by_hand": "manual"}


@dataclass(frozen=True)
class BaseParams:
    """Parameters of several stages."""

    seed: Seed
    image_size: Annotated[int, Range(32, 1024)]
    deterministic: bool
    threads: Count


@dataclass(frozen=True)
class CrawlParams:
    """Where the photos come from."""

    source: Annotated[tuple[Literal["sample", "minerals", "rasavgems", "folder"], ...], Range(1)]
    folder: str
    only: tuple[str, ...]
    max_per_gem: Count
    class_level: Annotated[int, Range(0, 8)]
    parts: Literal["merge", "keep"]
    allow_fewer: bool
    contact: str


@dataclass(frozen=True)
class CleanParams:
    """Which photos are rejected, and how the others are cropped."""

    min_side: Positive
    max_side: Annotated[int, Range(64)]
    min_contrast: Rate
    hash_distance: Annotated[int, Range(0, 64)]
    pixel_difference: Annotated[float, Range(0, 255)]
    similarity: Fraction
    crop: Literal["none", "canny", "otsu"]
    corrections: str


@dataclass(frozen=True)
class SplitParams:
    """How the photos of a class are split into training, validation and test part."""

    seed: Seed
    train: Fraction
    val: Fraction
    test: Fraction
    small_classes: Literal["refuse", "drop"]
    test_list: str
    hierarchy: str
    max_per_class: Count
    folds: Annotated[int, Range(2)]


@dataclass(frozen=True)
class AugmentParams:
    """The only definition of augmentation, for copies on disk and on the fly."""

    images_per_class: Count
    target_per_class: Count
    rotation: Annotated[float, Range(0, 180)]
    shift: Fraction
    shear: Fraction
    zoom: Annotated[float, Range(0, 0.99)]
    fill: Literal["nearest", "reflect", "wrap", "constant"]
    horizontal_flip: bool
    vertical_flip: bool


@dataclass(frozen=True)
class EmbedParams:
    """The features of a photo: backbone, views, covariances and colour histograms."""

    backbone: Annotated[tuple[str, ...], Range(1)]
    weights: str
    views: Annotated[tuple[str, ...], Range(1)]
    covariance_channels: Count
    colour_spaces: tuple[str, ...]
    histogram_bins: Annotated[int, Range(2, 16)]


@dataclass(frozen=True)
class FusionParams:
    """A classifier head on standardised features."""

    labels: Literal["all", "separate"]
    degree: Annotated[tuple[Annotated[int, Range(1, 8)], ...], Range(1)]
    stacking_penalty: Rate
    landmarks: Positive
    components: Positive
    penalties: Annotated[tuple[Annotated[float, Range(1e-4)], ...], Range(1)]
    refit_on_validation: bool
    clip: Annotated[float, Range(0.1)]
    fine_tune_epochs: Count
    distillation: Annotated[float, Range(0, 1)]
    ensemble_size: Positive
    ensemble_weight: Annotated[float, Range(0.01, 1)]
    learning_rate: LearningRate
    unfreeze: str


@dataclass(frozen=True)
class CnnParams:
    """A plain convolutional network."""

    augmentation: Augmentation
    filters: Annotated[tuple[Positive, ...], Range(1)]
    kernel: Annotated[tuple[Positive, ...], Range(1)]
    padding: Literal["same", "valid"]
    pooling: Annotated[tuple[Literal["max", "average"], ...], Range(1)]
    dense: tuple[Positive, ...]
    dropout: Annotated[float, Range(0, 0.99)]
    output: Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class ResidualParams:
    """A convolutional network of residual blocks."""

    augmentation: Augmentation
    filters: Annotated[tuple[Positive, ...], Range(1)]
    dense: Positive


@dataclass(frozen=True)
class TransferParams:
    """A backbone with a new head: the head is trained first, then the backbone's last layers with it."""

    augmentation: Augmentation
    backbone: str
    weights: str
    dense: tuple[Positive, ...]
    dropout: Annotated[float, Range(0, 0.99)]
    unfreeze: str
    learning_rate: LearningRate


@dataclass(frozen=True)
class ModelParams:
    """The architecture's name, and a section for each architecture."""

    name: Literal["cnn", "residual", "transfer", "fusion"]
    fusion: FusionParams
    cnn: CnnParams
    residual: ResidualParams
    transfer: TransferParams


@dataclass(frozen=True)
class TrainParams:
    """How the classifier is trained."""

    epochs: Positive
    batch_size: Positive
    optimizer: Literal["adam", "adamw"]
    learning_rate: LearningRate
    schedule: Literal["constant", "cosine", "plateau"]
    weight_decay: Rate
    class_weight: Literal["none", "balanced"]
    label_smoothing: Annotated[float, Range(0, 0.99)]
    mixup: Fraction
    patience: Positive
    device: Literal["auto", "cpu", "gpu"]
    strategy: Literal["auto", "one", "mirrored", "multiworker"]
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
    resume: bool
    tensorboard: bool
    coverage: Fraction
    neighbours: Positive
    ood_false_positive_rate: Fraction


@dataclass(frozen=True)
class EvaluateParams:
    """What is reported of the model on the test part, and of possible label errors."""

    top: Positive
    bootstrap_samples: Count
    panels: dict[str, tuple[str, ...]]
    mistakes: Positive
    pairs: Positive
    label_issues: Positive


@dataclass(frozen=True)
class ExplainParams:
    """How many photos are explained, and how closely."""

    photos: Positive
    occlusion: Annotated[int, Range(1, 32)]
    comparison_photos: Positive
    steps: Positive
    smoothgrad_copies: Positive
    vargrad_copies: Annotated[int, Range(2)]
    vargrad_steps: Positive
    noise: Rate
    baseline: Literal["black", "noise"]
    ablation_photos: Count
    hue_shifts: tuple[float, ...]
    blurs: tuple[Annotated[float, Range(0.1, 50)], ...]
    patches: tuple[Annotated[int, Range(2, 32)], ...]


@dataclass(frozen=True)
class ExploreParams:
    """How the features are explored: principal components, clusters and two-dimensional maps."""

    clip: Annotated[float, Range(0.1)]
    variance: Fraction
    clusters: Count
    elbow: Annotated[tuple[Annotated[int, Range(2)], ...], Range(1)]
    neighbours: Annotated[int, Range(2)]
    min_dist: Fraction
    perplexity: Annotated[float, Range(1)]
    thumbnail: Annotated[int, Range(16, 256)]


@dataclass(frozen=True)
class RegisterParams:
    """Under which name a model is registered, and when it becomes champion."""

    name: Annotated[str, RegistryName()]
    rule: Literal["mcnemar", "manual"]
    significance: Fraction


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    base: BaseParams
    crawl: CrawlParams
    clean: CleanParams
    split: SplitParams
    augment: AugmentParams
    embed: EmbedParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    explain: ExplainParams
    explore: ExploreParams
    register: RegisterParams


def load(path: Path) -> Params:
    """Reads and checks a parameter file.

    Args:
        path: a YAML file with every section of `Params`.

    Returns:
        The parameters.

    Raises:
        ParameterError: the file is missing or not YAML, or a key is unknown, missing, ill-typed or out of range.
    """
    return checked(read(path), path.name)


def check_paths(params: Params) -> None:
    """Checks the files and folders that the parameters name, in the working directory, before DVC or a stage does.

    DVC tracks these paths whatever `crawl.source` is, and its own messages do not name the parameter.

    Raises:
        ParameterError: a path is empty, an URL, missing, of the wrong kind, or overlaps with the pipeline's outputs.
    """
    tracked = {
        "crawl.folder": params.crawl.folder,
        "clean.corrections": params.clean.corrections,
        "split.test_list": params.split.test_list,
        "split.hierarchy": params.split.hierarchy,
    }
    for name, text in tracked.items():
        if not text or "://" in text:
            raise ParameterError(f"{name} is {text!r}; it must be a path on this machine")
        path, is_folder = Path(text), name == "crawl.folder"
        if not path.exists():
            remedy = "folder or archive" if is_folder else "file; an empty one will do"
            raise ParameterError(f"{name}: {text}: no such {remedy}")
        if not is_folder and not path.is_file():
            raise ParameterError(f"{name}: {text}: not a file")
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  # as DVC compares them: links are not followed
        for folder in (Path.cwd() / name for name in OUTPUTS):
            if absolute.is_relative_to(folder) or folder.is_relative_to(absolute):
                raise ParameterError(f"{name}: {text}: the pipeline writes to {folder.name}; move it elsewhere")
    for name, weights in (
        ("embed.weights", params.embed.weights),
        ("model.transfer.weights", params.model.transfer.weights),
    ):
        if weights in ("imagenet", "none"):
            continue
        if not Path(weights).is_file():
            raise ParameterError(f"{name}: {weights}: no such file; it must be imagenet, none or a weights file")
        _check_seen_by_dvc(name, Path(weights))
    for name, backbones in (
        ("embed.backbone", params.embed.backbone),
        ("model.transfer.backbone", (params.model.transfer.backbone,)),
    ):
        for path in (Path(split_side(backbone)[0]) for backbone in backbones):
            if path.suffix in BACKBONE_FILES and not path.is_file():
                raise ParameterError(f"{name}: {path}: no such file; put it into {BACKBONES}, and its .yaml beside it")
            is_local = path.suffix in BACKBONE_FILES or (path / "config.json").is_file()
            if is_local:
                _check_seen_by_dvc(name, path)


def _check_seen_by_dvc(name: str, path: Path) -> None:
    if not path.resolve().is_relative_to(Path(BACKBONES).resolve()):
        raise ParameterError(f"{name}: {path}: DVC would not see a change of it; move it into {BACKBONES}")


def split_side(backbone: str) -> tuple[str, int | None]:
    """Returns the name in an entry of `embed.backbone`, such as `efficientnet_lite2@260`, and its side in pixels."""
    match = re.fullmatch(r"(.+)@([1-9][0-9]*)", backbone)
    return (match[1], int(match[2])) if match else (backbone, None)


def read(path: Path) -> Any:
    """Reads a YAML file as DVC does, by the same library and by YAML 1.2, so both see the same values.

    `1E-3` is a number, `010` is ten, `yes` is text. A key that is there twice is an error.

    Raises:
        ParameterError: the file is missing or not YAML, or not UTF-8.
    """
    from ruamel.yaml import YAML  # here, since a registered model imports this module without it
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe").load(files.read_text(path))
    except FileNotFoundError:
        raise ParameterError(f"{path}: no such file; run this from the project's root") from None
    except DataError as error:  # not UTF-8
        raise ParameterError(str(error)) from None
    except MarkedYAMLError as error:
        line = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        if str(error.problem).startswith("found duplicate key"):
            raise ParameterError(f"{line}: {error.problem}; remove one of the two lines") from None
        raise ParameterError(f"{line}: not valid YAML: {error.problem or error.context}") from None
    except (YAMLError, ValueError, KeyError, TypeError) as error:  # such as a date that does not exist, or !!bool maybe
        raise ParameterError(f"{path}: not valid YAML: {str(error)[:200]}".replace("\n", " ")) from None
    except RecursionError:
        raise ParameterError(f"{path}: not valid YAML: too many levels") from None


def checked(values: Any, name: str) -> Params:
    """Checks the contents of a parameter file.

    Args:
        values: the file's contents, as `read` returns them.
        name: the file's name, for messages.

    Raises:
        ParameterError: a key is unknown, missing, ill-typed or out of range.
    """
    return _checked(values, Params, f"{name}: ")


def _shown(value: Any) -> str:
    """Returns a value as Python writes it, of what is long or nested only the beginning."""
    shown = reprlib.Repr()
    shown.maxlevel, shown.maxstring, shown.maxlong, shown.maxother = 2, 40, 40, 40
    return shown.repr(value).replace("\n", " ")


def _checked(value: Any, kind: Any, name: str) -> Any:
    """Returns the value in the annotated type; an error names the value's full key."""
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
        value = _checked(value, kind, name)
        if isinstance(limits, RegistryName):
            return _registry_name(value, limits, name)
        size, unit = (len(value), " entries long") if isinstance(value, tuple) else (value, "")
        if not limits.low <= size <= limits.high:
            upper = "" if limits.high == float("inf") else f" and at most {limits.high}"
            raise ParameterError(f"{name} is {size}{unit}; it must be at least {limits.low}{upper}")
        return value
    if is_dataclass(kind):
        return check_section(value, kind, name)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            new = RENAMED_VALUES.get(str(value))
            new = f"; {value} is now called {new}" if new in get_args(kind) else ""
            new = new or did_you_mean(str(value), map(str, get_args(kind)))
            raise ParameterError(
                f"{name} is {_shown(value)}; it must be one of {', '.join(map(str, get_args(kind)))}{new}"
            )
        return value
    if get_origin(kind) is dict:
        if not isinstance(value, dict) or not all(re.fullmatch(r"[\w-]+", str(key)) for key in value):
            raise ParameterError(f"{name} is {_shown(value)}; it must map names of letters, digits, - and _ to values")
        folded = [str(key).casefold() for key in value]
        if len(set(folded)) < len(folded):
            raise ParameterError(f"{name} has names that differ in capitals only, which some disks take for one")
        return {str(key): _checked(item, get_args(kind)[1], f"{name}.{key}") for key, item in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            return (_checked(value, get_args(kind)[0], name),)
        return tuple(_checked(item, get_args(kind)[0], f"{name}[{i}]") for i, item in enumerate(value))
    if kind is float and type(value) in (int, float):
        if not -sys.float_info.max <= value <= sys.float_info.max:
            raise ParameterError(f"{name} is {_shown(value)}; it must be a finite number")
        return float(value)
    if type(value) is not kind:
        remedy = ""
        if kind is bool and str(value).lower() in YAML_1_1_BOOLEANS:
            remedy = "; write true or false"
        elif kind is str and value is not None and not isinstance(value, list | dict):
            remedy = "; write it in quotes"
        raise ParameterError(f"{name} is {_shown(value)}; it must be of type {kind.__name__}{remedy}")
    return value


def _registry_name(value: str, rule: RegistryName, name: str) -> str:
    if found := sorted({char for char in value if char in rule.forbidden or not char.isprintable()}):
        raise ParameterError(
            f"{name} is {_shown(value)}; MLflow's registry takes no {' '.join(map(repr, found[:9]))}; use letters and "
            "digits"
        )
    if not value.strip(" .") or value != value.strip() or len(value) > rule.max_length:
        raise ParameterError(
            f"{name} is {_shown(value)}; it must be 1 to {rule.max_length} characters, not only dots, without a space "
            "at either end"
        )
    return value


@cache
def _type_hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def check_section(value: Any, kind: Any, name: str) -> Any:
    """Returns a mapping as the dataclass that is its schema.

    Args:
        value: the mapping, as `read` returns it.
        kind: the dataclass.
        name: the section's full name, or a file's name and a colon.

    Raises:
        ParameterError: a key is unknown, missing, ill-typed or out of range.
    """
    prefix = name if name.endswith(": ") else f"{name}."
    if not isinstance(value, dict):
        raise ParameterError(f"{name.rstrip(': ')} is not a section; it must map keys to values")
    hints = _type_hints(kind)
    names = [field.name for field in fields(kind)]
    for key in value:
        if key not in names:
            full = f"{prefix}{key}".rpartition(": ")[2]
            if new := RENAMED.get(full):
                raise ParameterError(f"{prefix}{key} is now called {new}; rename it")
            if reason := REMOVED.get(full):
                raise ParameterError(f"{prefix}{key} does not exist any more: {reason}; remove this line")
            shown = str(key) if str(key).isprintable() and len(str(key)) < 30 else repr(f"{str(key)[:20]}...")
            keys = did_you_mean(shown, names) or f"; those known: {', '.join(names)}"
            raise ParameterError(f"{prefix}{shown} is not a known key{keys}")
    for key in names:
        if key not in value:
            raise ParameterError(f"{prefix}{key} is missing")
    return kind(**{key: _checked(value[key], hints[key], f"{prefix}{key}") for key in names})
