"""Mel filter banks by the formulas of their authors, for comparison: (frequency bins, mels)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def slaney_filters(rate: int, size: int, mels: int, low: float, high: float) -> Floats:
    """Malcolm Slaney's Auditory Toolbox (1998): linear below 1 kHz, then logarithmic, triangles over Hz of area 1."""
    step = np.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return float(hertz * 3 / 200 if hertz < 1_000 else 15 + np.log(hertz / 1_000) / step)

    def to_hertz(mel: float) -> float:
        return float(mel * 200 / 3 if mel < 15 else 1_000 * np.exp((mel - 15) * step))

    edges = [to_hertz(mel) for mel in np.linspace(to_mel(low), to_mel(high), mels + 2)]
    bins = np.arange(size // 2 + 1) * rate / size
    columns = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        triangle = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(0)
        columns.append(triangle * 2 / (right - left))
    return np.stack(columns, axis=1)


def kaldi_filters(rate: int, size: int, mels: int, low: float, high: float) -> Floats:
    """Kaldi's feature extraction: triangles over the mel scale with a peak of 1, none at half of the sample rate."""
    scale = 1_127 * np.log(1 + np.arange(size // 2 + 1) * rate / size / 700)
    first, last = (1_127 * np.log(1 + hertz / 700) for hertz in (low, high))
    width = (last - first) / (mels + 1)
    bank = np.stack([(1 - np.abs(scale - first - width * (mel + 1)) / width).clip(0) for mel in range(mels)], axis=1)
    bank[-1] = 0
    return bank


def evenly(mels: int) -> Tensor:
    """`LogMel.shown_at` of a single spectrogram of so many mels."""
    return (torch.arange(mels) + 0.5) / mels
