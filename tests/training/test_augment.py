"""Augmentation of waveforms and spectrograms."""

import torch

from training.fit.augment import (
    _coloured,
    add_noise,
    augment_spectrograms,
    augment_waveforms,
    block_audibility,
    cut_mix_bands,
    cut_mix_time,
    equalise,
    mix_pairs,
    peak_levels,
    random_crop,
    time_stretch,
)
from training.recipe import AugmentRecipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixing_keeps_energy_and_label_mass() -> None:
    """The ratio refers to loudness: clips of different level, mixed evenly, contribute evenly, and the level is
    preserved."""
    waves = torch.randn(64, 16_000) * torch.logspace(-2, 0, 64)[:, None]
    targets = torch.eye(64)
    mixed, labels = mix_pairs(waves, targets, 16_000, AugmentRecipe(), seeded())
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(64))
    assert (labels.diagonal() >= 0.5).all()
    assert (labels.max(dim=1).values < 1 + 1e-6).all()
    change = peak_levels(mixed, 16_000) - peak_levels(waves, 16_000)
    assert change.max() < 25
    alone, same = mix_pairs(waves, targets, 16_000, AugmentRecipe(mix_share=0), seeded())
    torch.testing.assert_close(alone, waves)
    assert torch.equal(same, targets)


def test_cut_mix_in_time_takes_a_part_of_another_clip() -> None:
    """Eight constant clips: the label of a class is the share of the samples that are of its clip."""
    waves, targets = torch.arange(8.0)[:, None].expand(8, 4_000), torch.eye(8)
    mixed, labels = cut_mix_time(waves, targets, 1.0, seeded(3))
    shares = torch.stack([(mixed == clip).float().mean(dim=1) for clip in range(8)], dim=1)
    torch.testing.assert_close(labels, shares, atol=1e-3, rtol=0)
    assert (labels.diagonal() >= 0.5).all()
    assert (labels.diagonal() < 1).sum() >= 6  # a permutation may leave some where they are
    assert ((mixed.diff() != 0).sum(dim=1) <= 2).all()  # one part of each
    unchanged, same = cut_mix_time(waves, targets, 0.0, seeded(3))
    assert torch.equal(unchanged, waves)
    assert torch.equal(same, targets)


def test_cut_mix_of_bands_takes_a_band_of_another_clip() -> None:
    """Tones below and above the middle of the mels: one that is in the band leaves, or comes from the other clip."""
    time = torch.arange(16_000) / 16_000
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (200, 5_000)])
    waves, targets = tones.repeat(16, 1), torch.eye(2).repeat(16, 1)
    mixed, labels = cut_mix_bands(waves, targets, 16_000, 1.0, seeded())
    powers = torch.fft.rfft(mixed).abs().square()[:, [200, 5_000]] / 8_000**2  # (batch, tones)
    heard = powers > 0.999
    assert ((powers < 1e-3) | heard).all()  # each is there as a whole, or not at all
    assert {tuple(pair) for pair in heard.tolist()} == {(True, True), (True, False), (False, True), (False, False)}
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(32))
    assert (labels.gather(1, targets.argmax(1, keepdim=True)) >= 0.5).all()
    unchanged, same = cut_mix_bands(waves, targets, 16_000, 0.0, seeded())
    torch.testing.assert_close(unchanged, waves, atol=1e-5, rtol=0)
    assert torch.equal(same, targets)


def test_silence_can_be_mixed() -> None:
    """A silent clip mixed with a loud one gives finite samples and labels."""
    waves = torch.stack([torch.zeros(8_000), torch.ones(8_000)])
    for seed in range(20):
        mixed, labels = mix_pairs(waves, torch.eye(2), 8_000, AugmentRecipe(), seeded(seed))
        assert mixed.isfinite().all()
        assert labels.isfinite().all()


def test_crop_contains_an_audible_moment() -> None:
    """Crops of 0.5 s from clips of 5 s with 0.2 s of sound: every crop contains the sound."""
    waves = torch.zeros(64, 40_000)
    waves[:, 30_000:31_600] = 0.5
    recipe = AugmentRecipe(speed=1.25)
    crops = random_crop(waves, block_audibility(waves, 8_000), 4_000, 8_000, recipe, seeded())
    assert crops.shape == (64, 4_000)
    assert (crops.abs().amax(dim=1) > 0.4).all()
    where = crops.abs().argmax(dim=1)
    assert where.unique().numel() > 30  # at varying positions


def test_speed_changes_pitch_and_stretch_does_not() -> None:
    """Speed perturbation shifts a tone in frequency; time stretching preserves the mean of every mel row."""
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(8_000) / 8_000).repeat(32, 1)
    recipe = AugmentRecipe(speed=1.5)
    played = random_crop(tone, block_audibility(tone, 8_000), 8_000, 8_000, recipe, seeded())
    peaks = torch.fft.rfft(played * torch.hann_window(8_000)).abs().argmax(dim=1)  # Hz
    assert peaks.min() < 400
    assert peaks.max() > 620
    features = torch.randn(4, 1, 24, 1).expand(4, 1, 24, 50)
    torch.testing.assert_close(time_stretch(features, 1.5, seeded()), features)
    moving = torch.randn(4, 1, 24, 50)
    assert not torch.equal(time_stretch(moving, 1.5, seeded()), moving)


def test_noise_level() -> None:
    """White noise at least `noise_db` below the loudest 0.1 s of the clip, and at most 30 dB lower than that."""
    waves = torch.zeros(200, 8_000)
    waves[:, :800] = 1.0
    recipe = AugmentRecipe(roll=False, speed=1, gain_db=0, mix_alpha=0, noise_db=20)
    noisy, _ = augment_waveforms(
        waves, block_audibility(waves, 8_000), torch.eye(200), 8_000, recipe, seeded(), crop=False
    )
    below = -10 * (noisy - waves).square().mean(dim=1).log10()
    assert below.min() > 19.5
    assert below.max() < 50.5
    assert below.std() > 5


def test_random_values_are_per_clip_and_seeded() -> None:
    """The same generator state gives the same batch; identical clips are augmented differently."""
    waves, targets = torch.randn(1, 8_000).repeat(8, 1), torch.eye(8)
    recipe = AugmentRecipe(mix_alpha=0)
    audible = block_audibility(waves, 8_000)
    first, labels = augment_waveforms(waves, audible, targets, 8_000, recipe, seeded(), crop=True)
    again, _ = augment_waveforms(waves, audible, targets, 8_000, recipe, seeded(), crop=True)
    assert torch.equal(first, again)
    assert torch.equal(labels, targets)
    assert len({tuple(row.tolist()) for row in first[:, :50]}) == 8


def test_share_of_the_batches_is_mixed() -> None:
    """All clips of a batch (but those that meet themselves), or none."""
    waves, targets = torch.randn(32, 80), torch.eye(32)
    recipe, generator = AugmentRecipe(mix_batches=0.3), seeded()
    audible = block_audibility(waves, 800)
    mixed: list[int] = []
    for _ in range(200):
        _, labels = augment_waveforms(waves, audible, targets, 800, recipe, generator, crop=False)
        mixed.append(int((labels.amax(dim=1) < 1).sum()))
    assert all(clips == 0 or clips > 24 for clips in mixed)
    assert 0.2 < sum(clips > 0 for clips in mixed) / len(mixed) < 0.4


def test_disabled_augmentation_changes_nothing() -> None:
    """Zeros in the recipe switch augmentation off."""
    off = AugmentRecipe(
        roll=False, speed=1, gain_db=0, mix_alpha=0, frequency_masks=0, time_masks=0
    )  # fmt: skip
    waves, targets = torch.randn(4, 8_000), torch.eye(4)
    same, labels = augment_waveforms(waves, block_audibility(waves, 8_000), targets, 8_000, off, seeded(), crop=True)
    assert torch.equal(same, waves)
    assert torch.equal(labels, targets)
    features = torch.randn(4, 1, 24, 50)
    assert torch.equal(augment_spectrograms(features, off, seeded()), features)


def test_masks_are_zero_and_within_their_maximum_width() -> None:
    """0 is the mean of normalised spectrograms: neither silence nor full level."""
    recipe = AugmentRecipe(frequency_masks=1, frequency_mask_mels=6, time_masks=1, time_mask_frames=9)
    features = torch.full((200, 1, 24, 50), 7.0)
    masked = augment_spectrograms(features, recipe, seeded())
    assert set(masked.unique().tolist()) == {0.0, 7.0}
    rows = (masked == 0).all(dim=3).sum(dim=2)
    columns = (masked == 0).all(dim=2).sum(dim=2)
    assert rows.max() <= 7
    assert columns.max() <= 10
    assert rows.unique().numel() > 3  # varies between clips


def test_noise_has_the_slope_of_its_spectrum() -> None:
    """Brown noise loses 6 dB an octave, white none; the level is the same."""
    recipe = AugmentRecipe(noise_db=0.0, noise_slope=2.0)
    slopes = torch.tensor([[0.0], [2.0]])
    white = torch.randn(2, 2**15, generator=seeded(1))
    coloured = _coloured(white, 16_000, slopes)
    power = torch.fft.rfft(coloured).abs().square()
    octave = [power[:, 2**k : 2 ** (k + 1)].mean(dim=1).log10() * 10 for k in (10, 12)]  # two octaves apart
    assert torch.allclose(octave[1] - octave[0], torch.tensor([0.0, -12.0]), atol=1.0)
    assert torch.allclose(coloured.square().mean(dim=1), torch.ones(2), atol=0.05)
    some = add_noise(torch.ones(8, 1_000), 16_000, recipe.model_copy(update={"noise_share": 0.5}), 0.0, seeded())
    assert 0 < (some == 1).all(dim=1).sum() < 8


def test_equaliser_and_bands() -> None:
    """Gains stay within their limit; outside of a band there is nothing, inside nothing changes."""
    flat = torch.zeros(64, 1, 32, 3)
    gains = equalise(flat, AugmentRecipe(equaliser_db=6.0), seeded(1))
    assert gains.abs().max() <= 6
    assert gains.std(dim=2).min() > 0
    assert torch.equal(gains[..., 0], gains[..., 2])  # the same at all times
    banded = equalise(flat, AugmentRecipe(band_share=0.5), seeded(1))[:, 0, :, 0]
    limited = (banded < 0).any(dim=1)
    assert 16 < limited.sum() < 48
    assert (banded[limited][:, 8:14] == 0).all()
    assert set(banded.unique().tolist()) == {0.0, -200.0}
