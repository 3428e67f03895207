"""Muon for the kernels of convolutions, AdamW for all other parameters."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, optim

from training.recipe import OptimRecipe
from worker.model.precision import native_bf16

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that each iteration applies to the singular values
_ITERATIONS = 5
_LEAST_NORM = 1e-7


class Muon(optim.Optimizer):
    """Muon on each kernel as a matrix (channels out, channels in * area).

    A step of Muon (https://kellerjordan.github.io/posts/muon/) is the momentum with all its singular values set to
    about one. It is scaled to the magnitude of a step of AdamW (arXiv:2502.16982), so that both take the same learning
    rate and weight decay. Kernels of a single input channel, of the first layer and of depthwise convolutions, are no
    matrices between features, and left to AdamW, and so are the linear layers.

    `groups` are parameter groups with `weight_decay`; a schedule sets their `lr` and `betas`. The steps are those of
    `torch.optim.Muon`, which always multiplies in bfloat16 (https://github.com/pytorch/pytorch/pull/160213).
    """

    def __init__(self, groups: list[dict[str, Any]], recipe: OptimRecipe) -> None:
        super().__init__(groups, {"lr": recipe.max_lr, "betas": (recipe.momentum, recipe.beta2)})
        others = [
            {"params": [p for p in group["params"] if not _is_kernel(p)], "weight_decay": group["weight_decay"]}
            for group in self.param_groups
        ]
        self._adamw = optim.AdamW(others, fused=True)
        kernels = [p for group in self.param_groups for p in group["params"] if _is_kernel(p)]
        self._momenta = {kernel: torch.zeros_like(_matrix(kernel.detach(), kernel)) for kernel in kernels}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Without `closure`: the loss is not evaluated again."""
        if closure is not None:
            raise ValueError("this optimizer evaluates no closure")
        for group, others in zip(self.param_groups, self._adamw.param_groups, strict=True):
            others["lr"], others["betas"] = group["lr"], group["betas"]
            for kernel in group["params"]:
                if kernel in self._momenta and kernel.grad is not None:
                    self._step_kernel(kernel, kernel.grad, group["lr"], group["weight_decay"])
        self._adamw.step()

    def _step_kernel(self, kernel: nn.Parameter, gradient: Tensor, lr: float, weight_decay: float) -> None:
        matrix, gradient, momentum = _matrix(kernel, kernel), _matrix(gradient, kernel), self._momenta[kernel]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        step = _orthogonal(gradient.lerp(momentum, _MOMENTUM))  # Nesterov's momentum
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(step, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, except what a schedule sets."""
        return {"momenta": list(self._momenta.values()), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for momentum, stored in zip(self._momenta.values(), state_dict["momenta"], strict=True):
            momentum.copy_(stored)
        self._adamw.load_state_dict(state_dict["adamw"])


def _orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with all its singular values set to about one, by Newton-Schulz iterations.

    In bfloat16 only where the device multiplies that natively: a kernel of 512 × 512 × 3 × 3 took 12 s on a CPU that
    does not.
    """
    tall = len(matrix) > matrix.shape[1]
    native = native_bf16(matrix.device)
    x = matrix.bfloat16() if native else matrix
    x = x.T if tall else x
    x = x / x.norm().clamp_min(_LEAST_NORM)
    x = _iterated(x) if native else _iterated_by_gram(x)
    return x.T if tall else x


def _iterated(x: Tensor) -> Tensor:
    """The iterations on a wide matrix (rows, columns) whose singular values are at most one."""
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterated_by_gram(x: Tensor) -> Tensor:
    """The same with small matrices (rows, rows), in half of the time: each iteration multiplies x from the left with a
    polynomial of x xᵀ. That needs float32: in bfloat16 the small singular values are lost."""
    a, b, c = _COEFFICIENTS
    gram = x @ x.T
    product = torch.eye(len(x), device=x.device)
    for _ in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x


def _is_kernel(parameter: Tensor) -> bool:
    return parameter.ndim > 2 and parameter.shape[1] > 1


def _matrix(tensor: Tensor, kernel: Tensor) -> Tensor:
    """A kernel (channels out, channels in, ...) or its gradient as a matrix, with the columns in the order of the
    kernel's memory: which order does not matter to Muon, and the matrix of the kernel must share its memory."""
    if not kernel.is_contiguous():  # the channels are last
        tensor = tensor.movedim(1, -1)
    return tensor.reshape(len(tensor), -1)
