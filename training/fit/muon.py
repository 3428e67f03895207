"""Muon for the kernels of convolutions, AdamW for all other parameters."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn, optim

from training.recipe import OptimRecipe


class Muon(optim.Optimizer):
    """`torch.optim.Muon`, which takes matrices only, on each kernel as a matrix (channels out, channels in * area).

    A step of Muon (https://kellerjordan.github.io/posts/muon/) is the momentum with all its singular values set to
    about one. It is scaled to the magnitude of a step of AdamW (arXiv:2502.16982), so that both take the same learning
    rate and weight decay. Kernels of a single input channel, of the first layer and of depthwise convolutions, are no
    matrices between features, and left to AdamW, and so are the linear layers.

    `groups` are parameter groups with `weight_decay`; a schedule sets their `lr` and `betas`.
    """

    def __init__(self, groups: list[dict[str, Any]], recipe: OptimRecipe) -> None:
        super().__init__(groups, {"lr": recipe.max_lr, "betas": (recipe.momentum, recipe.beta2)})
        self._kernels: list[tuple[Tensor, nn.Parameter]] = []  # and the same memory as a matrix
        matrices, others = [], []
        for group in self.param_groups:
            kernels = [(p, nn.Parameter(_matrix(p.detach(), p))) for p in group["params"] if _is_kernel(p)]
            self._kernels += kernels
            matrices.append({"params": [matrix for _, matrix in kernels], "weight_decay": group["weight_decay"]})
            rest = [p for p in group["params"] if not _is_kernel(p)]
            others.append({"params": rest, "weight_decay": group["weight_decay"]})
        self._muon = optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
        self._adamw = optim.AdamW(others, fused=True)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Without `closure`: the loss is not evaluated again."""
        if closure is not None:
            raise ValueError("this optimizer evaluates no closure")
        for group, matrices, others in zip(
            self.param_groups, self._muon.param_groups, self._adamw.param_groups, strict=True
        ):
            matrices["lr"] = others["lr"] = group["lr"]
            others["betas"] = group["betas"]
        for kernel, matrix in self._kernels:
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad, kernel)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, except what a schedule sets."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])


def _is_kernel(parameter: Tensor) -> bool:
    return parameter.ndim > 2 and parameter.shape[1] > 1


def _matrix(tensor: Tensor, kernel: Tensor) -> Tensor:
    """A kernel (channels out, channels in, ...) or its gradient as a matrix, with the columns in the order of the
    kernel's memory: which order does not matter to Muon, and the matrix of the kernel must share its memory."""
    if not kernel.is_contiguous():  # the channels are last
        tensor = tensor.movedim(1, -1)
    return tensor.reshape(len(tensor), -1)
