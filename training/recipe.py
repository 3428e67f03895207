"""A recipe: all hyper-parameters of a training run in one YAML file, validated before the run starts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    model_validator,
)

from training.errors import RecipeError, cause
from worker.model import architectures
from worker.model.architectures.resnet import ResNetConfig
from worker.model.architectures.timm_backbone import TimmConfig
from worker.model.base import ArchitectureConfig
from worker.model.checkpoint import ModelConfig
from worker.model.frontend import FrontendConfig, LogMel
from worker.model.precision import TrainingPrecision

BUNDLED = Path(__file__).parent / "recipes"
LEVEL_DBFS = -20.0
"""The level of the loudest 0.1 s of a window where a recipe sets none. Chosen for a network that was trained without a
level, on fold 4 of ESC-50, by the log loss of clips as they are: -26, -23, -17 and -14 dBFS are worse."""


class StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_ANY_CLASSES = 2  # a placeholder: the number of classes comes from the data set, not from the recipe


def _parse_network(value: object) -> ArchitectureConfig:
    """Parse the section `network`: the config of one architecture, named by `type`, without the number of classes."""
    if isinstance(value, Mapping):
        if "classes" in value:
            raise ValueError("the number of classes comes from the data set; leave it out")
        value = {**value, "classes": _ANY_CLASSES}
    return architectures.parse(value)


class TransferRecipe(StrictModel):
    """Transfer learning: the source of the initial weights, and gradual unfreezing from the head down (ULMFiT,
    arXiv:1801.06146)."""

    weights: str = "random"  # random, imagenet, or the path of a file with backbone weights
    grow: bool = False  # the network of the recipe starts as the function of a smaller one, given with --from
    probe: bool = False  # the head starts as a logistic regression on the embeddings of the training windows
    head_epochs: int = Field(default=0, ge=0)  # epochs that train the head alone; 0: nothing is frozen
    thaw_epochs: int = Field(default=1, ge=1)  # epochs between unfreezing one stage of the trunk and the stage below it
    lr_decay: float = Field(default=1.0, gt=0, le=1)  # learning rate of a stage relative to the stage above it


class AugmentRecipe(StrictModel):
    """Data augmentation of waveforms, then of log-mels. All random values are drawn independently for each clip."""

    roll: bool = True  # circular shift in time by a random amount
    crop_seconds: float | None = Field(default=None, gt=0)  # random crop with an audible moment; None: whole window
    crop_until: float = Field(default=1.0, ge=0, le=1)  # fraction of the steps that use crops; whole windows afterwards
    speed: float = Field(default=1.2, ge=1)  # speed perturbation up to this factor, faster or slower; changes the pitch
    stretch: float = Field(default=1.0, ge=1)  # time stretching up to this factor; keeps the pitch
    mix_alpha: float = Field(default=0.4, ge=0)  # ratio of mixing two waveforms, from Beta(alpha, alpha); 0: off
    mix_batches: float = Field(default=1.0, ge=0, le=1)  # fraction of the batches in which clips are mixed
    mix_share: float = Field(default=1.0, ge=0, le=1)  # fraction of the clips of these batches that are mixed
    cut_time_share: float = Field(default=0.0, ge=0, le=1)  # fraction of the clips with a part in time of another clip
    cut_band_share: float = Field(default=0.0, ge=0, le=1)  # fraction of the clips with a band of mels of another clip
    noise_db: float | None = Field(default=None, ge=0)  # lowest signal-to-noise ratio of added noise; None: off
    noise_share: float = Field(default=1.0, ge=0, le=1)  # fraction of the clips to which noise is added
    noise_slope: float = Field(default=0.0, ge=0, le=3)  # largest a of a 1/f^a spectrum: 0 white, 1 pink, 2 brown
    equaliser_db: float = Field(default=0.0, ge=0)  # gain over frequency, a smooth random curve within ± this; 0: off
    band_share: float = Field(default=0.0, ge=0, le=1)  # fraction of the clips that are limited to a random band
    extra: tuple[str, ...] = ()  # registered augmentations of waveforms, after mixing
    gain_db: float = Field(default=6.0, ge=0)  # random gain, uniform in ± this
    frequency_masks: int = Field(default=2, ge=0)
    frequency_mask_mels: int = Field(default=24, ge=0)  # maximum width
    time_masks: int = Field(default=2, ge=0)
    time_mask_frames: int = Field(default=40, ge=0)  # maximum width


class SegmentRecipe(StrictModel):
    """How the recordings of a custom data set are cut into training windows of `frontend.window_seconds`."""

    overlap: float = Field(default=0.0, ge=0, lt=1)  # share of a window that the next one has, too
    silence_dbfs: float = Field(default=-60.0, ge=-200, le=0)  # a window that is never louder is left out as silent,
    # unless 0.1 s of it is 12 dB above the noise floor of its recording, as in the service


class OptimRecipe(StrictModel):
    """Optimizer, schedule, regularisation, and which weights are kept."""

    epochs: int = Field(default=60, ge=1)
    batch: int = Field(default=32, ge=2)  # windows per forward pass
    accumulate: int = Field(default=1, ge=1)  # gradient accumulation: forward passes per optimizer step
    loss: str = "cross_entropy"  # or a registered one (`training/fit/parts.py`); several classes: binary_cross_entropy
    precision: TrainingPrecision = "auto"  # of forward and backward pass; bfloat16 is mixed precision
    optimizer: str = "adamw"  # or muon, sgd, or a registered one
    schedule: Literal["one_cycle", "cosine"] = "cosine"
    max_lr: float = Field(default=1e-3, gt=0)
    initial_lr: float = Field(default=0.04, gt=0, le=1)  # learning rate of one_cycle's first step, relative to max_lr
    warmup: float = Field(default=0.1, gt=0, lt=1)  # fraction of the steps until max_lr is reached
    final_lr: float = Field(default=1e-3, ge=0, le=1)  # learning rate of the last step, relative to max_lr
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of SGD; beta1 of AdamW (also beside Muon)
    momentum_swing: float = Field(default=0.05, ge=0, lt=0.5)  # of one_cycle, against the learning rate
    beta2: float = Field(default=0.99, ge=0, lt=1)  # of AdamW
    weight_decay: float = Field(default=0.02, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    balance: bool = False  # weight classes in the loss by inverse frequency
    balanced_sampling: bool = False  # instead of that: draw windows so that all classes occur equally often
    clip_norm: float = Field(default=5.0, gt=0)
    average: Literal["ema", "swa", "none"] = "ema"  # which average of the weights is saved
    ema_decay: float = Field(default=0.995, ge=0, lt=1)  # per step
    swa_share: float = Field(default=0.25, gt=0, le=1)  # fraction of the epochs, the last ones, that SWA averages
    holdout: float = Field(default=0.0, ge=0, le=0.5)  # fraction of recordings for validation, without a val set
    patience: int = Field(default=0, ge=0)  # early stopping: epochs without a lower validation loss; 0: off

    @model_validator(mode="after")
    def _balance_once(self) -> "OptimRecipe":
        if self.balance and self.balanced_sampling:
            raise ValueError("balance and balanced_sampling both make up for rare classes: set one of them")
        return self


class DistillRecipe(StrictModel):
    """Knowledge distillation from one or more teachers (Hinton et al., arXiv:1503.02531)."""

    weight: float = Field(default=0.0, ge=0, le=1)  # weight of the distillation loss; 0: no teachers
    teacher: str | None = None  # recipe of a teacher that is trained first if no --teacher is given
    temperature: float = Field(default=2.0, gt=0)  # softmax temperature of student and teacher


class OpenSetRecipe(StrictModel):
    """The open-set scorer, which is fitted after the training (`training/fit/open_set.py`)."""

    background: int = Field(default=1_400, ge=0)  # synthesised sounds; 0: the model has no scorer
    steps: int = Field(default=800, ge=1)  # of the optimizer


REPEAT_PAUSE = 0.25
"""Seconds of silence between the repetitions of a short sound. Chosen on folds 1 and 2 of ESC-50, on clips of which
only the loudest 0.3 to 2 s were left (docs/answers.md)."""

_EARLIER = {"level_dbfs": None, "repeat_pause": None}  # of recipes that were stored before these existed
_DEFAULTS = {"level_dbfs": LEVEL_DBFS, "repeat_pause": REPEAT_PAUSE}


def _with_defaults(frontend: object) -> object:
    """The front end of a recipe has a level and repeats short sounds unless it sets another value, or null."""
    return {**_DEFAULTS, **frontend} if isinstance(frontend, Mapping) else frontend


class Recipe(StrictModel):
    """All hyper-parameters of one training run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")  # also the name of the model
    seed: int = Field(default=1, ge=0)
    # mean and std are computed from the training clips
    frontend: Annotated[FrontendConfig, BeforeValidator(_with_defaults)] = FrontendConfig.model_validate(_DEFAULTS)
    network: Annotated[ArchitectureConfig, BeforeValidator(_parse_network)] = ResNetConfig(classes=_ANY_CLASSES)
    start: TransferRecipe = TransferRecipe()
    segments: SegmentRecipe = SegmentRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optim: OptimRecipe = OptimRecipe()
    distill: DistillRecipe = DistillRecipe()
    open_set: OpenSetRecipe = OpenSetRecipe()

    @field_serializer("network")
    def _network_without_classes(self, network: ArchitectureConfig, info: SerializationInfo) -> dict[str, Any]:
        return network.model_dump(mode=info.mode, exclude={"classes"})

    @model_validator(mode="after")
    def _check_consistency(self) -> "Recipe":
        LogMel(self.frontend)  # raises ValueError for mel filters without any FFT bin
        if self.start.weights != "random" and not isinstance(self.network, TimmConfig):
            raise ValueError(
                "start.weights: only timm backbones load ImageNet or backbone weights; give a pretrained model of this"
                " architecture with --from"
            )
        crop = self.augment.crop_seconds
        if crop and not self.frontend.n_fft / self.frontend.sample_rate < crop <= self.frontend.window_seconds:
            raise ValueError(f"augment.crop_seconds: {crop:g} s is not between the FFT length and the window length")
        return self


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, such as `{"optim.epochs": 3}`. Raises RecipeError."""
    tree = recipe.model_dump(mode="json")
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.get(parent, {})
            if not isinstance(node, dict):
                raise RecipeError(f"{key}: {parent} is a value, not a group of keys")
        if leaf not in node:
            raise RecipeError(f"unknown key {key}")
        node[leaf] = value
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError("; ".join(map(_error_text, error.errors()))) from error


def for_fine_tuning(recipe: Recipe, model: ModelConfig) -> Recipe:
    """Return the recipe with the architecture and the front end of a pretrained model; the window length stays that of
    the recipe, and so do how short sounds fill it, the level if the pretrained model has none, and what an architecture
    lets a recipe choose. One that grows the pretrained model keeps its own architecture."""
    own, level = recipe.frontend, model.frontend.level_dbfs
    kept = {"repeat_pause": own.repeat_pause, "level_dbfs": own.level_dbfs if level is None else level}
    network = model.architecture.with_classes(_ANY_CLASSES).fine_tuned_as(recipe.network)
    return recipe.model_copy(
        update={
            "network": recipe.network if recipe.start.grow else network,
            "frontend": model.frontend.changed(window_seconds=own.window_seconds).model_copy(update=kept),
        }
    )


def check_overrides(recipe: Recipe, fine_tuned: Recipe, keys: Iterable[str]) -> None:
    """Raise RecipeError for what has no effect because of a pretrained model: an override that `for_fine_tuning` has
    replaced, and other initial weights."""
    wanted, used = recipe.model_dump(mode="json"), fine_tuned.model_dump(mode="json")
    if recipe.start.weights != "random":
        raise RecipeError(
            f"--from and start.weights={recipe.start.weights} are both initial weights: with --set start.weights=random"
            " those of --from are used"
        )
    for key in keys:
        if _at(wanted, key) != _at(used, key):
            raise RecipeError(
                f"{key} cannot be set with --from: it is {_at(used, key)!r} in the pretrained model, whose network and"
                " front end are used; of the front end only the window length and repeat_pause are the recipe's"
            )


def _at(tree: dict[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def load_recipe(name_or_path: str, overrides: dict[str, str] | None = None) -> Recipe:
    """Load a bundled recipe by name, or any YAML file by path, with overrides such as `{"optim.epochs": "3"}`.

    Raises RecipeError.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = BUNDLED / f"{name_or_path}.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.yaml")))
        raise RecipeError(f"no recipe {name_or_path}; bundled: {known}; or give the path of a .yaml file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {cause(error)}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping of keys to values")
    for key, value in (overrides or {}).items():
        _override(tree, key, value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(map(_error_text, error.errors()))}") from error


def parse_changes(changes: Iterable[str]) -> dict[str, str]:
    """The overrides of `--set KEY=VALUE`. Raises RecipeError."""
    overrides: dict[str, str] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set: {change!r} is not KEY=VALUE")
        overrides[key.strip()] = value
    return overrides


def parse_stored(tree: object) -> Recipe:
    """The recipe in the config of a model or in a checkpoint, as it was used. Raises ValidationError.

    Those that were stored before front ends had a level or repeated short sounds were used without.
    """
    if isinstance(tree, Mapping) and isinstance(tree.get("frontend"), Mapping):
        tree = {**tree, "frontend": {**_EARLIER, **tree["frontend"]}}
    return Recipe.model_validate(tree)


def _override(tree: dict[str, Any], key: str, value: str) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise RecipeError(f"{key}: {parent} is a value, not a group of keys")
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{key}={value}: not a YAML value") from error


def _error_text(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def to_yaml(recipe: Recipe) -> str:
    """Serialise the recipe with every key written out; `load_recipe` restores an equal recipe from it."""
    tree = recipe.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, width=110, default_flow_style=None, allow_unicode=True)


def differences(recipe: Recipe, base: Recipe) -> dict[str, str]:
    """The overrides that turn `base` into `recipe`: key to YAML value, as for `--set`. Networks of two types have
    different keys."""
    values, base_values = flatten(recipe.model_dump(mode="json")), flatten(base.model_dump(mode="json"))
    return {key: _scalar(value) for key, value in values.items() if key not in base_values or value != base_values[key]}


def _scalar(value: object) -> str:
    """Format a value as it is written after `--set key=`."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim": {"epochs": 3}}` as `{"optim.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
