"""Mel filters and pre-emphasis of other projects: by the formulas of their authors."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.support.mel import kaldi_filters, slaney_filters
from worker.model.frontend import FrontendConfig, LogMel
from worker.pipeline.chunks import join_chunks, split_chunks

KALDI = FrontendConfig(
    sample_rate=32_000, n_fft=1_024, win_length=799, hop=320, preemphasis=0.97, n_mels=128, mel_filters="kaldi",
    f_max=15_000, log_offset=1e-5, floor_db=-50, window_seconds=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "size", "mels", "low", "high"), [(16_000, 512, 64, 50.0, 8_000.0), (32_000, 1_024, 64, 50.0, 14_000.0)]
)
def test_slaney_filters(rate: int, size: int, mels: int, low: float, high: float) -> None:
    config = FrontendConfig(sample_rate=rate, n_fft=size, n_mels=mels, mel_filters="slaney", f_min=low, f_max=high)
    expected = slaney_filters(rate, size, mels, low, high)
    np.testing.assert_allclose(LogMel(config).bank, expected, rtol=0, atol=1e-4 * expected.max())


@pytest.mark.parametrize("hertz", [500, 1_000, 4_000])
def test_a_sine_is_shown_at_the_same_level_whatever_the_filters(hertz: float) -> None:
    """The network gets the level of its own filters: those with an area of 1 give less the wider they are."""
    wave = torch.sin(2 * math.pi * hertz * torch.arange(32_000) / 32_000)[None]
    frontends = [
        LogMel(
            FrontendConfig(sample_rate=32_000, n_mels=64, f_min=50, f_max=14_000, floor_db=-100, mel_filters=filters)
        )
        for filters in ("htk", "slaney", "kaldi")
    ]
    htk, *others = (float(frontend.decibels(wave)[0, 0, :, 50].max()) for frontend in frontends)
    assert others == pytest.approx([htk, htk], abs=4)  # a sine lies beside the peak of a filter
    own = [float(frontend.log_power(wave)[0, 0, :, 50].max()) for frontend in frontends]
    assert own[1] < own[0] - 15


def test_kaldi_filters() -> None:
    expected = kaldi_filters(32_000, 1_024, 128, 0.0, 15_000.0)
    np.testing.assert_allclose(LogMel(KALDI).bank, expected, rtol=0, atol=1e-4)


def test_a_window_that_ends_at_zero_is_a_longer_one_without_its_last_sample() -> None:
    """The symmetric window of 800 samples, and pre-emphasis: the features of a signal, frame by frame."""
    wave = torch.randn(1, KALDI.window_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    samples = wave[0].double().numpy()
    emphasised = np.pad(samples[1:] - 0.97 * samples[:-1], 512, mode="reflect")
    window = np.zeros(1_024)
    window[112:912] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799)
    frames = np.stack([emphasised[at : at + 1_024] * window for at in range(0, len(emphasised) - 1_023, 320)])
    mels = np.abs(np.fft.rfft(frames)) ** 2 @ kaldi_filters(32_000, 1_024, 128, 0.0, 15_000.0)
    expected = torch.from_numpy(np.log(mels + 1e-5).T).float()
    assert expected.shape[1] == KALDI.window_frames == 100
    decibels = LogMel(KALDI).decibels(wave)[0, 0]
    torch.testing.assert_close(decibels * math.log(10) / 10, expected, rtol=0, atol=1e-3)


def test_stacked_spectrograms_are_those_of_their_own_front_ends() -> None:
    """Below the first one, each frame as often as it has the hop of the first; that one alone is shown."""
    first = FrontendConfig(hop=160, n_mels=64, win_length=400, n_fft=512, center=False, level_dbfs=-26, mean=-3.0)
    other = FrontendConfig(mean=-17.0, std=20.0)
    wave = torch.randn(2, 80_000, generator=torch.Generator().manual_seed(0)) * 0.1
    config = first.model_copy(update={"stacked": (other,)})
    stacked = LogMel(config)
    features = stacked(wave)
    assert features.shape == (2, 1, config.rows, config.window_frames) == (2, 1, 192, 498)
    torch.testing.assert_close(features[:, :, :64], LogMel(first)(wave))
    torch.testing.assert_close(features[:, :, 64:, ::2], LogMel(other)(wave)[..., :249])
    assert torch.equal(features[:, :, 64:, 0:498:2], features[:, :, 64:, 1:498:2])
    torch.testing.assert_close(stacked.decibels(wave), LogMel(first).decibels(wave))
    torch.testing.assert_close(stacked.shown(stacked.log_power(wave)), LogMel(first).decibels(wave))
    silent = stacked(torch.zeros(1, 80_000))
    assert (silent[0, 0] == stacked.silence).all()
    quiet = config.changed(level_dbfs=-30)
    assert [front.level_dbfs for front in (quiet, *quiet.stacked)] == [-30, -30]
    assert FrontendConfig.model_validate(config.model_dump(mode="json")) == config


def test_rows_of_all_spectrograms_are_placed_on_the_axis_that_is_shown() -> None:
    """By their frequencies; what is outside of the shown ones is at the ends."""
    shown = FrontendConfig(n_mels=64, f_min=125, f_max=4_000)
    front = LogMel(shown.model_copy(update={"stacked": (shown, FrontendConfig())}))
    own, same, wide = front.shown_at.split([64, 64, 128])
    torch.testing.assert_close(own, (torch.arange(64) + 0.5) / 64)
    torch.testing.assert_close(same, own)
    assert (wide.diff() >= 0).all()
    assert wide[0] == own[0]
    assert wide[-1] == own[-1]
    centres = [2_595 * math.log10(1 + at / 700) for at in (125, 4_000)]  # HTK's mels of the edges
    at_1_khz = (2_595 * math.log10(1 + 1_000 / 700) - centres[0]) / (centres[1] - centres[0])
    row_of_1_khz = int(LogMel(FrontendConfig()).bank[64].argmax())  # bins of 15.6 Hz
    assert wide[row_of_1_khz] == pytest.approx(at_1_khz, abs=0.01)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hop": 250}, "no multiple of 160"),
        ({"sample_rate": 32_000}, "one sample rate and window"),
        ({"window_seconds": 2.0}, "one sample rate and window"),
        ({"stacked": [{}]}, "no others stacked"),
    ],
)
def test_spectrograms_of_other_windows_are_not_stacked(other: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FrontendConfig.model_validate({"hop": 160, "stacked": [other]})


@pytest.mark.parametrize(
    "config",
    [FrontendConfig(), KALDI, FrontendConfig(level_dbfs=-30), KALDI.model_copy(update={"level_dbfs": -30.0})],
    ids=["usual", "offset", "level", "offset and level"],
)
def test_silence_has_one_value(config: FrontendConfig) -> None:
    """The input of the network for digital silence, in every band."""
    features = LogMel(config)(torch.zeros(1, config.window_samples))
    torch.testing.assert_close(features, LogMel(config).silence.expand_as(features))


def test_chunks_of_a_pre_emphasised_sound_join_without_a_seam() -> None:
    """The one sample less at the end of each chunk is not in its kept frames."""
    wave = (np.random.default_rng(0).standard_normal(32_000 * 3) * 0.1).astype(np.float32)
    frontend = LogMel(KALDI)
    whole = frontend.decibels(torch.from_numpy(wave)[None])[0, 0].numpy()
    chunks = split_chunks(wave, KALDI, frames=64)
    parts = [frontend.decibels(torch.from_numpy(chunk.samples)[None])[0, 0].numpy() for chunk in chunks]
    joined = join_chunks(chunks, parts)
    assert joined.shape == whole.shape == (128, KALDI.frames(len(wave)))
    np.testing.assert_allclose(joined, whole, rtol=0, atol=1e-3)


def test_a_config_of_an_earlier_version_has_the_filters_that_it_had() -> None:
    """Filters and pre-emphasis are not in it."""
    old = {name: value for name, value in FrontendConfig().model_dump().items() if name not in NEW}
    assert FrontendConfig.model_validate(old) == FrontendConfig(mel_filters="htk", preemphasis=0)


NEW = ("mel_filters", "preemphasis")


def test_a_window_has_one_sample_more_for_pre_emphasis() -> None:
    config = KALDI.model_copy(update={"center": False, "n_fft": 800, "win_length": 800, "n_mels": 64})
    with pytest.raises(ValidationError, match="too short"):
        FrontendConfig.model_validate({**config.model_dump(), "window_seconds": 800 / 32_000})
