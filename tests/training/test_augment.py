"""Data folders, recipes and augmentation."""

import torch

from training.fit.augment import (
    augment_spectrograms,
    augment_waveforms,
    block_audibility,
    mix_pairs,
    peak_levels,
    random_crop,
    time_stretch,
)
from training.recipe import AugmentRecipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixing_keeps_energy_and_label_mass() -> None:
    """The ratio is one of loudness: a loud and a quiet clip mixed evenly are heard evenly, and the level stays."""
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


def test_silence_can_be_mixed() -> None:
    """A silent clip beside a loud one gives finite sound and labels."""
    waves = torch.stack([torch.zeros(8_000), torch.ones(8_000)])
    for seed in range(20):
        mixed, labels = mix_pairs(waves, torch.eye(2), 8_000, AugmentRecipe(), seeded(seed))
        assert mixed.isfinite().all()
        assert labels.isfinite().all()


def test_cut_holds_something_audible() -> None:
    """Half a second out of five, of a clip that is silent but for 0.2 s: the sound is in every cut."""
    waves = torch.zeros(64, 40_000)
    waves[:, 30_000:31_600] = 0.5
    recipe = AugmentRecipe(speed=1.25)
    pieces = random_crop(waves, block_audibility(waves, 8_000), 4_000, 8_000, recipe, seeded())
    assert pieces.shape == (64, 4_000)
    assert (pieces.abs().amax(dim=1) > 0.4).all()
    where = pieces.abs().argmax(dim=1)
    assert where.unique().numel() > 30  # anywhere in the cut


def test_speed_changes_pitch_and_stretch_does_not() -> None:
    """A tone played faster is higher; a stretched log-mel keeps every row's mean."""
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


def test_noise_keeps_its_distance() -> None:
    """White noise at least `noise_db` below the clip's loudest tenth of a second, and at most 30 dB more."""
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


def test_every_draw_is_a_clips_own_and_seeded() -> None:
    """The same generator gives the same batch; equal clips become different ones."""
    waves, targets = torch.randn(1, 8_000).repeat(8, 1), torch.eye(8)
    recipe = AugmentRecipe(mix_alpha=0)
    audible = block_audibility(waves, 8_000)
    first, labels = augment_waveforms(waves, audible, targets, 8_000, recipe, seeded(), crop=True)
    again, _ = augment_waveforms(waves, audible, targets, 8_000, recipe, seeded(), crop=True)
    assert torch.equal(first, again)
    assert torch.equal(labels, targets)
    assert len({tuple(row.tolist()) for row in first[:, :50]}) == 8


def test_turned_off_augmentation_changes_nothing() -> None:
    """Zeros in the recipe mean what they say."""
    off = AugmentRecipe(
        roll=False, speed=1, gain_db=0, mix_alpha=0, frequency_masks=0, time_masks=0
    )  # fmt: skip
    waves, targets = torch.randn(4, 8_000), torch.eye(4)
    same, labels = augment_waveforms(waves, block_audibility(waves, 8_000), targets, 8_000, off, seeded(), crop=True)
    assert torch.equal(same, waves)
    assert torch.equal(labels, targets)
    features = torch.randn(4, 1, 24, 50)
    assert torch.equal(augment_spectrograms(features, off, seeded()), features)


def test_masks_are_set_to_the_mean_and_no_wider_than_said() -> None:
    """Zero after normalisation is the training mean, not silence and not loudness."""
    recipe = AugmentRecipe(frequency_masks=1, frequency_mask_mels=6, time_masks=1, time_mask_frames=9)
    features = torch.full((200, 1, 24, 50), 7.0)
    masked = augment_spectrograms(features, recipe, seeded())
    assert set(masked.unique().tolist()) == {0.0, 7.0}
    rows = (masked == 0).all(dim=3).sum(dim=2)
    columns = (masked == 0).all(dim=2).sum(dim=2)
    assert rows.max() <= 7
    assert columns.max() <= 10
    assert rows.unique().numel() > 3  # each clip its own
