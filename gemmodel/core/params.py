"""The parameters of every stage: one frozen dataclass a section of params.yaml.

Each field is checked against its annotation, so an unknown, missing or ill-typed key is refused with its full name.
A single value stands for a list of one.
What the values mean, and why they have their defaults, stands beside them in params.yaml.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from gemmodel.core.errors import ParameterError


@dataclass(frozen=True)
class Range:
    """The closed interval that a number, or the length of a list, must lie in."""

    low: float
    high: float = float("inf")


Seed = Annotated[int, Range(0, 2**31)]  # NumPy takes 32 bits, and some layers add a little
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0)]
LearningRate = Annotated[float, Range(1e-9, 10)]
Augmentation = Literal["none", "disk", "on_the_fly"]


RENAMED = {  # keys and values of version 0.1, and what stands for them now
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
RENAMED_VALUES = {"fly": "on_the_fly", "by_hand": "manual"}


@dataclass(frozen=True)
class BaseParams:
    """What several stages share."""

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
    contact: str


@dataclass(frozen=True)
class CleanParams:
    """Which photos are set aside, and how the others are cropped."""

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
    """How many photos of a class go to training, validation and test."""

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
    """The one definition of augmentation, to disk and on the fly."""

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
    """What is known of a photo before a classifier sees it."""

    backbone: str
    weights: str
    views: Annotated[tuple[str, ...], Range(1)]
    covariance_channels: Count
    colour_spaces: tuple[str, ...]
    histogram_bins: Annotated[int, Range(2, 16)]


@dataclass(frozen=True)
class FusionParams:
    """A head on standardised features."""

    head: Literal["kernel", "softmax"]
    labels: Literal["all", "separate"]
    degree: Annotated[tuple[Annotated[int, Range(1, 8)], ...], Range(1)]
    stacking_penalty: Rate
    components: Positive
    penalties: Annotated[tuple[Annotated[float, Range(1e-6)], ...], Range(1)]
    refit_on_validation: bool
    dropout: Annotated[float, Range(0, 0.99)]
    clip: Rate
    fine_tune_epochs: Count
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
    """A backbone with a new head, which learns first alone, then with the backbone's last layers."""

    augmentation: Augmentation
    backbone: str
    weights: str
    dense: tuple[Positive, ...]
    dropout: Annotated[float, Range(0, 0.99)]
    unfreeze: str
    learning_rate: LearningRate


@dataclass(frozen=True)
class ModelParams:
    """The architecture by name, and each architecture's own section."""

    name: Literal["cnn", "residual", "transfer", "fusion"]
    fusion: FusionParams
    cnn: CnnParams
    residual: ResidualParams
    transfer: TransferParams


@dataclass(frozen=True)
class TrainParams:
    """How the classifier is fitted."""

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
    """What is reported of the model on the test part, and of labels that its kind disputes."""

    top: Positive
    bootstrap_samples: Count
    panels: dict[str, tuple[str, ...]]
    mistakes: Positive
    pairs: Positive
    label_issues: Positive


@dataclass(frozen=True)
class ExplainParams:
    """How much is explained, and how closely."""

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
    """How the features are looked at: principal components, clusters and maps."""

    clip: Rate
    variance: Fraction
    clusters: Count
    elbow: Annotated[tuple[Annotated[int, Range(2)], ...], Range(1)]
    neighbours: Annotated[int, Range(2)]
    min_dist: Fraction
    perplexity: Annotated[float, Range(1)]
    thumbnail: Annotated[int, Range(16, 256)]


@dataclass(frozen=True)
class RegisterParams:
    """Under which name the model is registered, and when it is champion."""

    name: str
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
        ParameterError: the file is missing or no YAML, or a key is unknown, missing, ill-typed or out of range.
    """
    return checked(read(path), path.name)


def read(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        ParameterError: it is missing or no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"{path}: no such file; run this from the project's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from None


def checked(values: Any, name: str) -> Params:
    """Checks what a parameter file holds; the name is of that file, for messages.

    Raises:
        ParameterError: a key is unknown, missing, ill-typed or out of range.
    """
    return _checked(values, Params, f"{name}: ")


def _checked(value: Any, kind: Any, name: str) -> Any:
    """Returns the value as the annotation wants it, or refuses it by its full name."""
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
        value = _checked(value, kind, name)
        size, unit = (len(value), " entries long") if isinstance(value, tuple) else (value, "")
        if not limits.low <= size <= limits.high:
            upper = "" if limits.high == float("inf") else f" and at most {limits.high}"
            raise ParameterError(f"{name} is {size}{unit}; it must be at least {limits.low}{upper}")
        return value
    if is_dataclass(kind):
        return _section(value, kind, name)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            new = RENAMED_VALUES.get(str(value))
            new = f"; {value} is called {new} now" if new in get_args(kind) else ""
            raise ParameterError(f"{name} is {value!r}; it must be one of {', '.join(map(str, get_args(kind)))}{new}")
        return value
    if get_origin(kind) is dict:
        if not isinstance(value, dict) or not all(re.fullmatch(r"[\w-]+", str(key)) for key in value):
            raise ParameterError(f"{name} is {value!r}; it must map names of letters, digits, - and _ to values")
        return {str(key): _checked(item, get_args(kind)[1], f"{name}.{key}") for key, item in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            return (_checked(value, get_args(kind)[0], name),)
        return tuple(_checked(item, get_args(kind)[0], f"{name}[{place}]") for place, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    if kind is float and isinstance(value, str) and "e" in value:
        with suppress(ValueError):  # 1e-05, as DVC writes it, is text to YAML 1.1
            return float(value)
    if type(value) is not kind:
        raise ParameterError(f"{name} is {value!r}; it must be of type {kind.__name__}")
    return value


def _section(value: Any, kind: Any, name: str) -> Any:
    prefix = name if name.endswith(": ") else f"{name}."
    if not isinstance(value, dict):
        raise ParameterError(f"{name.rstrip(': ')} holds no section; it must map keys to values")
    hints = get_type_hints(kind, include_extras=True)
    known = [field.name for field in fields(kind)]
    for key in value:
        if key not in known:
            if new := RENAMED.get(f"{prefix}{key}".rpartition(": ")[2]):
                raise ParameterError(f"{prefix}{key} is called {new} now; rename it")
            raise ParameterError(f"{prefix}{key} is not a known key; known here: {', '.join(known)}")
    for key in known:
        if key not in value:
            raise ParameterError(f"{prefix}{key} is missing")
    return kind(**{key: _checked(value[key], hints[key], f"{prefix}{key}") for key in known})
