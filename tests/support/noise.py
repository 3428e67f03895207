"""Random weights of layers, under the names that PyTorch gives them."""

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


class Noise:
    """Always the same weights, of which activations stay in range."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def layer(self, name: str, *shape: int, bias: bool = True) -> State:
        """A convolution or a linear layer."""
        fan_in = int(np.prod(shape[1:]))
        weights = {f"{name}.weight": self(*shape) * (2 / fan_in) ** 0.5}
        return {**weights, f"{name}.bias": self(shape[0]) * 0.1} if bias else weights

    def norm(self, name: str, channels: int) -> State:
        """Batch normalisation."""
        return {
            f"{name}.weight": self(channels) * 0.1 + 1,
            f"{name}.bias": self(channels) * 0.1,
            f"{name}.running_mean": self(channels) * 0.1,
            f"{name}.running_var": self(channels).square() * 0.1 + 1,
            f"{name}.num_batches_tracked": torch.tensor(600_000),
        }
