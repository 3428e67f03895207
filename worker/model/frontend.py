"""Waveform to normalised log-mel spectrogram; all parameters are in one config that is stored with the model.

Each clip is processed on its own: no statistic is computed over the batch, so its neighbours never change its result.

The mel filters are torchaudio's. The rest of `torchaudio.transforms.MelSpectrogram` and `AmplitudeToDB` is computed
here, for three reasons. MelSpectrogram takes the square root of the power and squares it again, which costs time on a
CPU (see `LogMel.decibels`). The floor of AmplitudeToDB (`top_db`) is relative to the loudest value of its input; here
it is a constant of the config, so that it does not depend on the clip or the batch. And torchaudio only warns of empty
mel filters, which are an error here. A test compares the numbers with torchaudio's.
"""

import math
import warnings
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from shared.audio.level import BLOCK_SECONDS, FRAME_BLOCKS
from worker.model.compat.torchaudio import torchaudio

_NO_POWER = 1e-20  # -200 dB, for the logarithm of zero
_ROUNDING = 2e-6  # of a value that is computed from its logarithm, relative

MelFilters = Literal["htk", "slaney", "kaldi"]
"""`htk`: triangles over Hz with a peak of 1, evenly spaced on HTK's mel scale. `slaney`: triangles over Hz with an area
of 1, evenly spaced on the mel scale of Slaney's Auditory Toolbox, as librosa's. `kaldi`: triangles over HTK's mel scale
with a peak of 1, as Kaldi's."""


class FrontendConfig(BaseModel):
    """Parameters of the log-mel front end. Frequencies in Hz, lengths in samples, levels in dB."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sample_rate: int = Field(default=16_000, ge=4_000, le=192_000)
    n_fft: int = Field(default=1_024, ge=64, le=2**16)
    win_length: int | None = Field(default=None, ge=16)  # of the Hann window; None: n_fft
    center: bool = True  # frame k is centred at k hops; otherwise it begins there, and the sound is not padded
    hop: int = Field(default=320, ge=1)
    preemphasis: float = Field(default=0.0, ge=0, lt=1)
    """Each sample becomes the next one minus this share of itself, which leaves one sample fewer; 0: none of this."""
    n_mels: int = Field(default=128, ge=8, le=2**12)
    mel_filters: MelFilters = "htk"
    f_min: float = Field(default=0.0, ge=0)
    f_max: float = 8_000.0
    spectrum: Literal["power", "magnitude"] = "power"  # what the mel filters add up
    log_offset: float = Field(default=0.0, ge=0)  # added to the mel values before the logarithm
    floor_db: float = -50.0  # mel power below this is clipped to it; a full-scale sine is about +48 dB
    mean: float = 0.0  # dB, of the log-mels of the training set
    std: float = Field(default=1.0, gt=0)  # dB
    window_seconds: float = Field(default=5.0, gt=0, le=600)  # input length of the network
    repeat_pause: float | None = Field(default=None, ge=0, le=60)
    """A sound that is shorter than a window is repeated to its end, with so many seconds of silence in between; None:
    only silence follows it."""
    level_dbfs: float | None = Field(default=None, ge=-60, le=0)
    """The loudest 0.1 s of each window is brought to this level, so that the distance of a sound does not change its
    result; None: the level is left as it is."""
    max_gain_db: float = Field(default=60.0, ge=0)  # so that the rounding of 16 bits is not made a sound
    stacked: tuple["FrontendConfig", ...] = ()
    """Further spectrograms of the same window, for networks side by side that were trained with other ones. Their rows
    follow those of this one, each frame as often as it has the hop of this one, and they end with its last frame."""

    @model_validator(mode="after")
    def _consistent(self) -> "FrontendConfig":
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"mel range {self.f_min:g}–{self.f_max:g} Hz must be within 0 and half of {self.sample_rate} Hz"
            )
        if self.frame_samples > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if self.hop > self.frame_samples:
            raise ValueError(f"hop {self.hop} skips samples between windows of {self.frame_samples}")
        for other in self.stacked:
            if other.stacked or (other.sample_rate, other.window_seconds) != (self.sample_rate, self.window_seconds):
                raise ValueError("stacked spectrograms are of one sample rate and window, and have no others stacked")
            if other.hop % self.hop:
                raise ValueError(f"the hop {other.hop} of a stacked spectrogram is no multiple of {self.hop}")
        if self.window_samples < self.shortest:
            raise ValueError(
                f"window_seconds {self.window_seconds:g} is too short for n_fft {self.n_fft} at {self.sample_rate} Hz"
            )
        return self

    @property
    def frame_samples(self) -> int:
        """Length of the Hann window."""
        return self.win_length or self.n_fft

    @property
    def shortest(self) -> int:
        """The fewest samples of a clip: half an FFT length is reflected at either end of a centred one."""
        own = (self.n_fft // 2 + 1 if self.center else self.frame_samples) + self._lost
        return max([own, *(other.shortest for other in self.stacked)])

    @property
    def rows(self) -> int:
        """Of the network's input: the mels of all spectrograms."""
        return self.n_mels + sum(other.n_mels for other in self.stacked)

    @property
    def window_samples(self) -> int:
        return round(self.window_seconds * self.sample_rate)

    @property
    def pause_samples(self) -> int | None:
        """Of `repeat_pause`."""
        return None if self.repeat_pause is None else round(self.repeat_pause * self.sample_rate)

    @property
    def window_frames(self) -> int:
        return self.frames(self.window_samples)

    def changed(self, **values: float) -> "FrontendConfig":
        """The same with other values, in stacked spectrograms, too."""
        return self.model_copy(update={**values, "stacked": tuple(other.changed(**values) for other in self.stacked)})

    def frames(self, samples: int) -> int:
        """Number of spectrogram frames of a clip of that many samples."""
        samples -= self._lost
        return samples // self.hop + 1 if self.center else (samples - self.frame_samples) // self.hop + 1

    @property
    def _lost(self) -> int:
        """Samples by which pre-emphasis shortens a clip."""
        return 1 if self.preemphasis else 0


class LogMel(nn.Module):
    """(batch, samples) in -1..1 at `config.sample_rate` -> (batch, 1, mels, frames), with mean 0 and standard deviation
    1 over the training set, so that masking with zeros masks with the mean. With stacked spectrograms, `mels` are the
    rows of all of them.

    Raises ValueError if a mel filter is empty: its row would be constant, and the network would learn nothing from it.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        # Buffers are rebuilt from the config and not stored in checkpoints.
        bank = _mel_filters(config, area_of_1=config.mel_filters == "slaney")  # (n_fft / 2 + 1, mels)
        empty = (bank.sum(dim=0) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"{len(empty)} of {config.n_mels} mel filters are empty (rows {empty[:5]}): use fewer mels or a longer"
                f" n_fft than {config.n_fft} at {config.sample_rate} Hz"
            )
        self.window: Tensor
        self.bank: Tensor
        self.shown_gain: Tensor  # (mels, 1) dB
        self.register_buffer("window", torch.hann_window(config.frame_samples), persistent=False)
        self.register_buffer("bank", bank, persistent=False)
        of_peak_1 = _mel_filters(config, area_of_1=False)
        gain = self._per_decade * torch.log10(of_peak_1.amax(dim=0) / bank.amax(dim=0))
        self.register_buffer("shown_gain", gain[:, None], persistent=False)
        self._bands = _bands(bank)
        self.stacked = nn.ModuleList(LogMel(other) for other in config.stacked)
        self.silence: Tensor
        """(rows, 1): what `forward` returns for digital silence."""
        self.shown_at: Tensor
        """(rows,), 0 to 1: where each row of the input is on the axis of frequencies that is shown, the one of the
        first spectrogram. Rows of others outside of its range are at its ends."""
        self.register_buffer("silence", self._silence(), persistent=False)
        self.register_buffer("shown_at", self._shown_at(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, 1, mels, frames), the input of the network."""
        return self.features(self.log_power(waveform), waveform)

    def features(self, log_power: Tensor, waveform: Tensor) -> Tensor:
        """`log_power` of a waveform -> the input of the network: at the level of the config, and normalised."""
        if self.stacked:
            return torch.cat([part.own_features(power, waveform) for part, power in self.split(log_power)], dim=-2)
        return self.own_features(log_power, waveform)

    def own_features(self, log_power: Tensor, waveform: Tensor) -> Tensor:
        """`features` without stacked spectrograms."""
        config = self.config
        if config.level_dbfs is None:
            centred = log_power - config.mean
        elif not config.log_offset:
            centred = log_power + (self.gain_db(waveform) - config.mean)[:, None, None, None]
        else:  # a gain is applied to what the offset was added to
            gain = self._linear(self.gain_db(waveform))[:, None, None, None]
            mels = self._linear(log_power) - config.log_offset
            mels = nn.functional.threshold(mels, config.log_offset * _ROUNDING, 0.0)
            centred = self._log(mels * gain) - config.mean
        # In place: these arrays are larger than a core's cache.
        return centred.clamp_min_(config.floor_db - config.mean).div_(config.std)

    def decibels(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, 1, mels, frames) in dB, neither normalised nor brought to a level: the
        spectrogram that is shown to users."""
        return self.shown(self.own_log_power(waveform))

    def shown(self, log_power: Tensor) -> Tensor:
        """`log_power` (..., rows, frames) -> what is shown, (..., mels, frames): the first spectrogram, as of filters
        with a peak of 1, so that a level is the same for every model."""
        return (log_power[..., : self.config.n_mels, :] + self.shown_gain).clamp_min(self.config.floor_db)

    def gain_db(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch,): the gain in dB that brings the loudest 0.1 s to the level of the config.

        As `shared.audio.level.frame_levels`: each 20 ms without its mean, so that neither an offset nor rumble counts.
        """
        size = max(1, round(self.config.sample_rate * BLOCK_SECONDS))
        count = max(1, waveform.shape[-1] // size)
        blocks = waveform[..., : count * size].reshape(waveform.shape[0], count, -1).float()  # (batch, blocks, samples)
        powers = (blocks.square().mean(dim=2) - blocks.mean(dim=2).square()).clamp_min(0.0)
        frames = nn.functional.avg_pool1d(powers[:, None], min(FRAME_BLOCKS, count), stride=1)[:, 0]
        loudest = 10.0 * torch.log10(frames.amax(dim=1).clamp_min(_NO_POWER))
        return ((self.config.level_dbfs or 0.0) - loudest).clamp_max(self.config.max_gain_db)

    def log_power(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, 1, mels, frames): mel power in dB, without a floor."""
        own = self.own_log_power(waveform)
        if not self.stacked:
            return own
        frames, powers = own.shape[-1], [own]
        for part in self.parts[1:]:
            power = part.own_log_power(waveform).repeat_interleave(part.config.hop // self.config.hop, dim=3)
            missing = max(frames - power.shape[-1], 0)
            powers.append(nn.functional.pad(power[..., :frames], (0, missing, 0, 0), mode="replicate"))
        return torch.cat(powers, dim=2)

    def own_log_power(self, waveform: Tensor) -> Tensor:
        """`log_power` without stacked spectrograms."""
        config = self.config
        waveform = waveform.float()
        if config.preemphasis:
            waveform = waveform[..., 1:] - config.preemphasis * waveform[..., :-1]
        if not config.center:
            # torch puts a window that is shorter than the FFT into the middle of it. With these zeros the first window
            # begins at the first sample, and the magnitudes are those of a window that is padded at its end.
            margin = config.n_fft - config.frame_samples
            waveform = nn.functional.pad(waveform, (margin // 2, margin - margin // 2))
        spectrum = torch.stft(
            waveform,
            config.n_fft,
            config.hop,
            win_length=config.frame_samples,
            window=self.window,
            center=config.center,
            return_complex=True,
        )  # (batch, n_fft / 2 + 1, frames)
        # Squared magnitude from real and imaginary part: complex abs() would take a square root only to square it
        # again, and sum(dim=-1) over the two parts takes seven times as long as adding them.
        squares = torch.view_as_real(spectrum).square()
        power = squares[..., 0] + squares[..., 1]
        if config.spectrum == "magnitude":
            power = power.sqrt()
        # Each filter covers few bins: the product with the whole bank would take four times as long.
        mels = torch.cat([self.bank[bins, filters].T @ power[:, bins] for bins, filters in self._bands], dim=1)
        return self._log(mels.unsqueeze(1))  # (batch, 1, mels, frames)

    @property
    def parts(self) -> list["LogMel"]:
        """The front ends whose spectrograms are stacked, from the first row on; this one is the first."""
        return [self, *(cast(LogMel, part) for part in self.stacked)]

    def split(self, spectrograms: Tensor) -> list[tuple["LogMel", Tensor]]:
        """Stacked spectrograms (..., rows, frames) -> each front end with its own (..., mels, frames), a view."""
        sizes = [part.config.n_mels for part in self.parts]
        return list(zip(self.parts, torch.split(spectrograms, sizes, dim=-2), strict=True))

    def _silence(self) -> Tensor:
        level = self._log(torch.zeros(self.config.n_mels, 1)).clamp_min(self.config.floor_db)
        own = (level - self.config.mean) / self.config.std
        return torch.cat([own, *(part.silence for part in self.parts[1:])])

    def _shown_at(self) -> Tensor:
        shown = (np.arange(self.config.n_mels) + 0.5) / self.config.n_mels
        others = [np.interp(part._centres, self._centres, shown) for part in self.parts[1:]]
        return torch.from_numpy(np.concatenate([shown, *others])).float()

    @property
    def _centres(self) -> NDArray[np.float64]:
        """(mels,): the centroid of each filter in Hz."""
        bank = self.bank.double()
        bins = torch.linspace(0, self.config.sample_rate / 2, len(bank), dtype=torch.double)
        return ((bins @ bank) / bank.sum(dim=0)).numpy()

    @property
    def _per_decade(self) -> float:
        """dB of a factor of ten in a mel value."""
        return 10.0 if self.config.spectrum == "power" else 20.0

    def _log(self, mels: Tensor) -> Tensor:
        """Mel values -> dB."""
        return self._per_decade * torch.log10((mels + self.config.log_offset).clamp_min(_NO_POWER))

    def _linear(self, decibels: Tensor) -> Tensor:
        """dB -> the mel value, or the factor of one. With `exp`, since a power of 10 takes eight times as long."""
        return torch.exp(decibels * (math.log(10) / self._per_decade))


def _mel_filters(config: FrontendConfig, *, area_of_1: bool) -> Tensor:
    """The filter bank, (n_fft / 2 + 1, mels); Slaney's with an area or a peak of 1."""
    if config.mel_filters == "kaldi":
        bank, _ = torchaudio.compliance.kaldi.get_mel_banks(
            num_bins=config.n_mels,
            window_length_padded=config.n_fft,
            sample_freq=config.sample_rate,
            low_freq=config.f_min,
            high_freq=config.f_max,
            vtln_low=100.0,  # without effect for a warp factor of 1
            vtln_high=-500.0,
            vtln_warp_factor=1.0,
        )  # (mels, n_fft / 2)
        return nn.functional.pad(bank, (0, 1)).T.contiguous()  # Kaldi leaves out half of the sample rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about empty filters, which are an error of the caller
        filters: Tensor = torchaudio.functional.melscale_fbanks(
            n_freqs=config.n_fft // 2 + 1,
            f_min=config.f_min,
            f_max=config.f_max,
            n_mels=config.n_mels,
            sample_rate=config.sample_rate,
            mel_scale="slaney" if config.mel_filters == "slaney" else "htk",
            norm="slaney" if area_of_1 else None,
        )
    return filters


def _bands(bank: Tensor, count: int = 8) -> list[tuple[slice, slice]]:
    """A filter bank (bins, mels) as blocks outside of which it is zero: the bins and the filters of each."""
    size = -(-bank.shape[1] // count)
    bands: list[tuple[slice, slice]] = []
    for first in range(0, bank.shape[1], size):
        filters = slice(first, first + size)
        bins = bank[:, filters].sum(dim=1).nonzero().flatten()
        bands.append((slice(int(bins[0]), int(bins[-1]) + 1), filters))
    return bands
