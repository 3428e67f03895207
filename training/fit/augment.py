"""Augmentation of a batch on whatever device it is on, each clip by its own draws.

What is drawn for a clip comes from one generator on the CPU, so that a seed means the same everywhere. White noise
alone is drawn on the device, from a seed of that generator.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.recipe import AugmentRecipe

_LEVEL_SECONDS = 0.1  # over which loudness is measured
_AUDIBLE_RANGE_DB = 40.0  # below the loudest moment of a clip nothing is looked for
_NOISE_RANGE_DB = 30.0  # from the loudest noise to the faintest
_FRACTION = 32  # bits of a position that stand behind the point


def augment_waveforms(
    waves: Tensor, audible: Tensor, targets: Tensor, rate: int, recipe: AugmentRecipe, generator: Generator,
    *, crop: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Waveforms (batch, samples) at `rate` Hz and their class probabilities (batch, classes): cut, mixed in pairs,
    covered with noise, changed in level. `audible` is `audibility(waves)`; without `crop` the length stays."""
    samples = round(recipe.crop_seconds * rate) if crop and recipe.crop_seconds else waves.shape[1]
    if recipe.roll or recipe.speed > 1 or samples < waves.shape[1]:
        waves = random_crop(waves, audible, samples, rate, recipe, generator)
    if recipe.mix_alpha and recipe.mix_share:
        waves, targets = mix_pairs(waves, targets, rate, recipe, generator)
    if recipe.noise_db is not None:
        waves = add_noise(waves, rate, recipe.noise_db, generator)
    if recipe.gain_db:
        waves = waves * 10 ** (_uniform(waves, generator, -recipe.gain_db, recipe.gain_db) / 20)
    return waves, targets


def random_crop(
    waves: Tensor, audible: Tensor, samples: int, rate: int, recipe: AugmentRecipe, generator: Generator
) -> Tensor:
    """`samples` of each clip from a random place, at a random speed, by linear interpolation; past the end of a clip
    comes its beginning.

    A cut shorter than the clip holds a moment drawn from `audible`: a clip that is mostly silence is not cut to
    nothing.
    """
    batch, length = waves.shape
    speeds = recipe.speed ** (torch.rand(batch, 1, generator=generator, dtype=torch.float64) * 2 - 1)
    places = torch.rand(batch, 1, generator=generator, dtype=torch.float64)
    starts = torch.zeros(batch, 1, dtype=torch.float64)
    if samples < length:
        block = torch.multinomial(audible, 1, generator=generator)  # (batch, 1)
        moment = (block + torch.rand(batch, 1, generator=generator, dtype=torch.float64)) * _block_samples(rate)
        starts = moment - (0.1 + 0.8 * places) * samples * speeds  # not at the very edge
    elif recipe.roll:
        starts = places * length
    # Positions in fixed point: exact on every device, and three times as fast on a CPU as in float64.
    first, stride = (_fixed_point(values).to(waves.device) for values in (starts % length, speeds))
    position = torch.arange(samples, device=waves.device) * stride + first  # (batch, samples)
    index = position >> _FRACTION
    weight = (position & ((1 << _FRACTION) - 1)).float() * 2.0**-_FRACTION
    wraps = math.ceil((samples * recipe.speed + 2) / length)  # times past the end
    endless = waves.repeat(1, 1 + wraps)[:, : length + math.ceil(samples * recipe.speed) + 2]
    return endless.gather(1, index).lerp(endless.gather(1, index + 1), weight)


def _fixed_point(values: Tensor) -> Tensor:
    return (values * 2.0**_FRACTION).round().long()


def block_audibility(waves: Tensor, rate: int) -> Tensor:
    """(batch, blocks of 0.1 s) on the CPU: how far each block stands above what is taken for silence, in dB."""
    block = _block_samples(rate)
    power = functional.avg_pool1d(waves.unsqueeze(1).square(), block, block, ceil_mode=True).squeeze(1)
    decibels = 10 * torch.log10(power.clamp_min(1e-10))
    above = (decibels - decibels.amax(dim=1, keepdim=True) + _AUDIBLE_RANGE_DB).clamp_min(0)
    return above.cpu()


def mix_pairs(
    waves: Tensor, targets: Tensor, rate: int, recipe: AugmentRecipe, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each clip with another so that the ratio is one of loudness, not of amplitude, and the energy is kept
    (between-class learning, Tokozume et al., 2018). The labels are mixed by the same ratio."""
    batch = len(waves)
    other = torch.randperm(batch, generator=generator).to(waves.device)
    # Beta(a, a) as Gamma(a) / (Gamma(a) + Gamma(a)): torch's own Beta takes no generator.
    gammas = torch._standard_gamma(torch.full((2, batch, 1), recipe.mix_alpha), generator=generator)
    ratio = (gammas[0] / gammas.sum(0)).clamp(1e-3, 1 - 1e-3)
    ratio = torch.maximum(ratio, 1 - ratio)  # the clip itself stays the louder one
    unmixed = torch.rand(batch, 1, generator=generator) >= recipe.mix_share
    ratio = ratio.masked_fill(unmixed, 1.0).to(waves.device)
    level = peak_levels(waves, rate)
    # Capped: between digital silence and full scale the exact factor overflows float32.
    gain_ratio = 10 ** ((level - level[other]).clamp(-100, 100) / 20)
    amplitude = 1 / (1 + gain_ratio * (1 - ratio) / ratio)
    mixed = (amplitude * waves + (1 - amplitude) * waves[other]) / (amplitude**2 + (1 - amplitude) ** 2).sqrt()
    return mixed, ratio * targets + (1 - ratio) * targets[other]


def add_noise(waves: Tensor, rate: int, min_db: float, generator: Generator) -> Tensor:
    """White noise, `least_db` to 30 dB more below the level of each clip's loudest 0.1 s."""
    seed = int(torch.randint(2**62, (), generator=generator))
    noise = torch.randn(waves.shape, device=waves.device, generator=Generator(waves.device).manual_seed(seed))
    snr_db = _uniform(waves, generator, min_db, min_db + _NOISE_RANGE_DB)
    return waves + noise * 10 ** ((peak_levels(waves, rate) - snr_db) / 20)


def peak_levels(waves: Tensor, rate: int) -> Tensor:
    """(batch, 1): level in dB of the loudest 0.1 s of each clip."""
    window = min(_block_samples(rate), waves.shape[1])
    power = functional.avg_pool1d(waves.unsqueeze(1).square(), window, max(1, window // 2)).squeeze(1)
    return 10 * torch.log10(power.amax(dim=1, keepdim=True).clamp_min(1e-10))


def augment_spectrograms(spectrograms: Tensor, recipe: AugmentRecipe, generator: Generator) -> Tensor:
    """(batch, 1, mels, frames) with mean 0: stretched in time, then masked."""
    if recipe.stretch > 1:
        spectrograms = time_stretch(spectrograms, recipe.stretch, generator)
    return spec_augment(spectrograms, recipe, generator)


def time_stretch(spectrograms: Tensor, max_factor: float, generator: Generator) -> Tensor:
    """Each clip up to `most` times longer or shorter at the same pitch, from a random frame on, the end followed by the
    beginning; linear interpolation between frames, which is all that is left of a phase vocoder without phases."""
    batch, _, mels, frames = spectrograms.shape
    rates = max_factor ** _uniform(spectrograms, generator, -1, 1)
    starts = _uniform(spectrograms, generator, 0, frames)
    position = torch.arange(frames, device=spectrograms.device) * rates + starts  # (batch, frames)
    before = position.floor()
    weight = (position - before)[:, None, None]
    index = before.long() % frames

    def at(index: Tensor) -> Tensor:
        return spectrograms.gather(3, index[:, None, None].expand(batch, 1, mels, frames))

    return at(index) * (1 - weight) + at((index + 1) % frames) * weight


def spec_augment(spectrograms: Tensor, recipe: AugmentRecipe, generator: Generator) -> Tensor:
    """SpecAugment (Park et al., 2019): a masked band is set to the mean, which is 0."""
    for axis, masks, widest in (
        (2, recipe.frequency_masks, recipe.frequency_mask_mels),
        (3, recipe.time_masks, recipe.time_mask_frames),
    ):
        size = spectrograms.shape[axis]
        position = torch.arange(size, device=spectrograms.device)
        for _ in range(masks):
            width = _uniform(spectrograms, generator, 0, min(widest, size))
            start = _uniform(spectrograms, generator, 0, 1) * (size - width)
            masked = (position >= start) & (position < start + width)  # (batch, size)
            shape = [len(spectrograms), 1, 1, 1]
            shape[axis] = size
            spectrograms = spectrograms.masked_fill(masked.view(shape), 0.0)
    return spectrograms


def _uniform(like: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    """(batch, 1), uniform, on the device of `like`."""
    return (torch.rand(len(like), 1, generator=generator) * (high - low) + low).to(like.device)


def _block_samples(rate: int) -> int:
    return max(1, round(_LEVEL_SECONDS * rate))
