"""A recipe: every hyper-parameter of a training run, in one YAML file, checked before anything starts."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.model.architecture import ArchitectureConfig
from worker.model.frontend import FrontendConfig

BUNDLED = Path(__file__).parent / "recipes"


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkRecipe(Strict):
    """The architecture without its number of classes, which the data decides."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    squeeze_excitation: bool = False
    feature_pyramid: bool = False
    head: tuple[int, ...] = ()
    dropout: tuple[float, ...] = (0.5,)

    def architecture(self, classes: int) -> ArchitectureConfig:
        return ArchitectureConfig(classes=classes, **self.model_dump())


class AugmentRecipe(Strict):
    """Applied to waveforms, then to log-mels; every draw is made for each clip on its own."""

    roll: bool = True  # rotate the clip in time by any amount
    speed: float = Field(1.2, ge=1)  # played up to this many times faster or slower, pitch and all; with `roll`
    gain_db: float = Field(6.0, ge=0)  # uniform in ± this
    mix_alpha: float = Field(0.4, ge=0)  # Beta(alpha, alpha) ratio of mixing two waveforms; 0 turns mixing off
    frequency_masks: int = Field(2, ge=0)
    frequency_mask_mels: int = Field(24, ge=0)  # widest
    time_masks: int = Field(2, ge=0)
    time_mask_frames: int = Field(40, ge=0)  # widest


class OptimRecipe(Strict):
    """AdamW under a one-cycle schedule."""

    epochs: int = Field(60, ge=1)
    batch: int = Field(32, ge=2)
    max_lr: float = Field(1e-3, gt=0)
    warmup: float = Field(0.1, gt=0, lt=1)  # share of the steps until max_lr
    weight_decay: float = Field(0.02, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)  # average of weights, per step; it is what is saved
    clip_norm: float = Field(5.0, gt=0)


class Recipe(Strict):
    """One training run."""

    name: str
    seed: int = 1
    frontend: FrontendConfig = FrontendConfig()  # mean and std are measured on the training clips
    network: NetworkRecipe = NetworkRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optim: OptimRecipe = OptimRecipe()


class RecipeError(Exception):
    """A recipe that cannot be used; the message says where and why."""


def load_recipe(name_or_path: str, overrides: dict[str, str] | None = None) -> Recipe:
    """A bundled recipe by name or any YAML file by path, with `optim.epochs=3`-style overrides. Raises RecipeError."""
    path = Path(name_or_path)
    if not path.suffix:
        path = BUNDLED / f"{name_or_path}.yaml"
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.yaml")))
        raise RecipeError(f"no recipe {path}; bundled ones: {known}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: {error}") from error
    for key, value in (overrides or {}).items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = yaml.safe_load(value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {error}") from error
