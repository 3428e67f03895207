"""Waveforms -> logits in evaluation mode, common to evaluation, validation and calibration."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from training.data.windows import Windows
from training.progress import progress_bar
from worker.model.base import Network
from worker.model.frontend import LogMel
from worker.model.precision import native_bf16, pick_device

Precision = Literal["float32", "bfloat16", "int8"]
"""Arithmetic of the network; `int8` simulates 8 bits by fake quantisation in float32."""


def service_precision() -> Precision:
    """The precision that a worker on this machine uses."""
    return "bfloat16" if native_bf16(pick_device()) else "float32"


@torch.inference_mode()
def predict(
    frontend: LogMel, network: nn.Module, waves: Windows, precision: Precision, *, views: int = 1, batch: int = 32,
    title: str = "predict",
) -> Tensor:  # fmt: skip
    """Waveforms (clips, samples) -> logits (views, clips, classes) as float32 on the CPU.

    Test-time augmentation: view k is the clip shifted circularly by k / `views` of its length, and view 0 is the clip
    itself. Each view costs a forward pass.
    """
    return _forward(frontend, network, waves, precision, views, batch, title, None)


@torch.no_grad()  # not inference_mode: the detector is trained on the embeddings
def predict_with_embeddings(
    frontend: LogMel, network: Network, waves: Windows, precision: Precision = "float32", *, views: int = 1,
    batch: int = 32, title: str = "predict",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `predict`, and the embeddings (clips, features) of view 0, float32 on the CPU."""
    embeddings: list[Tensor] = []
    logits = _forward(frontend, network, waves, precision, views, batch, title, embeddings)
    return logits, torch.cat(embeddings)


def _forward(
    frontend: LogMel, network: nn.Module, waves: Windows, precision: Precision, views: int, batch: int, title: str,
    embeddings: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    """Logits (views, clips, classes); the embeddings of view 0, batch by batch, are appended to the list."""
    device = frontend.window.device
    training = network.training
    network.eval()
    views_logits: list[Tensor] = []
    starts = range(0, len(waves), batch)

    def record(name: str, activation: Tensor) -> None:
        if name == "embedding" and embeddings is not None:
            embeddings.append(activation.float().cpu())

    with progress_bar(total=views * len(starts), desc=title, unit="batch") as bar:
        for view in range(views):
            shift = -round(view * waves.shape[1] / views)
            observed = (record,) if embeddings is not None and not view else ()
            rows: list[Tensor] = []
            for start in starts:
                part = waves[start : start + batch].to(device)
                features = frontend(part.roll(shift, dims=1) if shift else part)  # (batch, 1, mels, frames)
                with _precision_context(device, precision):
                    logits = network(features.contiguous(memory_format=torch.channels_last), *observed)
                rows.append(logits.float().cpu())  # (batch, classes)
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
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # otherwise TF32 on GPUs
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
