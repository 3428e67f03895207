"""Digests of the sounds that a model was trained on, in a file of its directory.

They recognise a training sound in any data set: a renamed folder, another split, another lossless format. A lossy copy
has other samples and is not recognised, nor is a sound that another version decodes differently.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import EvaluationError

TRAINING_SOUNDS = "training_sounds.npy"
"""The digests as uint64 (sounds,), sorted: 8 bytes for each window. Among 100,000 training and 100,000 test windows,
two different ones have the same digest with a probability of 5e-10."""

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


def save_training_sounds(directory: Path, waves: Tensor) -> None:
    """Store the digests of training windows (windows, samples) in a model directory. Raises OSError."""
    digests = np.unique(sound_digests(waves))
    np.save(directory / TRAINING_SOUNDS, digests[digests > 0])


def read_training_sounds(directory: Path) -> Digests | None:
    """The digests of a model; None for a model without them. Raises EvaluationError for a damaged file."""
    path = directory / TRAINING_SOUNDS
    try:
        digests: Digests = np.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    if digests.dtype != np.uint64 or digests.ndim != 1:
        raise EvaluationError(f"{path} holds {digests.dtype} of shape {digests.shape}; accepted: uint64 (sounds,)")
    return digests
