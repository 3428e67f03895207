"""A recipe: every hyper-parameter of a training run, in one YAML file, checked before anything starts."""

from collections.abc import Mapping
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

from training.errors import RecipeError
from worker.model import architectures
from worker.model.architectures.resnet import ResNetConfig
from worker.model.architectures.timm_backbone import TimmConfig
from worker.model.base import ArchitectureConfig
from worker.model.checkpoint import ModelConfig
from worker.model.frontend import FrontendConfig, LogMel

BUNDLED = Path(__file__).parent / "recipes"


class StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_ANY_CLASSES = 2  # a recipe does not set the number of classes: the data set does


def _parse_network(value: object) -> ArchitectureConfig:
    """The section `network`: the config of one architecture, named by `type`, without its number of classes."""
    if isinstance(value, Mapping):
        if "classes" in value:
            raise ValueError("the number of classes comes from the data set; leave it out")
        value = {**value, "classes": _ANY_CLASSES}
    return architectures.parse(value)


class TransferRecipe(StrictModel):
    """Transfer learning: where the weights come from, and how fast the network thaws from its head down."""

    weights: str = "random"  # imagenet, or the path of a file of the backbone's weights
    head_epochs: int = Field(default=0, ge=0)  # in which only the head learns; 0: nothing is ever frozen
    thaw_epochs: int = Field(default=1, ge=1)  # between one part of the trunk and the one before it
    lr_decay: float = Field(default=1.0, gt=0, le=1)  # learning rate of a part as a share of that of the part after it


class AugmentRecipe(StrictModel):
    """Applied to waveforms, then to log-mels; every draw is made for each clip on its own."""

    roll: bool = True  # start anywhere in the clip; its end is followed by its beginning
    crop_seconds: float | None = Field(default=None, gt=0)  # cut this much around something audible; None: whole window
    crop_until: float = Field(default=1.0, ge=0, le=1)  # share of the steps with cuts; after it, whole windows
    speed: float = Field(default=1.2, ge=1)  # played up to this many times faster or slower, pitch and all
    stretch: float = Field(default=1.0, ge=1)  # up to this many times longer or shorter, pitch kept
    mix_alpha: float = Field(default=0.4, ge=0)  # Beta(alpha, alpha) ratio of mixing two waveforms; 0: no mixing
    mix_share: float = Field(default=1.0, ge=0, le=1)  # of the clips that are mixed
    noise_db: float | None = Field(default=None, ge=0)  # white noise at least so far below the clip; None: no noise
    gain_db: float = Field(default=6.0, ge=0)  # uniform in ± this
    frequency_masks: int = Field(default=2, ge=0)
    frequency_mask_mels: int = Field(default=24, ge=0)  # widest
    time_masks: int = Field(default=2, ge=0)
    time_mask_frames: int = Field(default=40, ge=0)  # widest


class OptimRecipe(StrictModel):
    """How the weights are found, and which of them are kept."""

    epochs: int = Field(default=60, ge=1)
    batch: int = Field(default=32, ge=2)  # clips a forward pass
    accumulate: int = Field(default=1, ge=1)  # forward passes a step, for batches that do not fit into memory
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["one_cycle", "cosine"] = "cosine"
    max_lr: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.1, gt=0, lt=1)  # share of the steps until max_lr
    final_lr: float = Field(default=1e-3, ge=0, le=1)  # of the last step, as a share of max_lr
    momentum: float = Field(default=0.9, ge=0, lt=1)  # AdamW's first beta; one_cycle moves it by 0.05 against the rate
    weight_decay: float = Field(default=0.02, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    balance: bool = False  # weigh classes in the loss by how rare they are
    clip_norm: float = Field(default=5.0, gt=0)
    average: Literal["ema", "swa", "none"] = "ema"  # which average of the weights is kept
    ema_decay: float = Field(default=0.995, ge=0, lt=1)  # per step
    swa_share: float = Field(default=0.25, gt=0, le=1)  # of the epochs, the last ones, whose ends are averaged
    holdout: float = Field(default=0.0, ge=0, le=0.5)  # share of the recordings to stop by; a val part comes before it
    patience: int = Field(default=0, ge=0)  # epochs without a better held-out loss until the end; 0: all epochs


class DistillRecipe(StrictModel):
    """Learning from other networks' answers besides the labels (Hinton et al., 2015)."""

    weight: float = Field(default=0.0, ge=0, le=1)  # of the teachers' answer in the loss; 0: no teachers
    teacher: str | None = None  # a recipe whose network is trained first, on the same sounds, where none is given
    temperature: float = Field(default=2.0, gt=0)  # softens both answers


class Recipe(StrictModel):
    """One training run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")  # the model's name, too
    seed: int = Field(default=1, ge=0)
    frontend: FrontendConfig = FrontendConfig()  # mean and std are measured on the training clips
    network: Annotated[ArchitectureConfig, BeforeValidator(_parse_network)] = ResNetConfig(classes=_ANY_CLASSES)
    start: TransferRecipe = TransferRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optim: OptimRecipe = OptimRecipe()
    distill: DistillRecipe = DistillRecipe()

    @field_serializer("network")
    def _network_without_classes(self, network: ArchitectureConfig, info: SerializationInfo) -> dict[str, Any]:
        return network.model_dump(mode=info.mode, exclude={"classes"})

    @model_validator(mode="after")
    def _check_consistency(self) -> "Recipe":
        LogMel(self.frontend)  # refuses empty mel rows
        if self.start.weights != "random" and not isinstance(self.network, TimmConfig):
            raise ValueError("start.weights: the residual CNN starts from a model of its own kind, given as --from")
        crop = self.augment.crop_seconds
        if crop and not self.frontend.n_fft / self.frontend.sample_rate < crop <= self.frontend.window_seconds:
            raise ValueError(f"augment.crop_seconds: {crop:g} s do not fit between the FFT and the window")
        return self


def for_fine_tuning(recipe: Recipe, model: ModelConfig) -> Recipe:
    """The recipe with the network and the front end of a model to start from; the window stays the recipe's."""
    window = recipe.frontend.window_seconds
    return recipe.model_copy(
        update={
            "network": model.architecture.with_classes(_ANY_CLASSES),
            "frontend": model.frontend.model_copy(update={"window_seconds": window}),
        }
    )


def load_recipe(name_or_path: str, overrides: dict[str, str] | None = None) -> Recipe:
    """A bundled recipe by name or any YAML file by path, with `optim.epochs=3`-style overrides. Raises RecipeError."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = BUNDLED / f"{name_or_path}.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.yaml")))
        raise RecipeError(f"no recipe {name_or_path}; bundled: {known}; or give the path of a .yaml file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
    for key, value in (overrides or {}).items():
        _override(tree, key, value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(map(_error_text, error.errors()))}") from error


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
    """The resolved recipe, every key written out: `load_recipe` of it gives the same recipe."""
    tree = recipe.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, width=110, default_flow_style=None, allow_unicode=True)


def differences(recipe: Recipe, base: Recipe) -> dict[str, str]:
    """The overrides that make `recipe` out of `base`."""
    ours, theirs = _flatten(recipe.model_dump(mode="json")), _flatten(base.model_dump(mode="json"))
    return {key: _scalar(value) for key, value in ours.items() if value != theirs[key]}


def _scalar(value: object) -> str:
    """As it is written after `--set key=`."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
