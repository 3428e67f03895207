"""Augmentation of a batch, on any device, with independent random values for each clip.

All random values come from one generator on the CPU, so that a seed gives the same values on every device. The
exception is white noise, which is generated on the device from a seed drawn by that generator.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.fit.parts import find_augmentation
from training.recipe import AugmentRecipe

_LEVEL_SECONDS = 0.1  # block length of level measurements
_AUDIBLE_RANGE_DB = 40.0  # blocks quieter than the loudest one by more than this count as silence
_NOISE_RANGE_DB = 30.0  # range of the signal-to-noise ratio of added noise
_NOISE_FROM_HZ = 20.0  # below that the spectrum of noise is flat
_NOTHING_DB = -200.0
_EQUALISER_POINTS = 6  # of the curve, evenly spaced over the mels
_LOW_CUT, _HIGH_CUT = (0.0, 0.25), (0.45, 1.0)  # of a band: where its ends are, as shares of the mels
_MEL_CORNER_HZ = 700.0  # of HTK's mel scale, which is linear below and logarithmic above
_LONGEST_CUT = 0.5  # of a clip or of its mels that is taken from another one
_FRACTION = 32  # fractional bits of a sample position in fixed point


def augment_waveforms(
    waves: Tensor, audible: Tensor, targets: Tensor, rate: int, recipe: AugmentRecipe, generator: Generator,
    *, crop: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Crop, speed perturbation, mixing, CutMix, noise and gain of waveforms (batch, samples) at `rate` Hz.

    `audible` is `block_audibility(waves)`, `targets` are class probabilities (batch, classes). Returns both after
    augmentation. Without `crop` the number of samples is unchanged.
    """
    samples = round(recipe.crop_seconds * rate) if crop and recipe.crop_seconds else waves.shape[1]
    if recipe.roll or recipe.speed > 1 or samples < waves.shape[1]:
        waves = random_crop(waves, audible, samples, rate, recipe, generator)
    if recipe.mix_alpha and recipe.mix_share and _chosen(recipe.mix_batches, generator):
        waves, targets = mix_pairs(waves, targets, rate, recipe, generator)
    if recipe.cut_time_share:
        waves, targets = cut_mix_time(waves, targets, recipe.cut_time_share, generator)
    if recipe.cut_band_share:
        waves, targets = cut_mix_bands(waves, targets, rate, recipe.cut_band_share, generator)
    for name in recipe.extra:
        waves = find_augmentation(name)(waves, rate, generator)
    if recipe.noise_db is not None:
        waves = add_noise(waves, rate, recipe, recipe.noise_db, generator)
    if recipe.gain_db:
        waves = waves * 10 ** (_uniform(waves, generator, -recipe.gain_db, recipe.gain_db) / 20)
    return waves, targets


def random_crop(
    waves: Tensor, audible: Tensor, samples: int, rate: int, recipe: AugmentRecipe, generator: Generator
) -> Tensor:
    """`samples` of each clip from a random position, at a random speed, with linear interpolation; the clip is
    periodic.

    Returns (batch, samples). A crop shorter than the clip contains a moment drawn in proportion to `audible` (batch,
    blocks), so that a clip that is mostly silence does not become silence.
    """
    batch, length = waves.shape
    speeds = recipe.speed ** (torch.rand(batch, 1, generator=generator, dtype=torch.float64) * 2 - 1)
    places = torch.rand(batch, 1, generator=generator, dtype=torch.float64)
    starts = torch.zeros(batch, 1, dtype=torch.float64)
    if samples < length:
        block = torch.multinomial(audible, 1, generator=generator)  # (batch, 1)
        moment = (block + torch.rand(batch, 1, generator=generator, dtype=torch.float64)) * _block_samples(rate)
        starts = moment - (0.1 + 0.8 * places) * samples * speeds  # not at the edge of the crop
    elif recipe.roll:
        starts = places * length
    # Positions in fixed point: exact on every device, and three times as fast on a CPU as in float64.
    first, stride = (_fixed_point(values).to(waves.device) for values in (starts % length, speeds))
    position = torch.arange(samples, device=waves.device) * stride + first  # (batch, samples)
    index = position >> _FRACTION
    weight = (position & ((1 << _FRACTION) - 1)).float() * 2.0**-_FRACTION
    wraps = math.ceil((samples * recipe.speed + 2) / length)  # periods beyond the end of the clip
    endless = waves.repeat(1, 1 + wraps)[:, : length + math.ceil(samples * recipe.speed) + 2]
    return endless.gather(1, index).lerp(endless.gather(1, index + 1), weight)


def _fixed_point(values: Tensor) -> Tensor:
    return (values * 2.0**_FRACTION).round().long()


def block_audibility(waves: Tensor, rate: int) -> Tensor:
    """How far each block of 0.1 s is above the silence threshold of its clip, in dB, 0 for silence: (batch, blocks) on
    the CPU."""
    block = _block_samples(rate)
    power = functional.avg_pool1d(waves.unsqueeze(1).square(), block, block, ceil_mode=True).squeeze(1)
    decibels = 10 * torch.log10(power.clamp_min(1e-10))
    above = (decibels - decibels.amax(dim=1, keepdim=True) + _AUDIBLE_RANGE_DB).clamp_min(0)
    return above.cpu()


def mix_pairs(
    waves: Tensor, targets: Tensor, rate: int, recipe: AugmentRecipe, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each clip with another one of the batch; between-class learning (Tokozume et al., arXiv:1711.10282).

    The ratio refers to loudness rather than amplitude, and the energy is preserved. Labels (batch, classes) are mixed
    by the same ratio. The ratio follows Beta(alpha, alpha), as in mixup (arXiv:1710.09412).
    """
    batch = len(waves)
    other = torch.randperm(batch, generator=generator).to(waves.device)
    # Beta(a, a) as Gamma(a) / (Gamma(a) + Gamma(a)): torch.distributions.Beta accepts no generator.
    gammas = torch._standard_gamma(torch.full((2, batch, 1), recipe.mix_alpha), generator=generator)
    ratio = (gammas[0] / gammas.sum(0)).clamp(1e-3, 1 - 1e-3)
    ratio = torch.maximum(ratio, 1 - ratio)  # the clip itself remains the louder one
    unmixed = torch.rand(batch, 1, generator=generator) >= recipe.mix_share
    ratio = ratio.masked_fill(unmixed, 1.0).to(waves.device)
    level = peak_levels(waves, rate)
    # Clamped: between digital silence and full scale the exact factor overflows float32.
    gain_ratio = 10 ** ((level - level[other]).clamp(-100, 100) / 20)
    amplitude = 1 / (1 + gain_ratio * (1 - ratio) / ratio)
    mixed = (amplitude * waves + (1 - amplitude) * waves[other]) / (amplitude**2 + (1 - amplitude) ** 2).sqrt()
    return mixed, ratio * targets + (1 - ratio) * targets[other]


def cut_mix_time(waves: Tensor, targets: Tensor, share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Replace a part in time of some clips by that of another one of the batch, at most half of the clip: CutMix (Yun
    et al., arXiv:1905.04899).

    `share` is the fraction of the clips that this happens to. Labels (batch, classes) are mixed by the lengths.
    """
    place = (torch.arange(waves.shape[1], device=waves.device) + 0.5) / waves.shape[1]  # (samples,)
    other, inside, targets = _cuts(place, targets, share, generator)
    return torch.where(inside, waves[other], waves), targets


def cut_mix_bands(
    waves: Tensor, targets: Tensor, rate: int, share: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Replace a band of frequencies of some clips by that of another one of the batch, at most half of the mels: CutMix
    in frequency, similar to FreqMix (Gazneli et al., arXiv:2204.11479).

    `share` is the fraction of the clips that this happens to. Labels (batch, classes) are mixed by the widths in mels.
    """
    spectrum = torch.fft.rfft(waves)  # (batch, bins)
    mels = torch.log1p(torch.fft.rfftfreq(waves.shape[1], 1 / rate, device=waves.device) / _MEL_CORNER_HZ)
    other, inside, targets = _cuts(mels / mels[-1], targets, share, generator)
    return torch.fft.irfft(torch.where(inside, spectrum[other], spectrum), n=waves.shape[1]), targets


def _cuts(place: Tensor, targets: Tensor, share: float, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """For each clip another one, which of the values at `place` (values,) in 0..1 are taken from that, and the mixed
    labels: (batch,), (batch, values), (batch, classes)."""
    batch = len(targets)
    other = torch.randperm(batch, generator=generator).to(place.device)
    chosen = torch.rand(batch, 1, generator=generator) < share
    width = torch.rand(batch, 1, generator=generator) * _LONGEST_CUT * chosen
    start = torch.rand(batch, 1, generator=generator) * (1 - width)
    width, start = width.to(place.device), start.to(place.device)
    inside = (place >= start) & (place < start + width)
    return other, inside, (1 - width) * targets + width * targets[other]


def add_noise(waves: Tensor, rate: int, recipe: AugmentRecipe, min_db: float, generator: Generator) -> Tensor:
    """Add noise at a signal-to-noise ratio of `min_db` to `min_db` + 30 dB, relative to the loudest 0.1 s."""
    seed = int(torch.randint(2**62, (), generator=generator))
    noise = torch.randn(waves.shape, device=waves.device, generator=Generator(waves.device).manual_seed(seed))
    if recipe.noise_slope:
        noise = _coloured(noise, rate, _uniform(waves, generator, 0, recipe.noise_slope))
    snr_db = _uniform(waves, generator, min_db, min_db + _NOISE_RANGE_DB)
    noise = noise * 10 ** ((peak_levels(waves, rate) - snr_db) / 20)
    if recipe.noise_share < 1:
        noise = noise * (torch.rand(len(waves), 1, generator=generator) < recipe.noise_share).to(waves.device)
    return waves + noise


def _coloured(noise: Tensor, rate: int, slope: Tensor) -> Tensor:
    """White noise (batch, samples) -> noise of the same level whose power falls as 1/f^slope; slope (batch, 1)."""
    frequency = torch.fft.rfftfreq(noise.shape[1], 1 / rate, device=noise.device).clamp_min(_NOISE_FROM_HZ)
    coloured: Tensor = torch.fft.irfft(torch.fft.rfft(noise) * frequency ** (-slope / 2), n=noise.shape[1])
    return coloured / coloured.square().mean(dim=1, keepdim=True).sqrt()


def peak_levels(waves: Tensor, rate: int) -> Tensor:
    """Level in dB of the loudest 0.1 s of each clip: (batch, 1)."""
    window = min(_block_samples(rate), waves.shape[1])
    power = functional.avg_pool1d(waves.unsqueeze(1).square(), window, max(1, window // 2)).squeeze(1)
    return 10 * torch.log10(power.amax(dim=1, keepdim=True).clamp_min(1e-10))


def random_gains(waves: Tensor, gain_db: float, generator: Generator) -> Tensor:
    """Gains in dB, uniform in ± `gain_db`, for the log-mels of a batch: (batch, 1, 1, 1)."""
    return _uniform(waves, generator, -gain_db, gain_db)[:, :, None, None]


def equalise(log_power: Tensor, recipe: AugmentRecipe, generator: Generator) -> Tensor:
    """What microphones, rooms and codecs do to the spectrum of log-mels (batch, 1, mels, frames) in dB: a smooth random
    gain over frequency, and for some clips a band outside of which there is nothing, as of a telephone."""
    batch, _, mels, _ = log_power.shape
    if recipe.equaliser_db:
        points = torch.rand(batch, 1, _EQUALISER_POINTS, generator=generator) * 2 - 1
        curve = functional.interpolate(points, mels, mode="linear", align_corners=True)[:, :, :, None]
        log_power = log_power + curve.to(log_power.device) * recipe.equaliser_db
    if recipe.band_share:
        mel = (torch.arange(mels) + 0.5) / mels
        low, high = (torch.rand(batch, 1, generator=generator) * (b - a) + a for a, b in (_LOW_CUT, _HIGH_CUT))
        limited = torch.rand(batch, 1, generator=generator) < recipe.band_share
        outside = limited & ((mel < low) | (mel > high))  # (batch, mels)
        log_power = log_power.masked_fill(outside[:, None, :, None].to(log_power.device), _NOTHING_DB)
    return log_power


def augment_spectrograms(
    spectrograms: Tensor, recipe: AugmentRecipe, generator: Generator, fill: Tensor | float = 0.0
) -> Tensor:
    """Time stretching and masking of log-mels (batch, 1, mels, frames); masked values become `fill`, one for all or
    (batch, 1, 1, 1)."""
    if recipe.stretch > 1:
        spectrograms = time_stretch(spectrograms, recipe.stretch, generator)
    return spec_augment(spectrograms, recipe, generator, fill)


def time_stretch(spectrograms: Tensor, max_factor: float, generator: Generator) -> Tensor:
    """Stretch each clip in time by a random factor up to `max_factor`, from a random frame on; the clip is periodic.

    Linear interpolation between frames: this is a phase vocoder without phases.
    """
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


def spec_augment(
    spectrograms: Tensor, recipe: AugmentRecipe, generator: Generator, fill: Tensor | float = 0.0
) -> Tensor:
    """Frequency and time masking (SpecAugment, Park et al., arXiv:1904.08779); masked values become `fill`, by default
    the mean of normalised log-mels."""
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
            spectrograms = torch.where(masked.view(shape), fill, spectrograms)
    return spectrograms


def _chosen(share: float, generator: Generator) -> bool:
    """True for a share of the calls. Draws nothing if that is 1, so that it changes no other random value."""
    return share == 1 or bool(torch.rand((), generator=generator) < share)


def _uniform(like: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    """Uniform random values (batch, 1) on the device of `like`."""
    return (torch.rand(len(like), 1, generator=generator) * (high - low) + low).to(like.device)


def _block_samples(rate: int) -> int:
    return max(1, round(_LEVEL_SECONDS * rate))
