"""Waveform to normalised log-mel spectrogram, with every number in one config that travels inside the model.

Each clip is treated alone: no statistic is taken over the batch, so what stands beside a clip never changes its answer.
"""

import warnings

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from worker.model.compat.torchaudio import torchaudio


class FrontendConfig(BaseModel):
    """Parameters of the log-mel front end. Frequencies in Hz, lengths in samples, levels in dB."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sample_rate: int = Field(default=16_000, ge=4_000, le=192_000)
    n_fft: int = Field(default=1_024, ge=64, le=2**16)
    hop: int = Field(default=320, ge=1)
    n_mels: int = Field(default=128, ge=8, le=2**12)
    f_min: float = Field(default=0.0, ge=0)
    f_max: float = 8_000.0
    floor_db: float = -50.0  # mel power below this counts as silence; a full-scale sine is about +48 dB
    mean: float = 0.0  # of the training set's log-mels, in dB
    std: float = Field(default=1.0, gt=0)
    window_seconds: float = Field(default=5.0, gt=0, le=600)  # what the network sees at once

    @model_validator(mode="after")
    def _consistent(self) -> "FrontendConfig":
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"mel range {self.f_min:g}–{self.f_max:g} Hz does not fit below half of {self.sample_rate} Hz"
            )
        if self.hop > self.n_fft:
            raise ValueError(f"hop {self.hop} skips samples between windows of {self.n_fft}")
        if self.window_samples <= self.n_fft // 2:
            raise ValueError(f"{self.window_seconds:g} s are too short for n_fft {self.n_fft} at {self.sample_rate} Hz")
        return self

    @property
    def window_samples(self) -> int:
        return round(self.window_seconds * self.sample_rate)

    @property
    def window_frames(self) -> int:
        return self.frames(self.window_samples)

    def frames(self, samples: int) -> int:
        """Spectrogram frames of a clip of that many samples (centred windows)."""
        return samples // self.hop + 1


class LogMel(nn.Module):
    """(batch, samples) in -1..1 at `config.sample_rate` -> (batch, 1, mels, frames), mean 0 and deviation 1 over the
    training set, so that a mask of zeros is a mask to the mean.

    Raises ValueError when a mel filter is empty: such a row would be constant and the network would learn nothing from
    it.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        # Built from the config, never stored: a checkpoint carries the numbers, not the buffers.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torchaudio warns of empty filters; they are an error below
            bank: Tensor = torchaudio.functional.melscale_fbanks(
                n_freqs=config.n_fft // 2 + 1,
                f_min=config.f_min,
                f_max=config.f_max,
                n_mels=config.n_mels,
                sample_rate=config.sample_rate,
                mel_scale="htk",
                norm=None,
            )  # (n_fft / 2 + 1, mels)
        empty = (bank.sum(dim=0) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"{len(empty)} of {config.n_mels} mel filters are empty (rows {empty[:5]}): use fewer mels or a longer"
                f" n_fft than {config.n_fft} at {config.sample_rate} Hz"
            )
        self.window: Tensor
        self.bank: Tensor
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.normalise(self.decibels(waveform))

    def normalise(self, decibels: Tensor) -> Tensor:
        """(batch, 1, mels, frames) in dB -> what the network takes."""
        return (decibels - self.config.mean) / self.config.std

    def decibels(self, waveform: Tensor) -> Tensor:
        """The same without the normalisation, in dB: what people look at."""
        spectrum = torch.stft(
            waveform.float(), self.config.n_fft, self.config.hop, window=self.window, center=True, return_complex=True
        )  # (batch, n_fft / 2 + 1, frames)
        # The squared magnitude from its parts: complex abs() takes a square root only to have it undone, and a sum over
        # two neighbours takes seven times as long as their addition.
        squares = torch.view_as_real(spectrum).square()
        power = squares[..., 0] + squares[..., 1]
        mels = torch.matmul(self.bank.T, power).unsqueeze(1)  # (batch, 1, mels, frames)
        floor = 10.0 ** (self.config.floor_db / 10.0)
        return 10.0 * torch.log10(mels.clamp_min(floor))
