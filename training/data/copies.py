"""Re-encoded copies of one sound, found by an acoustic fingerprint (Haitsma and Kalker, "A Highly Robust Audio
Fingerprinting System", ISMIR 2002).

A fingerprint has 32 bits for each 0.1 s: whether the difference in energy between neighbouring bands rises or falls.
Lossy codecs, resampling and a gain change few of these bits, and two recordings of the same kind of sound share half of
them, as chance does. Bits of bands that are far below the loudest one, and of energies that do not change, are not
reliable and are left out. A sound with too few reliable bits matches nothing: what is heard for less than about a
second, and pure tones.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Words = NDArray[np.uint64]
"""Fingerprints (sounds, words), one word for each 0.1 s: 32 bits, above them 32 bits of a mask, 1 for reliable ones."""

WORD_SECONDS = 0.1
FINE = 5  # words of a fine fingerprint for each of a coarse one

_FFT_SECONDS = 0.064
_SPAN = 18  # spectra of 20 ms that one energy is the sum of: 0.36 s
_BANDS = 33
_LOWEST_HZ, _HIGHEST_HZ = 200.0, 7_000.0
_HEARD_DB = 40.0  # below the loudest span: where a codec leaves nothing of the sound
_LEAST_POWER = 1e-7  # of a span: below -70 dBFS there is rounding
_QUIET = 0.01  # bands with a smaller amplitude, relative to the loudest one, have unreliable bits
_STEADY = 1e-3  # so have changes that are smaller, relative to the amplitude
_REACH = 8  # fine words, 0.16 s: encoders put up to 2,257 samples before a sound
_LEAST_BANDS = 10  # with a reliable bit in a word; those of a beep are as many as its harmonics, and change together
_LEAST_BITS = 128  # reliable ones that two sounds must share
_AGREEMENT, _FEW_BITS = 0.45, 3.5
"""A sound is a copy of another if (equal bits - other bits) / bits is larger than 0.45 + 3.5 / sqrt(bits)."""
_CHUNK = 256


def fingerprints(waves: Tensor, rate: int, *, fine: bool = False) -> Words:
    """Fingerprints of waveforms (sounds, samples); fine ones have a word for each 20 ms."""
    step = round(rate * WORD_SECONDS / FINE)
    size = 2 ** round(np.log2(_FFT_SECONDS * rate))
    edges = torch.from_numpy(np.geomspace(_LOWEST_HZ, min(_HIGHEST_HZ, rate / 2), _BANDS + 1))
    bins = torch.bucketize(torch.arange(size // 2 + 1) * rate / size, edges) - 1  # (bins,): its band
    bands = functional.one_hot(bins.clamp(0, _BANDS - 1), _BANDS).float()
    bands[(bins < 0) | (bins >= _BANDS)] = 0.0
    window = torch.hann_window(size)
    found: list[Words] = []
    shortest = size + (_SPAN + FINE) * step  # one word
    for part in torch.split(waves.cpu().float(), 32):
        long = functional.pad(part, (0, max(0, shortest - part.shape[1])))
        power = torch.fft.rfft(long.unfold(1, size, step) * window).abs().square() @ bands  # (sounds, spectra, bands)
        sums = functional.pad(power.double().cumsum(dim=1), (0, 0, 1, 0))
        energy = (sums[:, _SPAN:] - sums[:, :-_SPAN]).clamp_min(0).sqrt()  # (sounds, spans, bands)
        total = energy.square().sum(dim=2) / (_SPAN * size * window.square().sum())  # about the mean square
        loud = total > (total.amax(dim=1, keepdim=True) * 10 ** (-_HEARD_DB / 10)).clamp_min(_LEAST_POWER)
        slope = energy.diff(dim=2)
        change = slope[:, FINE:] - slope[:, :-FINE]  # (sounds, words, 32)
        pair = energy[..., 1:] + energy[..., :-1]
        pair = torch.minimum(pair[:, FINE:], pair[:, :-FINE])
        strongest = energy.amax(dim=2, keepdim=True)
        strongest = torch.maximum(strongest[:, FINE:], strongest[:, :-FINE])
        reliable = (change.abs() > _STEADY * pair) & (pair > _QUIET * strongest)
        reliable &= (loud[:, FINE:] & loud[:, :-FINE])[..., None]
        reliable &= reliable.sum(dim=2, keepdim=True) >= _LEAST_BANDS
        words = _packed((change > 0) & reliable) | _packed(reliable) << np.uint64(32)
        found.append(words if fine else np.ascontiguousarray(words[:, ::FINE]))
    return np.concatenate(found) if found else np.zeros((0, 0), np.uint64)


def best_copies(fine: Words, stored: Words) -> NDArray[np.int64]:
    """(sounds,): for each fine fingerprint the row of `stored`, of coarse ones, of which it is a copy; -1 for none."""
    best = np.full(len(fine), -1)
    agreement = np.zeros(len(fine), np.float32)
    for at in range(0, len(fine), _CHUNK):
        queries = fine[at : at + _CHUNK]
        rows = slice(at, at + len(queries))
        for start in range(0, len(stored), _CHUNK):
            found = _agreement(queries, stored[start : start + _CHUNK])
            index = found.argmax(axis=1)
            value = found[np.arange(len(found)), index]
            better = value > agreement[rows]
            best[rows] = np.where(better, start + index, best[rows])
            agreement[rows] = np.where(better, value, agreement[rows])
    return best


def copied_pairs(fine: Words) -> list[tuple[int, int]]:
    """The pairs of rows, the lower one first, that are copies of each other."""
    pairs: list[tuple[int, int]] = []
    coarse = np.ascontiguousarray(fine[:, ::FINE])
    for at in range(0, len(fine), _CHUNK):
        for start in range(at, len(fine), _CHUNK):
            found = _agreement(fine[at : at + _CHUNK], coarse[start : start + _CHUNK])
            rows, others = np.nonzero(found > 0)
            pairs += [(at + int(a), start + int(b)) for a, b in zip(rows, others, strict=True) if at + a < start + b]
    return pairs


def _agreement(fine: Words, stored: Words) -> NDArray[np.float32]:
    """(queries, stored): the largest agreement of any shift, less the one from which on a sound is a copy; -1 for pairs
    that share too few bits."""
    words = min(stored.shape[1], -(-fine.shape[1] // FINE))
    bits, reliable = _signs(stored[:, :words])
    best = torch.full((len(fine), len(stored)), -1.0)
    padded = np.pad(fine, ((0, 0), (_REACH, _REACH + FINE)))
    for shift in range(2 * _REACH + 1):
        moved, own = _signs(padded[:, shift::FINE][:, :words])
        shared = own @ reliable.T
        excess = moved @ bits.T / shared - _AGREEMENT - _FEW_BITS * shared.rsqrt()
        best = torch.maximum(best, excess.masked_fill(shared < _LEAST_BITS, -1.0))
    agreement: NDArray[np.float32] = best.numpy()
    return agreement


def _packed(bits: Tensor) -> Words:
    """(..., 32) -> (...)."""
    return np.packbits(bits.numpy(), axis=-1).view("<u4")[..., 0].astype(np.uint64)


def _signs(words: Words) -> tuple[Tensor, Tensor]:
    """(sounds, words) -> (sounds, words * 32): 1 and -1 for reliable bits and 0 for others, and the mask."""
    parts = np.ascontiguousarray(words).astype("<u8").view(np.uint8).reshape(*words.shape, 8)
    bits = np.unpackbits(parts, axis=2).reshape(len(words), -1, 2, 32).astype(np.float32)
    mask = bits[:, :, 1]
    signs = (2 * bits[:, :, 0] - 1) * mask
    return torch.from_numpy(signs.reshape(len(words), -1)), torch.from_numpy(mask.reshape(len(words), -1))
