"""What the networks of PANNs (Kong et al., 2020, arXiv:1912.10211) have in common around their convolutions."""

from torch import Tensor, nn
from torch.nn import functional

_DROPOUT = 0.5  # before the linear layer


class MelNorm(nn.BatchNorm2d):
    """Batch normalisation of each mel row: (batch, 1, mels, frames) -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = super().forward(x.transpose(1, 2))  # (batch, mels, 1, frames)
        return rows.transpose(1, 2)


class MaxAndMeanPooling(nn.Module):
    """(batch, channels, height, frames) -> embedding (batch, outputs): the mean over the frequencies, maximum and mean
    of that over time, and a rectified linear layer on their sum."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        over_time = x.mean(dim=2)  # (batch, channels, frames)
        pooled = over_time.amax(dim=2) + over_time.mean(dim=2)  # (batch, channels)
        return functional.relu(self.linear(functional.dropout(pooled, _DROPOUT, self.training)))
