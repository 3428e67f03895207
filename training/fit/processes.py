"""Data-parallel training: the processes of a run that torchrun starts, on one machine or several, a GPU each if there
are any (Li et al., VLDB 2020, arXiv:2006.15704).

    torchrun --standalone --nproc-per-node 2 -m otoscope train --data sounds --recipe own-sounds

A recipe has the same meaning for any number of processes: `optim.batch` windows are divided among them, gradients are
averaged over all of them, and batch normalisation uses the statistics of the whole batch. Every process draws the same
random values and augments the whole batch, so that what is mixed with what does not depend on their number. The first
process, rank 0, measures and writes; the others wait for it. Without torchrun every function here does nothing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from training.errors import RunError

Value = TypeVar("Value")

# torch.distributed.nn.functional is imported before there is a group, which is a default value of its functions.
# DistributedDataParallel imports it later, and then it keeps the group and threads of gloo until the interpreter ends,
# which some processes do with SIGABRT ("terminate called without an active exception", as in pytorch/pytorch#190489).

_WAIT = timedelta(days=7)  # while rank 0 decodes or measures; torchrun ends all processes when one of them fails


def started_by_torchrun() -> bool:
    """Whether this is one of several processes of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[None]:
    """Connect the processes for the time of the block; inside another such block it does nothing. Only rank 0 writes
    to the standard output."""
    if not started_by_torchrun() or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_WAIT)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_first() else nowhere):
            yield
    finally:
        dist.destroy_process_group()


def check_single() -> None:
    """Raise RunError if torchrun started several processes: only a training divides its work."""
    if started_by_torchrun():
        raise RunError("torchrun is for `otoscope train`; everything else runs in one process")


def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that measures and writes."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        dist.all_reduce(torch.zeros(1))


def first_alone(make: Callable[[], Value]) -> Value:
    """The value that `make` returns in every process; the others start after the first one, whose files they find."""
    if not is_first():
        wait()
    made = make()
    if is_first():
        wait()
    return made


def share(batch: Tensor) -> Tensor:
    """The rows of a batch (batch, ...) that belong to this process: (batch / processes, ...)."""
    own = len(batch) // size()
    return batch[rank() * own : (rank() + 1) * own]


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, for each element."""
    if size() > 1:
        dist.all_reduce(values)
        values = values / size()
    return values


def anywhere(*conditions: bool) -> tuple[bool, ...]:
    """Which of the conditions are true in at least one process."""
    if size() > 1:
        flags = torch.tensor(conditions, dtype=torch.uint8)  # on the CPU: no process waits for its GPU
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in flags.tolist())
    return conditions


def of_all(value: Value) -> list[Value]:
    """The values of all processes, by rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def check_batch(batch: int) -> None:
    """Raise RunError unless the processes can have equal shares."""
    if batch % size():
        raise RunError(f"optim.batch is {batch}, which cannot be divided among {size()} processes")


def parallel(network: nn.Module) -> nn.Module:
    """The network whose backward pass averages the gradients of all processes. It starts from the weights of rank 0.
    It has to be made again when other parameters are trained."""
    if size() == 1:
        return network
    # The statistics of batch normalisation are the same everywhere (`whole_batch`) and need no copy before each step.
    return DistributedDataParallel(network, broadcast_buffers=False)


def accumulate(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """For forward and backward pass of one of several batches of a step: gradients are averaged in the last one."""
    if isinstance(network, DistributedDataParallel) and not last:
        waiting: AbstractContextManager[None] = network.no_sync()
        return waiting
    return nullcontext()


def whole_batch() -> AbstractContextManager[object]:
    """In this context batch normalisation uses mean and variance of the whole batch rather than of this process' part.

    torch.nn.SyncBatchNorm does this on GPUs only, and replaces the modules of the network.
    """
    return _WholeBatch() if size() > 1 else nullcontext()


class _WholeBatch(TorchFunctionMode):
    """Replaces the function that every module of batch normalisation calls, those of timm included."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_batch_norm if func is functional.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """torch.nn.functional.batch_norm of a batch (batch, channels, ...) that is divided among the processes."""
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    values = x.float()
    others = [axis for axis in range(x.ndim) if axis != 1]
    count = size() * x.numel() // x.shape[1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean = _Sum.apply(values.sum(others)) / count  # type: ignore[no-untyped-call]  # (channels,)
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(others)) / count  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
    scale = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
    out = centred * scale.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    result: Tensor = out.to(x.dtype)
    return result


class _Sum(torch.autograd.Function):
    """The sum over the processes. Each of them has its part of the loss, so the gradient is a sum over them, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
