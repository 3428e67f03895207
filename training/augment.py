"""Augmentation of a batch, each clip by its own draws from one generator."""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.recipe import AugmentRecipe

_LEVEL_SECONDS = 0.1  # over which loudness is measured


def augment_waveforms(
    waves: Tensor, targets: Tensor, rate: int, recipe: AugmentRecipe, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Waveforms (batch, samples) at `rate` Hz and their class probabilities (batch, classes): rolled, mixed in pairs,
    changed in level."""
    if recipe.roll:
        waves = roll(waves, recipe.speed, generator)
    if recipe.mix_alpha:
        waves, targets = mix(waves, targets, rate, recipe.mix_alpha, generator)
    if recipe.gain_db:
        decibels = (torch.rand(len(waves), 1, generator=generator) * 2 - 1) * recipe.gain_db
        waves = waves * 10 ** (decibels / 20)
    return waves, targets


def roll(waves: Tensor, speed: float, generator: Generator) -> Tensor:
    """Rotate each clip in time by any amount and play it up to `speed` times faster or slower.

    Both are one look-up with linear interpolation; the end of a clip is followed by its beginning.
    """
    batch, samples = waves.shape
    shifts = torch.rand(batch, 1, generator=generator, dtype=torch.float64) * samples
    speeds = speed ** (torch.rand(batch, 1, generator=generator, dtype=torch.float64) * 2 - 1)
    position = torch.arange(samples) * speeds + shifts  # (batch, samples)
    before = position.floor()
    weight = (position - before).float()
    index = before.long() % samples
    return waves.gather(1, index) * (1 - weight) + waves.gather(1, (index + 1) % samples) * weight


def mix(waves: Tensor, targets: Tensor, rate: int, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mix each clip with another so that the ratio is one of loudness, not of amplitude, and the energy is kept
    (between-class learning, Tokozume et al., 2018). The labels are mixed by the same ratio."""
    batch = len(waves)
    other = torch.randperm(batch, generator=generator)
    # Beta(a, a) as Gamma(a) / (Gamma(a) + Gamma(a)): torch's own Beta takes no generator.
    gammas = torch._standard_gamma(torch.full((2, batch, 1), alpha), generator=generator)
    ratio = (gammas[0] / gammas.sum(0)).clamp(1e-3, 1 - 1e-3)
    ratio = torch.maximum(ratio, 1 - ratio)  # the clip itself stays the louder one
    level = levels(waves, rate)
    amplitude = 1 / (1 + 10 ** ((level - level[other]) / 20) * (1 - ratio) / ratio)
    mixed = (amplitude * waves + (1 - amplitude) * waves[other]) / (amplitude**2 + (1 - amplitude) ** 2).sqrt()
    return mixed, ratio * targets + (1 - ratio) * targets[other]


def levels(waves: Tensor, rate: int) -> Tensor:
    """(batch, 1): level in dB of the loudest 0.1 s of each clip."""
    window = min(round(_LEVEL_SECONDS * rate), waves.shape[1])
    power = functional.avg_pool1d(waves.unsqueeze(1).square(), window).squeeze(1)
    return 10 * torch.log10(power.amax(dim=1, keepdim=True).clamp_min(1e-10))


def mask_spectrograms(spectrograms: Tensor, recipe: AugmentRecipe, generator: Generator) -> Tensor:
    """SpecAugment (Park et al., 2019) on (batch, 1, mels, frames) with mean 0: a masked band is set to the mean.

    Drawn on the CPU, whatever device the spectrograms are on, so that a seed means the same everywhere.
    """
    for axis, masks, widest in (
        (2, recipe.frequency_masks, recipe.frequency_mask_mels),
        (3, recipe.time_masks, recipe.time_mask_frames),
    ):
        size = spectrograms.shape[axis]
        position = torch.arange(size)
        for _ in range(masks):
            width = torch.rand(len(spectrograms), 1, generator=generator) * min(widest, size)
            start = torch.rand(len(spectrograms), 1, generator=generator) * (size - width)
            hit = (position >= start) & (position < start + width)  # (batch, size)
            shape = [len(spectrograms), 1, 1, 1]
            shape[axis] = size
            spectrograms = spectrograms.masked_fill(hit.view(shape).to(spectrograms.device), 0.0)
    return spectrograms
