"""Trains one network by a recipe: read `train` from top to bottom.

The weights saved are the running average after the last epoch; no clip of the test fold is looked at before that, so
the test fold can choose nothing. Every epoch seeds its own draws and the state is kept after each, which makes a
resumed run equal to an unbroken one: bit for bit on a CPU with the same number of threads.
"""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.augment import augment_waveforms, mask_spectrograms
from training.dataset import Dataset, load_waveforms
from training.errors import DatasetError, RunError
from training.recipe import OptimRecipe, Recipe, to_yaml
from worker.model.architecture import ResidualCNN, parameters
from worker.model.checkpoint import CONFIG, ModelConfig, read_config, save_model
from worker.model.frontend import LogMel
from worker.model.precision import autocast, pick_device

STATE, RECIPE = "train_state.pt", "recipe.yaml"


def train(recipe: Recipe, dataset: Dataset, test_fold: int, out: Path, *, resume: bool = False) -> ModelConfig:
    """Train on every fold but `test_fold` and write a model directory to `out`. Returns its config.

    The state is kept in `out` after every epoch; `resume` goes on from it. Raises RunError and DatasetError.
    """
    device, optim, rate = pick_device(), recipe.optim, recipe.frontend.sample_rate
    clips, _ = dataset.split(test_fold)
    steps = len(clips) // optim.batch  # an epoch; the few clips left over are others in every epoch
    if not steps:
        raise RunError(f"{len(clips)} training clips do not fill a batch of {optim.batch}: lower optim.batch")
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "test_fold": test_fold,
        "data": {"name": dataset.origin.name, "clips": len(clips), "classes": list(dataset.classes)},
    }
    state = _open_run(out, identity, resume)
    if state and state["epoch"] == optim.total_epochs and (out / CONFIG).is_file():
        return read_config(out)  # finished before
    (out / RECIPE).write_text(to_yaml(recipe), encoding="utf-8")

    waves, labels = load_waveforms(clips, rate, recipe.frontend.window_samples)
    targets = functional.one_hot(labels, len(dataset.classes)).float()  # (clips, classes)
    frontend_config = recipe.frontend.model_copy(update=_statistics(LogMel(recipe.frontend), waves))
    frontend = LogMel(frontend_config).to(device)

    torch.manual_seed(recipe.seed)
    network = ResidualCNN(recipe.network.architecture(len(dataset.classes))).to(device)
    # oneDNN's bfloat16 backward pass crashes the process on channels-last stems narrower than 16 (torch 2.13).
    layout = torch.channels_last if recipe.network.widths[0] >= 16 else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    ema_step = get_ema_multi_avg_fn(optim.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=ema_step, use_buffers=True)
    adam = torch.optim.AdamW(_groups(network, optim.weight_decay), lr=optim.max_lr, betas=(0.9, 0.99), fused=True)

    losses: list[float] = []  # mean of each epoch
    if state:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        adam.load_state_dict(state["adam"])
        losses = state["losses"]

    tqdm.write(f"{parameters(network):,} parameters, {len(clips)} clips, {steps} steps an epoch, {device}")
    epochs = tqdm(
        range(len(losses) + 1, optim.total_epochs + 1),
        initial=len(losses), total=optim.total_epochs, desc="train", unit="epoch",
    )  # fmt: skip
    for epoch in epochs:
        generator = Generator().manual_seed(recipe.seed * 10_000 + epoch)
        torch.manual_seed(recipe.seed * 10_000 + epoch)  # dropout
        network.train()
        order = torch.randperm(len(clips), generator=generator)
        total = torch.zeros((), device=device)
        for step in tqdm(range(steps), desc=f"epoch {epoch}", unit="step", leave=False):
            rate_now = learning_rate((epoch - 1) * steps + step, steps, optim)
            for group in adam.param_groups:
                group["lr"] = rate_now

            rows = order[step * optim.batch : (step + 1) * optim.batch]
            batch, target = augment_waveforms(waves[rows], targets[rows], rate, recipe.augment, generator)
            features = mask_spectrograms(frontend(batch.to(device)), recipe.augment, generator)
            with autocast(device):
                logits = network(features.contiguous(memory_format=layout))  # (batch, classes)
            loss = functional.cross_entropy(logits.float(), target.to(device), label_smoothing=optim.label_smoothing)

            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
            adam.step()
            average.update_parameters(network)
            total += loss.detach()

        losses.append(total.item() / steps)
        if not math.isfinite(losses[-1]):
            raise RunError(f"the loss of epoch {epoch} is not finite: try a lower optim.max_lr in another folder")
        epochs.set_postfix(loss=f"{losses[-1]:.3f}", lr=f"{rate_now:.1e}")
        state = {
            "identity": identity,
            "epoch": epoch,
            "losses": losses,
            "network": network.state_dict(),
            "average": average.state_dict(),
            "adam": adam.state_dict(),
        }
        _save_state(out, state)

    config = ModelConfig(
        name=recipe.name,
        description=describe(dataset),
        architecture=network.config,
        frontend=frontend_config,
        classes=dataset.classes,
        licence=dataset.origin.licence,
        training=identity,
    )
    return save_model(out, average.module, config)


def describe(dataset: Dataset) -> str:
    """One line for the card of a model trained on these sounds."""
    return f"Residual CNN for {len(dataset.classes)} classes of sound, trained from scratch on {dataset.origin.name}"


def learning_rate(step: int, steps: int, optim: OptimRecipe) -> float:
    """At a step of a run with so many steps an epoch. Each cycle (Smith & Topin, 2018) rises linearly from a
    twenty-fifth of its peak and falls as a cosine to a thousandth."""
    for cycle in optim.cycles:
        length = cycle.epochs * steps
        if step < length:
            break
        step -= length
    rise = max(1, round(length * optim.warmup))
    if step < rise:
        return cycle.max_lr * (0.04 + 0.96 * step / rise)
    done = (step - rise) / max(1, length - rise)
    return cycle.max_lr * (1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * done)))


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices alone: biases and normalisation are left free."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _statistics(frontend: LogMel, waves: Tensor) -> dict[str, float]:
    """Mean and deviation, in dB, over the training clips. Raises DatasetError when there is nothing to hear."""
    total = square = 0.0
    count = 0
    for start in tqdm(range(0, len(waves), 100), desc="statistics", unit="batch", leave=False):
        decibels = frontend.decibels(waves[start : start + 100]).double()  # (100, 1, mels, frames)
        total += decibels.sum().item()
        square += decibels.square().sum().item()
        count += decibels.numel()
    mean = total / count
    deviation = math.sqrt(max(square / count - mean**2, 0.0))
    if deviation < 1e-3:
        raise DatasetError("the training clips are all silent")
    return {"mean": round(mean, 4), "std": round(deviation, 4)}


def _open_run(out: Path, identity: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """The state to go on from, or None for a new run in a folder that holds none. Raises RunError."""
    path = out / STATE
    if not resume:
        if path.exists() or (out / CONFIG).exists():
            raise RunError(f"{out} already holds a run: resume it or choose another folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{out} cannot be created: {error}") from error
        return None
    if not path.is_file():
        raise RunError(f"{out} holds no run to resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise RunError(f"{path} cannot be read: {error}") from error
    if state.get("identity") != identity:
        raise RunError(f"{out} was started with another recipe, fold or data: give the same ones to resume it")
    return state


def _save_state(out: Path, state: dict[str, Any]) -> None:
    partial = out / (STATE + ".partial")
    torch.save(state, partial)
    os.replace(partial, out / STATE)
