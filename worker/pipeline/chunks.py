"""The spectrogram of a whole sound, however long: taken in stretches, put together without a seam.

The front end pads what it is given at both ends, so each stretch brings more sound than the frames that are kept of it
need: no frame that is kept has seen the padding of a cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Array
from worker.model.frontend import FrontendConfig

FRAMES = 1_024  # of a stretch: some seconds, a few MB on the device


@dataclass(frozen=True)
class Chunk:
    """Samples, and which frames of their spectrogram belong to the whole."""

    samples: NDArray[np.float32]
    kept: slice


def split_chunks(waveform: NDArray[np.float32], frontend: FrontendConfig, frames: int = FRAMES) -> list[Chunk]:
    """Stretches whose kept frames, one after the other, are those of the whole: `frames` each, the last fewer.

    The samples are views into `waveform`, which must be longer than half of `n_fft`.
    """
    total, hop = frontend.frames(len(waveform)), frontend.hop
    margin = -(-frontend.n_fft // hop)  # frames: a whole n_fft, since the last stretch must be long enough to be padded
    stretches: list[Chunk] = []
    for first in range(0, total, frames):
        begin, end = max(first - margin, 0), min(first + frames, total)
        samples = waveform[begin * hop : (end + margin) * hop]
        stretches.append(Chunk(samples, slice(first - begin, end - begin)))
    return stretches


def join_chunks(stretches: Sequence[Chunk], spectrograms: Sequence[Array]) -> Array:
    """(mels, frames) of the whole from the spectrogram of each stretch."""
    kept = [values[:, stretch.kept] for stretch, values in zip(stretches, spectrograms, strict=True)]
    return np.concatenate(kept, axis=1)
