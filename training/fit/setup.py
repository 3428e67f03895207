"""From a recipe and a data set to what a training step needs, on the device: sounds, front end, network.

Everything that runs training steps starts here: `train`, the learning rate finder, the overfitting check.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.data.base import Clip, Dataset
from training.data.custom.segments import SILENCE_DBFS
from training.errors import DatasetError, RunError
from training.fit.augment import augment_spectrograms, augment_waveforms, block_audibility, peak_levels
from training.fit.pretrained import load_backbone_weights, load_trunk_weights
from training.recipe import Recipe
from worker.model.architectures import build_network
from worker.model.architectures.resnet import ResNetConfig
from worker.model.architectures.timm_backbone import TimmNetwork
from worker.model.base import Network
from worker.model.checkpoint import Model
from worker.model.frontend import LogMel
from worker.model.precision import pick_device

_GPU_MEMORY_SHARE = 0.25  # of a GPU's free memory that the sounds may take; what is larger stays in main memory


@dataclass(frozen=True)
class LabelledWindows:
    """Windows of clips in memory: on the device where they fit, since then nothing is copied during training."""

    waves: Tensor  # (windows, samples)
    labels: Tensor  # (windows,)
    targets: Tensor  # (windows, classes), one-hot
    audible: Tensor  # (windows, blocks of 0.1 s), on the CPU

    def __len__(self) -> int:
        return len(self.waves)


@dataclass(frozen=True)
class TrainingSetup:
    """Ready for the first step; the network has its initial weights."""

    device: torch.device
    windows: LabelledWindows
    frontend: LogMel  # with mean and deviation of these sounds
    network: Network
    layout: torch.memory_format  # what the network wants its input in

    def augmented_batch(self, rows: Tensor, recipe: Recipe, generator: Generator, *, crop: bool) -> tuple[Tensor, ...]:
        """The windows of those rows as this step hears them, on the device: waveforms (batch, samples), log-mels
        (batch, 1, mels, frames), class probabilities (batch, classes)."""
        device_rows = rows.to(self.windows.waves.device)
        waves, targets = augment_waveforms(
            self.windows.waves[device_rows].to(self.device), self.windows.audible[rows],
            self.windows.targets[device_rows].to(self.device), self.frontend.config.sample_rate, recipe.augment,
            generator, crop=crop,
        )  # fmt: skip
        features = augment_spectrograms(self.frontend(waves), recipe.augment, generator)
        return waves, features.contiguous(memory_format=self.layout), targets


def set_up_training(
    recipe: Recipe, dataset: Dataset, clips: list[Clip], pretrained: Model | None = None
) -> TrainingSetup:
    """Decode the clips, measure their log-mels, build the network from the recipe's seed.

    A network that starts from a model keeps that one's mean and deviation: it knows what they mean. Raises RunError and
    DatasetError.
    """
    device = pick_device()
    windows = load_labelled_windows(recipe, dataset, clips, device)
    config = recipe.frontend
    if not pretrained:
        config = config.model_copy(update=_normalisation_statistics(LogMel(config).to(device), windows.waves))
    torch.manual_seed(recipe.seed)
    try:
        network = build_network(recipe.network.with_classes(len(dataset.classes)))
    except (ImportError, ValueError) as error:
        raise RunError(str(error)) from error
    if pretrained:
        load_trunk_weights(network, pretrained)
    elif recipe.start.weights != "random" and isinstance(network, TimmNetwork):
        tqdm.write(f"weights from {load_backbone_weights(network, recipe.start.weights)}")
    # oneDNN's bfloat16 backward pass crashes the process on channels-last stems narrower than 16 (torch 2.13).
    narrow = isinstance(recipe.network, ResNetConfig) and recipe.network.widths[0] < 16
    layout = torch.contiguous_format if narrow else torch.channels_last
    network.to(device, memory_format=layout)  # type: ignore[call-overload]
    return TrainingSetup(device, windows, LogMel(config).to(device), network, layout)


def load_labelled_windows(recipe: Recipe, dataset: Dataset, clips: list[Clip], device: torch.device) -> LabelledWindows:
    """Decode the clips at the recipe's rate, cut or padded to its window. Raises DatasetError."""
    rate = recipe.frontend.sample_rate
    waves, of = dataset.load(clips, rate, recipe.frontend.window_samples)
    if len(waves) > len(clips):
        audible_windows = _audible_windows(waves, of, rate)
        waves, of = waves[audible_windows], of[audible_windows]
    labels = torch.tensor([clip.label for clip in clips])[of]
    audible = torch.cat([block_audibility(part, rate) for part in torch.split(waves, 100)])
    targets = functional.one_hot(labels, len(dataset.classes)).float()
    if device.type == "cuda" and waves.nbytes < _GPU_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        waves, labels, targets = waves.to(device), labels.to(device), targets.to(device)
    return LabelledWindows(waves, labels, targets, audible)


def _audible_windows(waves: Tensor, of: Tensor, rate: int) -> Tensor:
    """(windows,): whether there is something to hear, or in all of its clip is nothing louder."""
    level = torch.cat([peak_levels(part, rate) for part in torch.split(waves, 100)]).squeeze(1)
    loudest = torch.full_like(level, -math.inf).scatter_reduce(0, of, level, "amax")  # by clip
    return level >= loudest[of].clamp_max(SILENCE_DBFS)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,): the rarer a class, the heavier, 1 on average over the labels."""
    counts = torch.bincount(labels.cpu(), minlength=classes).clamp_min(1)
    return len(labels) / (classes * counts)


def _normalisation_statistics(frontend: LogMel, waves: Tensor) -> dict[str, float]:
    """Mean and deviation, in dB, over the training clips. Raises DatasetError when there is nothing to hear."""
    total = square = 0.0
    count = 0
    for part in tqdm(torch.split(waves, 100), desc="statistics", unit="batch", leave=False):
        decibels = frontend.decibels(part.to(frontend.window.device)).double()  # (100, 1, mels, frames)
        total += decibels.sum().item()
        square += decibels.square().sum().item()
        count += decibels.numel()
    mean = total / count
    deviation = math.sqrt(max(square / count - mean**2, 0.0))
    if deviation < 1e-3:
        raise DatasetError("the training clips are all silent")
    return {"mean": round(mean, 4), "std": round(deviation, 4)}


def compile_network(network: nn.Module) -> nn.Module:
    """The network as torch.compile makes it: slow to start, quicker a step where its compiler knows the device."""
    optimised: nn.Module = torch.compile(network)  # type: ignore[assignment]
    return optimised
