"""What every network can be asked for, whatever it is made of: an answer, a look inside, its parts from end to end."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from otoscope.types import LayerKind, ReceptiveField

ActivationHook = Callable[[str, Tensor], None]
"""Called with (layer name, activation of shape (batch, channels, height, width)) in the order of computation, and last
with ("embedding", (batch, channels)). It looks and must not write."""

INSIDE = ("residual", "shortcut")
"""What an expanded_blocks block shows besides: `<block>.residual`, what it adds, and `<block>.shortcut`, to what."""


@dataclass(frozen=True)
class Node:
    """A layer's place in the network."""

    kind: LayerKind
    inputs: tuple[str, ...]  # the layers that feed it; none where the spectrogram does
    receptive_field: ReceptiveField  # of the spectrogram


class Network(nn.Module):
    """(batch, 1, mels, frames), normalised -> logits (batch, classes).

    There is one `forward`: whoever wants to look inside passes a `tap`, which is shown each named activation as it
    passes; without one nothing is kept. Of the blocks named in `expanded_blocks` it is shown what INSIDE says as well.
    """

    head: nn.Sequential  # from the pooled activations to the logits

    def forward(self, x: Tensor, tap: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        raise NotImplementedError

    def structure(self) -> dict[str, Node]:
        """Layer name to its place, in the order of computation; empty where the network does not know its inside."""
        return {}

    def pool(self, levels: list[Tensor]) -> Tensor:
        """The activations of `pooled_layers`, (batch, width, height, frames) each -> (batch, pooled)."""
        raise NotImplementedError

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        """Names of the layers that `pool` takes, in the order of computation."""
        raise NotImplementedError

    def trunk(self) -> list[nn.Module]:
        """The parts before the head, from input to output: what transfer learning thaws from its end."""
        raise NotImplementedError


def make_head(pooled: int, hidden: tuple[int, ...], dropout: tuple[float, ...], classes: int) -> nn.Sequential:
    """Linear layers, each behind its own dropout."""
    layers: list[nn.Module] = []
    for width, share in zip(hidden, dropout, strict=False):
        layers += [nn.Dropout(share), nn.Linear(pooled, width), nn.ReLU()]
        pooled = width
    return nn.Sequential(*layers, nn.Dropout(dropout[-1]), nn.Linear(pooled, classes))


def receptive_field(path: Iterable[tuple[int, int, int]]) -> ReceptiveField:
    """What one output can see through windows of (size, stride, padding), first to last."""
    seen, step, start = 1, 1, 0  # the step is the distance between neighbouring outputs, counted in inputs
    for size, stride, padding in path:
        start -= padding * step
        seen += (size - 1) * step
        step *= stride
    return ReceptiveField(start=start, stride=step, size=seen)


def ignore(_name: str, _activation: Tensor) -> None:
    """The tap of somebody who does not look."""


def parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones too."""
    return sum(p.numel() for p in network.parameters())
