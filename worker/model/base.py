"""What every network offers, whatever its architecture: logits, activations for a hook, the structure of its layers."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from otoscope.types import LayerKind, ReceptiveField

ActivationHook = Callable[[str, Tensor], None]
"""Called with (layer name, activation of shape (batch, channels, height, width)) in the order of computation, and last
with ("embedding", (batch, channels)). It must not modify the activation. A hook may have a method `need`, see
`need_of`."""

Need = Literal["channels", "mean", "nothing"]

BLOCK_PARTS = ("residual", "shortcut")
"""Extra activations of an expanded block: `<block>.residual`, which is added, and `<block>.shortcut`, to which it is
added."""


class ArchitectureConfig(BaseModel):
    """Everything needed to build a network except its weights. Each architecture has a subclass that fixes `type`;
    `worker.model.architectures` finds it by that name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    classes: int = Field(ge=2)
    head: tuple[PositiveInt, ...] = ()  # hidden widths between pooling and the last linear layer
    dropout: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.5,)  # one before each linear layer of the head

    def model_post_init(self, _context: object) -> None:
        if len(self.dropout) != len(self.head) + 1:
            raise ValueError(f"a head of {len(self.head) + 1} linear layers needs as many dropouts: {self.dropout}")

    def with_classes(self, classes: int) -> Self:
        """The same network for another number of classes. Raises ValueError for fewer than two."""
        return self.model_validate({**self.model_dump(), "classes": classes})

    def fine_tuned_as(self, wanted: "ArchitectureConfig") -> "ArchitectureConfig":
        """This network with what another config of its type may change without other weights; by default nothing."""
        return self

    @property
    def title(self) -> str:
        """The name of the architecture, for the description of a model."""
        return self.type

    @property
    def summary(self) -> str:
        """The architecture and its size in one line, for the README of a model."""
        return self.title


@dataclass(frozen=True)
class Node:
    """A layer's place in the network."""

    kind: LayerKind
    inputs: tuple[str, ...]  # the layers that feed it; empty if the spectrogram does
    receptive_field: ReceptiveField  # in cells of the spectrogram


class Network(nn.Module):
    """(batch, 1, mels, frames), normalised -> logits (batch, classes).

    There is one `forward`, with and without a `hook`, which is called with each named activation; without a hook no
    activation is kept. For each block named in `expanded_blocks` the hook also gets its BLOCK_PARTS.
    """

    head: nn.Sequential  # from the pooled activations to the logits

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        raise NotImplementedError

    def structure(self) -> dict[str, Node]:
        """Layer name to its place, in the order of computation; empty if the network does not describe its layers."""
        return {}

    def pool(self, levels: list[Tensor]) -> Tensor:
        """The activations of `pooled_layers`, (batch, width, height, frames) each -> (batch, pooled)."""
        raise NotImplementedError

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        """Names of the layers that `pool` takes, in the order of computation."""
        raise NotImplementedError

    @property
    def last_stages(self) -> dict[str, slice]:
        """Those of `pooled_layers` that class activation is computed from, with the rows of the input they are of."""
        return {self.pooled_layers[-1]: slice(None)}

    def classified(self, levels: list[Tensor], report: ActivationHook) -> Tensor:
        """The activations that `pool` takes -> logits (batch, classes)."""
        embedding = self.pool(levels)
        report("embedding", embedding)
        logits: Tensor = self.head(embedding)
        return logits

    def trunk(self) -> list[nn.Module]:
        """The parts before the head, from input to output: gradual unfreezing starts at the end of this list."""
        raise NotImplementedError


def make_head(pooled: int, config: ArchitectureConfig) -> nn.Sequential:
    """(batch, pooled) -> logits (batch, classes): linear layers, each after its own dropout."""
    layers: list[nn.Module] = []
    for width, probability in zip(config.head, config.dropout, strict=False):
        layers += [nn.Dropout(probability), nn.Linear(pooled, width), nn.ReLU()]
        pooled = width
    return nn.Sequential(*layers, nn.Dropout(config.dropout[-1]), nn.Linear(pooled, config.classes))


def receptive_field(path: Iterable[tuple[int, int, int]]) -> ReceptiveField:
    """The inputs that one output depends on, through sliding windows of (size, stride, padding), first to last."""
    size, step, start = 1, 1, 0  # step: distance between neighbouring outputs, in inputs
    for kernel, stride, padding in path:
        start -= padding * step
        size += (kernel - 1) * step
        step *= stride
    return ReceptiveField(start=start, stride=step, size=size)


def no_hook(_name: str, _activation: Tensor) -> None:
    """An activation hook that does nothing."""


def need_of(hook: ActivationHook, name: str) -> Need:
    """What a hook uses of an activation. A network that has to rearrange its activations for a hook may report only the
    mean over the channels (batch, 1, height, width), or not call the hook, where that suffices."""
    need: Callable[[str], Need] | None = getattr(hook, "need", None)
    return need(name) if need else "channels"


def parameters(network: nn.Module) -> int:
    """Number of parameters, including frozen ones."""
    return sum(p.numel() for p in network.parameters())
