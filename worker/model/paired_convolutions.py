"""Stages of two 3×3 convolutions each, as in CNN9 and CNN14 (Kong et al., arXiv:1808.00773 and arXiv:1912.10211)."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from worker.model.base import ActivationHook, Node, receptive_field


class PairedConvolutions(nn.ModuleList):
    """Each stage has twice as many channels as the one before, and each but the last one ends with `pooling` of 2×2
    cells. Every convolution is followed by batch normalisation and ReLU."""

    def __init__(self, stages: int, width: int, pooling: type[nn.AvgPool2d | nn.MaxPool2d]) -> None:
        super().__init__()
        self.outputs = 1  # channels of the last stage
        for stage in range(stages):
            inputs, self.outputs = self.outputs, width * 2**stage
            pooled = [pooling(2)] if stage < stages - 1 else []
            blocks = _convolution(inputs, self.outputs), _convolution(self.outputs, self.outputs, *pooled)
            self.append(nn.ModuleList(blocks))

    def forward(self, x: Tensor, report: ActivationHook, *, dropout: float = 0.0) -> Tensor:
        """(batch, 1, mels, columns) -> (batch, channels, rows, columns); each axis is halved by every stage but the
        last one. `dropout` is that behind each stage."""
        for number, blocks in enumerate(self, start=1):
            for index, block in enumerate(cast(nn.ModuleList, blocks), start=1):
                x = block(x)
                report(f"layer{number}.block{index}", x)
            report(f"layer{number}", x)
            if dropout:
                x = functional.dropout(x, dropout, self.training)
        return x

    def structure(self, pooled_frames: int = 1) -> dict[str, Node]:
        """As `Network.structure`; a column is the mean of `pooled_frames` frames of the spectrogram."""
        nodes: dict[str, Node] = {}
        path: list[tuple[int, int, int]] = []
        before: tuple[str, ...] = ()
        for stage in range(1, len(self) + 1):
            for block in (1, 2):
                pool = 2 if block == 2 and stage < len(self) else 1
                path += [(3, 1, 1), (pool, pool, 0)]
                field = receptive_field(path).model_copy(update={"pooled_frames": pooled_frames})
                name = f"layer{stage}.block{block}"
                nodes[name] = Node("plain", before, field)
                before = (name,)
            nodes[f"layer{stage}"] = Node("stage", before, field)
            before = (f"layer{stage}",)
        return nodes


def _convolution(inputs: int, outputs: int, *pooling: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), *pooling)
