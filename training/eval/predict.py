"""Waveforms -> logits of a network in evaluation mode: for evaluation, for the held-out clips, for calibration."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from worker.model.frontend import LogMel
from worker.model.precision import native_bf16, pick_device

Precision = Literal["float32", "bfloat16", "int8"]
"""Of the network's arithmetic; `int8` is float32 between numbers that were rounded as 8 bits would hold them."""


def service_precision() -> Precision:
    """What a worker on this machine would compute in."""
    return "bfloat16" if native_bf16(pick_device()) else "float32"


@torch.inference_mode()
def predict(
    frontend: LogMel, network: nn.Module, waves: Tensor, precision: Precision, *, views: int = 1, batch: int = 32,
    title: str = "predict",
) -> Tensor:  # fmt: skip
    """Waveforms (clips, samples) -> logits (views, clips, classes) in float32, on the CPU.

    View k is the clip rotated in time by k / views of its length: several looks at the same sound, the first of which
    is the sound as it is. Each costs a forward pass.
    """
    device = frontend.window.device
    training = network.training
    network.eval()
    views_logits: list[Tensor] = []
    starts = range(0, len(waves), batch)
    with tqdm(total=views * len(starts), desc=title, unit="batch", leave=False) as bar:
        for view in range(views):
            shift = -round(view * waves.shape[1] / views)
            rows: list[Tensor] = []
            for start in starts:
                part = waves[start : start + batch].to(device)
                features = frontend(part.roll(shift, dims=1) if shift else part)  # (batch, 1, mels, frames)
                with _precision_context(device, precision):
                    logits = network(features.contiguous(memory_format=torch.channels_last))  # (batch, classes)
                rows.append(logits.float().cpu())
                bar.update()
            views_logits.append(torch.cat(rows))
    network.train(training)
    return torch.stack(views_logits)


@contextmanager
def _precision_context(device: torch.device, precision: Precision) -> Iterator[None]:
    if precision == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
        return
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # on a GPU they would round to TF32
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
