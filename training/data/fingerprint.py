"""Digests of the sounds that a model was trained on, in a file of its directory.

They recognise a training sound in any data set: a renamed folder, another split, another lossless format. A lossy copy
has other samples, and is recognised by its acoustic fingerprint (`copies`), which is stored as well.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.copies import Words, best_copies, fingerprints
from training.data.windows import Windows, in_parts
from training.errors import EvaluationError, cause

TRAINING_SOUNDS = "training_sounds.npy"
"""The digests as uint64 (sounds,), sorted: 8 bytes for each window. Among 100,000 training and 100,000 test windows,
two different ones have the same digest with a probability of 5e-10."""

TRAINING_FINGERPRINTS = "training_fingerprints.npy"
"""The acoustic fingerprints as uint64 (windows, words): 80 bytes for each second."""

_PART = 256  # windows in memory

Digests = NDArray[np.uint64]


def sound_digests(waves: Tensor) -> Digests:
    """(windows, samples) -> (windows,): the start of the SHA-256 of the samples in 16 bits, without the zeros at either
    end, with which short sounds are padded; 0 for digital silence."""
    digests = np.zeros(len(waves), np.uint64)
    for row, wave in enumerate(waves):
        samples = (wave.cpu() * 32_768).round().clamp(-32_768, 32_767).to(torch.int16).numpy()
        sounding = np.flatnonzero(samples)
        if len(sounding):
            trimmed = samples[sounding[0] : sounding[-1] + 1].astype("<i2")
            digests[row] = int.from_bytes(hashlib.sha256(trimmed.tobytes()).digest()[:8], "little")
    return digests


def save_training_sounds(directory: Path, waves: Windows, rate: int, bases: Sequence[Path] = ()) -> None:
    """Store digests and fingerprints of training windows (windows, samples) in a model directory.

    Those of `bases` are added, the directories of the models that it started from or learned from: it has seen their
    sounds, too. Raises OSError, and EvaluationError for a damaged file of theirs.
    """
    digests = [sound_digests(part) for part in in_parts(waves, _PART)]
    words = [fingerprints(part, rate) for part in in_parts(waves, _PART)]
    _save(directory, digests, words, bases)


def join_training_sounds(directory: Path, models: Sequence[Path]) -> None:
    """Store the digests and fingerprints of all of these model directories that have some. Raises OSError, and
    EvaluationError for a damaged file."""
    _save(directory, [], [], models)


def _save(directory: Path, digests: list[Digests], words: list[Words], bases: Sequence[Path]) -> None:
    for base in bases:
        digests += _present(_read_digests(base))
        words += _present(_read_words(base))
    if digests:
        different = np.unique(np.concatenate(digests))
        np.save(directory / TRAINING_SOUNDS, different[different > 0])
    if words:
        longest = max(part.shape[1] for part in words)  # windows of a base may have another length
        every = np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]))) for part in words])
        np.save(directory / TRAINING_FINGERPRINTS, np.unique(every[(every > 0).any(axis=1)], axis=0).astype("<u8"))


def has_digests(directory: Path) -> bool:
    """Whether a model directory has digests of the sounds that the model was trained on; the shipped ones have none."""
    return (directory / TRAINING_SOUNDS).is_file()


def seen_windows(directory: Path, waves: Tensor, rate: int) -> NDArray[np.bool_]:
    """(windows, samples) -> (windows,): whether the model was trained on this sound, or on a re-encoded copy of it.

    None is known to be for a model without digests. Raises EvaluationError for a damaged file.
    """
    digests = _read_digests(directory)
    if digests is None:
        return np.zeros(len(waves), bool)
    seen: NDArray[np.bool_] = np.isin(sound_digests(waves), digests)
    words = _read_words(directory)
    if words is not None and words.size and not seen.all():
        rows = np.flatnonzero(~seen)
        seen[rows] = best_copies(fingerprints(waves[torch.from_numpy(rows)], rate, fine=True), words) >= 0
    return seen


def _read_digests(directory: Path) -> Digests | None:
    return _read(directory / TRAINING_SOUNDS, np.dtype(np.uint64), 1, "(sounds,)")


def _read_words(directory: Path) -> Words | None:
    return _read(directory / TRAINING_FINGERPRINTS, np.dtype(np.uint64), 2, "(windows, words)")


def _present(array: NDArray[np.uint64] | None) -> list[NDArray[np.uint64]]:
    return [] if array is None else [array]


def _read(path: Path, dtype: np.dtype[Any], axes: int, shape: str) -> NDArray[Any] | None:
    """An array of a model directory; None if it has none. Raises EvaluationError for a damaged file."""
    try:
        array: NDArray[Any] = np.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise EvaluationError(f"{path} cannot be read: {cause(error)}") from error
    if array.dtype != dtype or array.ndim != axes:
        raise EvaluationError(f"{path} holds {array.dtype} of shape {array.shape}; accepted: {dtype} {shape}")
    return array
