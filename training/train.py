"""Trains one network by a recipe: read `train` from top to bottom.

The weights saved are the running average after the last epoch; no clip of the test fold is looked at before that, so
the test fold can choose nothing. Every epoch seeds its own draws, which makes a resumed run equal to an unbroken one.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.augment import augment_waveforms, mask_spectrograms
from training.dataset import Dataset, load_waveforms
from training.recipe import Recipe
from worker.model.architecture import ResidualCNN, parameters
from worker.model.checkpoint import ModelConfig, save_model
from worker.model.frontend import LogMel

STATE = "train_state.pt"


@dataclass(frozen=True)
class Progress:
    """What one epoch did, for bars and logs."""

    epoch: int
    loss: float
    learning_rate: float


class RunMismatch(Exception):
    """`--resume` was asked of a run that was started with another recipe or fold."""


def train(recipe: Recipe, dataset: Dataset, test_fold: int, out: Path, *, resume: bool = False) -> ModelConfig:
    """Train on every fold but `test_fold` and write a model directory to `out`. Returns its config.

    The state is kept in `out` after every epoch; `resume` goes on from it. Raises RunMismatch.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    optim = recipe.optim
    classes = len(dataset.classes)
    waves, labels = load_waveforms(
        dataset.without(test_fold), recipe.frontend.sample_rate, recipe.frontend.window_samples
    )

    frontend_config = recipe.frontend.model_copy(update=_statistics(LogMel(recipe.frontend), waves))
    frontend = LogMel(frontend_config).to(device)
    torch.manual_seed(recipe.seed)
    network = ResidualCNN(recipe.network.architecture(classes)).to(device, memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(optim.ema_decay), use_buffers=True)

    steps = len(waves) // optim.batch
    adam = torch.optim.AdamW(_groups(network, optim.weight_decay), lr=optim.max_lr, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, _OneCycle(optim.epochs * steps, optim.warmup))

    out.mkdir(parents=True, exist_ok=True)
    identity = {"recipe": recipe.model_dump(mode="json"), "test_fold": test_fold}
    first = 1
    if resume and (out / STATE).is_file():
        state = torch.load(out / STATE, map_location=device, weights_only=True)
        if state["identity"] != identity:
            raise RunMismatch(f"{out} was trained with another recipe or fold; choose another folder or do not resume")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        adam.load_state_dict(state["adam"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"] + 1

    tqdm.write(
        f"{parameters(network):,} parameters, {len(waves)} clips, {steps} steps an epoch,"
        f" {device}, epochs {first}–{optim.epochs}"
    )
    bar = tqdm(range(first, optim.epochs + 1), initial=first - 1, total=optim.epochs, desc="train", unit="epoch")
    for epoch in bar:
        generator = Generator().manual_seed(recipe.seed * 10_000 + epoch)
        torch.manual_seed(recipe.seed * 10_000 + epoch)  # dropout
        network.train()
        order = torch.randperm(len(waves), generator=generator)
        total = 0.0
        for step in tqdm(range(steps), desc=f"epoch {epoch}", unit="step", leave=False):
            rows = order[step * optim.batch : (step + 1) * optim.batch]
            target = functional.one_hot(labels[rows], classes).float()
            batch, target = augment_waveforms(waves[rows], target, recipe.augment, generator)
            features = mask_spectrograms(frontend(batch.to(device)).cpu(), recipe.augment, generator).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(features.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(
                logits.float(), target.to(device), label_smoothing=optim.label_smoothing
            )
            adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
            adam.step()
            schedule.step()
            average.update_parameters(network)
            total += loss.item()
        done = Progress(epoch, total / steps, schedule.get_last_lr()[0])
        bar.set_postfix(loss=f"{done.loss:.3f}", lr=f"{done.learning_rate:.1e}")
        _save_state(
            out,
            {
                "identity": identity,
                "epoch": epoch,
                "network": network.state_dict(),
                "average": average.state_dict(),
                "adam": adam.state_dict(),
                "schedule": schedule.state_dict(),
            },
        )

    config = ModelConfig(
        name=recipe.name,
        architecture=network.config,
        frontend=frontend_config,
        classes=dataset.classes,
        training=identity,
    )
    return save_model(out, average.module, config)


def _statistics(frontend: LogMel, waves: Tensor) -> dict[str, float]:
    """Mean and deviation, in dB, over the training clips."""
    total = square = 0.0
    count = 0
    for chunk in tqdm(waves.split(100), desc="statistics", unit="batch", leave=False):
        decibels = frontend.decibels(chunk).double()
        total += decibels.sum().item()
        square += decibels.square().sum().item()
        count += decibels.numel()
    mean = total / count
    return {"mean": round(mean, 4), "std": round(math.sqrt(square / count - mean**2), 4)}


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices alone: biases and normalisation are left free."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class _OneCycle:
    """Factor on the peak rate: a linear rise, then a cosine fall to a thousandth (Smith & Topin, 2018)."""

    def __init__(self, steps: int, warmup: float) -> None:
        self.steps, self.rise = steps, max(1, round(steps * warmup))

    def __call__(self, step: int) -> float:
        if step < self.rise:
            return 0.04 + 0.96 * step / self.rise
        left = (step - self.rise) / max(1, self.steps - self.rise)
        return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))


def _save_state(out: Path, state: dict[str, object]) -> None:
    partial = out / (STATE + ".partial")
    torch.save(state, partial)
    os.replace(partial, out / STATE)
