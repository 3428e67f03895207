"""Networks side by side (`type: parallel`): each computes an embedding from the same spectrogram, and one head
classifies all of them together.

Networks that were trained on different recordings, or see a sound differently, make different errors, and one linear
layer on their embeddings side by side can be the mean of what each has learned (`otoscope models join`). They share
a spectrogram, but for the mean and the standard deviation by which it is normalised, or each has its own of those that
the front end stacks.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from worker.model import architectures
from worker.model.architectures import build_network, register
from worker.model.base import (
    ActivationHook,
    ArchitectureConfig,
    Need,
    Network,
    Node,
    make_head,
    need_of,
    no_hook,
    receptive_field,
)

Part = Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(architectures.parse)]
PartName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
SPECTROGRAM = "spectrogram"
"""Name of the layer in front of the others of a part, of the spectrogram of its own."""


class Rows(BaseModel):
    """Where a part's spectrogram is among those that the front end stacks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=0)
    count: int = Field(ge=1)
    every: int = Field(default=1, ge=1)  # every how many frames: the others are copies

    def of(self, stacked: Tensor) -> Tensor:
        """(batch, 1, rows, frames) -> (batch, 1, mels, frames), a view."""
        return stacked[:, :, self.first : self.first + self.count, :: self.every]


class ParallelConfig(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["parallel"] = "parallel"
    parts: dict[PartName, Part] = Field(min_length=2)
    """Name -> network without its head, in the order of computation; a layer is called `<name>.<layer>`."""
    inputs: dict[PartName, tuple[float, float]] = {}
    """Name -> (a, b) of parts that were trained on log-mels of another mean and standard deviation than those of the
    model's front end: their input is a · x + b."""

    spectrograms: dict[PartName, Rows] = {}
    """Name -> the part's spectrogram, for all parts of a front end that stacks several. Layers of one that is not the
    first follow a layer `<name>.spectrogram`, and their receptive fields are on it."""

    @model_validator(mode="before")
    @classmethod
    def _of_parts(cls, value: Any) -> Any:
        """The parts have no heads of their own: what configures those is that of the whole."""
        if not isinstance(value, dict) or not isinstance(value.get("parts"), dict):
            return value
        shared = {"classes": value.get("classes"), "head": (), "dropout": (0.0,)}

        def without_head(part: Any) -> Any:
            values = part.model_dump() if isinstance(part, ArchitectureConfig) else part
            return {**values, **shared} if isinstance(values, Mapping) else values

        return {**value, "parts": {name: without_head(part) for name, part in value["parts"].items()}}

    @model_validator(mode="after")
    def _inputs_of_parts(self) -> "ParallelConfig":
        if unknown := self.inputs.keys() - self.parts.keys():
            raise ValueError(f"inputs of {', '.join(sorted(unknown))}, which is none of the parts")
        if self.spectrograms and self.spectrograms.keys() != self.parts.keys():
            raise ValueError("spectrograms are for all of the parts, or for none")
        return self

    def has_own(self, part: str) -> bool:
        """Whether a part's spectrogram is not the first one."""
        return part in self.spectrograms and self.spectrograms[part].first > 0

    @property
    def title(self) -> str:
        return " and ".join(part.title for part in self.parts.values())

    @property
    def summary(self) -> str:
        return "; ".join(part.summary for part in self.parts.values())


@register(ParallelConfig)
class Parallel(Network):
    """Takes as many frames as the most demanding of its parts."""

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleDict()
        pooled = 0
        for name, part in config.parts.items():
            network = build_network(part)
            pooled += next(each for each in network.head if isinstance(each, nn.Linear)).in_features
            network.head = nn.Sequential()  # its output is the embedding
            self.parts[name] = network
        self.head = make_head(pooled, config)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        embeddings = []
        for name, network in self._named_parts():
            expanded = {block.removeprefix(f"{name}.") for block in expanded_blocks if block.startswith(f"{name}.")}
            own = self._input_of(name, x)
            if hook is not None and self.config.has_own(name):
                hook(f"{name}.{SPECTROGRAM}", own)
            embeddings.append(network(own, _PartHook(name, hook) if hook is not None else None, expanded))
        embedding = torch.cat(embeddings, dim=1)  # (batch, features of all parts)
        (hook or no_hook)("embedding", embedding)
        logits: Tensor = self.head(embedding)
        return logits

    def structure(self) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for name, network in self._named_parts():
            source: tuple[str, ...] = ()
            if self.config.has_own(name):
                source = (f"{name}.{SPECTROGRAM}",)
                nodes[source[0]] = Node("input", (), receptive_field(()))
            for layer, node in network.structure().items():
                inputs = tuple(f"{name}.{before}" for before in node.inputs) or source
                nodes[f"{name}.{layer}"] = replace(node, inputs=inputs)
        return nodes

    def pool(self, levels: list[Tensor]) -> Tensor:
        pooled = []
        for _, network in self._named_parts():
            count = len(network.pooled_layers)
            pooled.append(network.pool(levels[:count]))
            levels = levels[count:]
        return torch.cat(pooled, dim=1)

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return tuple(f"{name}.{layer}" for name, network in self._named_parts() for layer in network.pooled_layers)

    @property
    def last_stages(self) -> dict[str, slice]:
        """One of each part, also of parts that are side by side themselves."""
        stages: dict[str, slice] = {}
        for name, network in self._named_parts():
            of = self.config.spectrograms.get(name)
            for layer, rows in network.last_stages.items():
                stages[f"{name}.{layer}"] = rows if of is None else slice(of.first, of.first + of.count)
        return stages

    def trunk(self) -> list[nn.Module]:
        """The last stages of all parts are trained first, then those before them."""
        from_the_end = zip_longest(*(reversed(network.trunk()) for _, network in self._named_parts()))
        stages = [nn.ModuleList(stage for stage in stages if stage is not None) for stages in from_the_end]
        return list(reversed(stages))

    def _input_of(self, name: str, x: Tensor) -> Tensor:
        if name in self.config.spectrograms:
            x = self.config.spectrograms[name].of(x)
        if name not in self.config.inputs:
            return x
        factor, summand = self.config.inputs[name]
        return x * factor + summand

    def _named_parts(self) -> list[tuple[str, Network]]:
        return [(name, cast(Network, network)) for name, network in self.parts.items()]


class _PartHook:
    """A hook for a part: its layers have its name before theirs, and its embedding is reported with those of others."""

    def __init__(self, name: str, hook: ActivationHook) -> None:
        self._name, self._hook = name, hook

    def __call__(self, layer: str, activation: Tensor) -> None:
        if layer != "embedding":
            self._hook(f"{self._name}.{layer}", activation)

    def need(self, layer: str) -> Need:
        return need_of(self._hook, f"{self._name}.{layer}")
