"""The model directory: `models/<name>/{config.json, model.safetensors, README.md}`.

config.json has everything needed to rebuild the network and its front end, what the network was trained on, and its
accuracy. The weights are safetensors (https://github.com/huggingface/safetensors), so that loading never executes code
from a file: matrices in float16, vectors (biases, normalisation) in float32, since they are small and a variance may
not fit into float16.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from otoscope.results import CONTRACT_VERSION
from otoscope.types import Accuracy
from shared.config.models_dir import models_dir
from worker.model import architectures
from worker.model.answers import AnswerConfig
from worker.model.architectures import build_network
from worker.model.base import ArchitectureConfig, Network
from worker.model.frontend import FrontendConfig, LogMel
from worker.model.open_set import OPEN_SET, OpenSetScorer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class ModelConfig(BaseModel):
    """config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    contract_version: int = CONTRACT_VERSION
    name: str = Field(pattern=_NAME)
    description: str = ""
    architecture: Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(architectures.parse)]
    frontend: FrontendConfig
    classes: tuple[str, ...]
    multi_label: bool = False  # a sigmoid for each class: several at once, or none; otherwise a softmax over all
    parents: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # what a class is a kind of, and so on upwards
    temperature: float = Field(default=1.0, gt=0)  # divides the logits: calibration, arXiv:1706.04599
    answers: AnswerConfig = AnswerConfig()
    int8_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)  # see worker/model/fake_quant.py
    licence: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict)  # the resolved recipe and the data set
    weights_sha256: str = ""
    open_set_sha256: str = ""  # of the file with the open-set scorer; empty for a model without one

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if len(self.classes) != self.architecture.classes:
            raise ValueError(f"{len(self.classes)} class names for {self.architecture.classes} outputs")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        if self.contract_version > CONTRACT_VERSION:
            raise ValueError(f"written for contract {self.contract_version}; this version supports {CONTRACT_VERSION}")
        return self


class ModelError(Exception):
    """A model directory cannot be loaded; the message has the directory and the reason."""


@dataclass(frozen=True)
class Model:
    """A network with its front end and config, in evaluation mode: waveforms in, logits out."""

    config: ModelConfig
    frontend: LogMel
    network: Network
    open_set: OpenSetScorer | None = None  # scores whether a sound is of one of the classes at all
    directory: Path | None = None  # from which it was loaded

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (..., classes) -> calibrated probabilities (..., classes); of a multi-label model, each on its own."""
        calibrated = logits / self.config.temperature
        return calibrated.sigmoid() if self.config.multi_label else calibrated.softmax(dim=-1)


def save_model(directory: Path, network: nn.Module, config: ModelConfig) -> ModelConfig:
    """Write a model directory: the weights first, the config with their checksum last.

    Each file gets its name only when it is complete. Returns the config as written. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (tensor.half() if tensor.ndim > 1 else tensor.float()).contiguous().cpu()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    partial = directory / (WEIGHTS + ".partial")
    partial.write_bytes(save(weights))  # `save_file` makes a file that other users cannot read
    config = config.model_copy(update={"weights_sha256": _sha256(partial)})
    os.replace(partial, directory / WEIGHTS)
    write_config(directory, config)
    return config


def model_name(directory: Path) -> str:
    """The name for the config of a model in this directory: that of the directory, or what a name may have of it."""
    name = directory.resolve().name
    if re.fullmatch(_NAME, name):
        return name
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:64] or "model"


def write_config(directory: Path, config: ModelConfig) -> None:
    """Replace config.json atomically. Raises OSError."""
    partial = directory / (CONFIG + ".partial")
    partial.write_text(config.model_dump_json(indent=2) + "\n")
    os.replace(partial, directory / CONFIG)


def read_config(directory: Path) -> ModelConfig:
    """Raises ModelError."""
    try:
        return ModelConfig.model_validate_json((directory / CONFIG).read_bytes())
    except OSError as error:
        if directory.is_dir():
            raise ModelError(f"{directory} has no readable {CONFIG}") from error
        raise ModelError(f"{directory} {_absent(directory)}") from error
    except ValidationError as error:
        raise ModelError(f"{directory / CONFIG}: {error}") from error


def _absent(directory: Path) -> str:
    """What is wrong with the path of a directory, for a message, and which models there are beside it."""
    folder = directory.parent if len(directory.parts) > 1 else models_dir()
    known = ", ".join(sorted(path.parent.name for path in folder.glob(f"[!.]*/{CONFIG}")))
    wrong = "is no directory" if directory.exists() else "does not exist"
    return f"{wrong}; the models in {folder} are {known}" if known else wrong


def load_model(directory: Path, device: torch.device | str = "cpu") -> Model:
    """Rebuild a model in float32 on `device`, in evaluation mode. Raises ModelError."""
    config = read_config(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{directory} has no {WEIGHTS}")
    if config.weights_sha256 and _sha256(path) != config.weights_sha256:
        raise ModelError(f"{path} does not match {CONFIG}: its checksum differs")
    try:
        weights = {name: tensor.float() for name, tensor in load_file(path).items()}
        expected = empty_network(config.architecture).state_dict()
        _check_fit(path, {name: tensor.shape for name, tensor in expected.items()}, weights)
        network, frontend = build_network(config.architecture), LogMel(config.frontend)
        network.load_state_dict(weights, strict=False)
    except ModelError:
        raise
    except Exception as error:  # safetensors and torch each have their own types
        raise ModelError(f"{directory}: {error}") from error
    network.eval().requires_grad_(False)
    open_set = load_open_set(directory, config)
    scorer = None if open_set is None else open_set.to(device)
    return Model(config, frontend.to(device), network.to(device), scorer, directory)


def save_open_set(directory: Path, scorer: OpenSetScorer, config: ModelConfig) -> ModelConfig:
    """Write the scorer beside the weights, and the config with its checksum. Returns the config. Raises OSError."""
    partial = directory / (OPEN_SET + ".partial")
    partial.write_bytes(save({name: tensor.float().contiguous().cpu() for name, tensor in scorer.state_dict().items()}))
    config = config.model_copy(update={"open_set_sha256": _sha256(partial)})
    os.replace(partial, directory / OPEN_SET)
    write_config(directory, config)
    return config


def load_open_set(directory: Path, config: ModelConfig) -> OpenSetScorer | None:
    """The scorer of a model in float32, in evaluation mode; None if the model has none. Raises ModelError."""
    if not config.open_set_sha256:
        return None
    path = directory / OPEN_SET
    if not path.is_file():
        raise ModelError(f"{directory} has no {OPEN_SET}")
    if _sha256(path) != config.open_set_sha256:
        raise ModelError(f"{path} does not match {CONFIG}: its checksum differs")
    try:
        weights = load_file(path)
        weights.setdefault("class_means", torch.zeros(0, len(weights["mean"])))  # earlier versions had none
        scorer = OpenSetScorer(len(weights["mean"]), len(weights["detector.1.bias"]), len(weights["class_means"]))
        scorer.load_state_dict(weights)
    except Exception as error:  # safetensors and torch each have their own types
        raise ModelError(f"{path}: {error}") from error
    scorer.eval().requires_grad_(False)
    return scorer


def empty_network(config: ArchitectureConfig) -> Network:
    """The network without values of its weights: it needs no memory, whatever the sizes in the config."""
    with torch.device("meta"), _WithoutInitialisation():
        return build_network(config)


class _WithoutInitialisation(TorchFunctionMode):
    """Skips random initial values: for meta tensors, which have no values, torch would import its compiler to do so."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _check_fit(path: Path, expected: dict[str, torch.Size], weights: dict[str, Tensor]) -> None:
    """Raises ModelError."""
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    missing, unexpected = sorted(required - set(weights)), sorted(set(weights) - set(expected))
    mismatched = [name for name in sorted(set(expected) & set(weights)) if expected[name] != weights[name].shape]
    if missing or unexpected or mismatched:
        raise ModelError(
            f"{path} does not fit its config: missing {missing[:3]}, unexpected {unexpected[:3]}, of another shape"
            f" {mismatched[:3]}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
