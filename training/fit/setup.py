"""From a recipe and a data set to everything that a training step needs, on the device: windows, front end, network.

The common start of the training loop, the learning-rate range test and the overfitting check.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from training.data.base import Clip, Dataset, LeftOut, label_targets
from training.data.windows import Windows, in_parts
from training.errors import DatasetError, RunError
from training.fit.augment import (
    augment_spectrograms,
    augment_waveforms,
    block_audibility,
    equalise,
    peak_levels,
    random_gains,
)
from training.fit.growth import grow
from training.fit.pretrained import load_backbone_weights, load_trunk_weights
from training.progress import progress_bar
from training.recipe import Recipe
from worker.model.architectures import build_network
from worker.model.architectures.resnet import ResNetConfig
from worker.model.architectures.timm_backbone import TimmNetwork
from worker.model.base import Network
from worker.model.checkpoint import Model
from worker.model.frontend import LogMel
from worker.model.precision import pick_device

_GPU_MEMORY_SHARE = 0.25  # fraction of the free GPU memory that the windows may occupy; larger data stay in main memory


@dataclass(frozen=True)
class LabelledWindows:
    """Windows of clips, in memory or in a file; on the GPU if they fit, which avoids copies during training."""

    waves: Windows  # (windows, samples)
    labels: Tensor  # (windows,)
    targets: Tensor  # (windows, classes), 1 for each class of the window
    audible: Tensor  # (windows, blocks of 0.1 s), on the CPU
    multi_label: bool = False  # a window may have several classes, and the network a sigmoid for each

    def __len__(self) -> int:
        return len(self.waves)


@dataclass(frozen=True)
class TrainingSetup:
    """Everything for the first step; the network has its initial weights."""

    device: torch.device
    windows: LabelledWindows
    frontend: LogMel  # normalised with mean and standard deviation of the training windows
    network: Network
    layout: torch.memory_format  # memory format of the input

    def augmented_batch(self, rows: Tensor, recipe: Recipe, generator: Generator, *, crop: bool) -> tuple[Tensor, ...]:
        """The given windows after augmentation, on the device.

        Returns waveforms (batch, samples), log-mels (batch, 1, mels, frames) and class probabilities (batch, classes).
        """
        device_rows = rows.to(self.windows.waves.device)
        waves, targets = augment_waveforms(
            self.windows.waves[device_rows].to(self.device), self.windows.audible[rows],
            self.windows.targets[device_rows].to(self.device), self.frontend.config.sample_rate, recipe.augment,
            generator, crop=crop,
        )  # fmt: skip
        log_power = self.frontend.log_power(waves)
        if self.frontend.config.level_dbfs is not None and recipe.augment.gain_db:
            # The front end undoes the gain of the waveforms, so that the level needs a random gain of its own.
            log_power = log_power + random_gains(waves, recipe.augment.gain_db, generator)
        log_power = equalise(log_power, recipe.augment, generator)
        features = self.frontend.features(log_power, waves)
        # Masks are filled with the mean: of the training set, which is zero, or where the front end does not normalise
        # with it, of the clip.
        fill = features.mean(dim=(1, 2, 3), keepdim=True) if self.frontend.config.log_offset else 0.0
        features = augment_spectrograms(features, recipe.augment, generator, fill)
        return waves, features.contiguous(memory_format=self.layout), targets

    def plain_batches(self, batch: int) -> Iterator[Tensor]:
        """The log-mels (batch, 1, mels, frames) of all windows without augmentation, as the service computes them."""
        for waves in in_parts(self.windows.waves, batch):
            yield self.frontend(waves.to(self.device)).contiguous(memory_format=self.layout)


def set_up_training(
    recipe: Recipe, dataset: Dataset, clips: list[Clip], pretrained: Model | None = None
) -> TrainingSetup:
    """Decode the clips, compute the normalisation of their log-mels, and initialise the network from the seed.

    A pretrained model keeps its own mean and standard deviation, on which its weights depend. Raises RunError and
    DatasetError.
    """
    device = pick_device()
    windows = load_labelled_windows(recipe, dataset, clips, device)
    config = recipe.frontend
    if not pretrained:
        if config.stacked:
            raise RunError("frontend.stacked comes with a pretrained model: otoscope models join")
        raw = config.model_copy(update={"mean": 0.0, "std": 1.0})
        config = config.model_copy(update=_normalisation_statistics(LogMel(raw).to(device), windows.waves))
    torch.manual_seed(recipe.seed)
    try:
        network = build_network(recipe.network.with_classes(len(dataset.classes)))
    except (ImportError, ValueError) as error:
        raise RunError(str(error)) from error
    if pretrained and recipe.start.grow:
        grow(network, pretrained.network)
    elif pretrained:
        load_trunk_weights(network, pretrained)
    elif recipe.start.weights != "random" and isinstance(network, TimmNetwork):
        tqdm.write(f"weights from {load_backbone_weights(network, recipe.start.weights)}")
    # oneDNN's bfloat16 backward pass crashes the process on channels-last stems narrower than 16 (torch 2.13).
    narrow = isinstance(recipe.network, ResNetConfig) and recipe.network.widths[0] < 16
    layout = torch.contiguous_format if narrow else torch.channels_last
    network.to(device, memory_format=layout)  # type: ignore[call-overload]
    return TrainingSetup(device, windows, LogMel(config).to(device), network, layout)


def load_labelled_windows(recipe: Recipe, dataset: Dataset, clips: list[Clip], device: torch.device) -> LabelledWindows:
    """Decode the clips at the sample rate of the recipe, cut or padded to its window length. Raises DatasetError."""
    rate = recipe.frontend.sample_rate
    waves, clip_index = dataset.open(clips, recipe.frontend)
    if len(waves) > len(clips):
        audible_windows = _audible_windows(waves, clip_index, rate, recipe.segments.silence_dbfs)
        silent = Counter(dataset.classes[clips[index].label] for index in clip_index[~audible_windows].tolist())
        if silent:
            left_out = (LeftOut(label=name, silent_windows=count) for name, count in sorted(silent.items()))
            tqdm.write(f"left out, by class: {', '.join(map(str, left_out))}")
        waves = waves[audible_windows] if isinstance(waves, Tensor) else waves.take(audible_windows)
        clip_index = clip_index[audible_windows]
    labels = torch.tensor([clip.label for clip in clips])[clip_index]
    audible = torch.cat([block_audibility(part, rate) for part in in_parts(waves, 100)])
    targets = label_targets(clips, len(dataset.classes))[clip_index]
    if device.type == "cuda" and waves.nbytes < _GPU_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        waves = torch.cat([part.to(device) for part in in_parts(waves, 100)])
        labels, targets = labels.to(device), targets.to(device)
    return LabelledWindows(waves, labels, targets, audible, dataset.multi_label)


def _audible_windows(waves: Windows, clip_index: Tensor, rate: int, silence_dbfs: float) -> Tensor:
    """Boolean mask (windows,): windows above the silence threshold, or the loudest ones of a clip that is silent
    throughout."""
    level = torch.cat([peak_levels(part, rate) for part in in_parts(waves, 100)]).squeeze(1)
    loudest = torch.full_like(level, -math.inf).scatter_reduce(0, clip_index, level, "amax")  # per clip
    return level >= loudest[clip_index].clamp_max(silence_dbfs)


def epoch_order(windows: LabelledWindows, generator: Generator, *, balanced: bool) -> Tensor:
    """The windows of an epoch (windows,): each once, or `balanced`, drawn with replacement, in inverse proportion to
    the frequency of their rarest class."""
    if not balanced:
        return torch.randperm(len(windows), generator=generator)
    targets = windows.targets.cpu()
    counts = targets.sum(0).clamp_min(1)  # (classes,)
    weights = (targets / counts).amax(dim=1)  # (windows,)
    return torch.multinomial(weights, len(windows), replacement=True, generator=generator)


def class_weights(targets: Tensor) -> Tensor:
    """Inverse frequencies of the classes of targets (windows, classes), on the CPU: (classes,), 1 on average over all
    labels, of which a window may have several."""
    counts = targets.sum(dim=0).cpu()  # (classes,)
    return counts.sum() / (len(counts) * counts.clamp_min(1))


def _normalisation_statistics(frontend: LogMel, waves: Windows) -> dict[str, float]:
    """Mean and standard deviation of the log-mels, in dB, over the training windows, for a front end that does not
    normalise yet. Raises DatasetError if all are silent."""
    total = square = 0.0
    count = 0
    for part in progress_bar(in_parts(waves, 100), desc="statistics", total=-(-len(waves) // 100), unit="batch"):
        decibels = frontend(part.to(frontend.window.device)).double()  # (100, 1, mels, frames)
        total += decibels.sum().item()
        square += decibels.square().sum().item()
        count += decibels.numel()
    mean = total / count
    std = math.sqrt(max(square / count - mean**2, 0.0))
    if std < 1e-3:
        raise DatasetError("the training clips are all silent")
    return {"mean": round(mean, 4), "std": round(std, 4)}
