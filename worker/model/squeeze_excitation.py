"""Squeeze-and-excitation (Hu et al., 2018, arXiv:1709.01507)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcitation(nn.Module):
    """Channel gates computed from the clip's own channel means."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3))  # (batch, channels)
        gates = torch.sigmoid(self.up(functional.relu(self.down(means))))
        return x * gates[:, :, None, None]
