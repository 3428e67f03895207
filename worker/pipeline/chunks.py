"""The spectrogram of a whole sound of any length, computed in chunks and joined without a seam.

The front end pads both ends of its input. Each chunk therefore has more samples on both sides than its kept frames
need: no kept frame depends on the padding at a cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Array
from worker.model.frontend import FrontendConfig

FRAMES = 1_024  # kept per chunk: some seconds of sound, a few MB on the device


@dataclass(frozen=True)
class Chunk:
    """Samples, and which frames of their spectrogram belong to the whole."""

    samples: NDArray[np.float32]  # (samples,)
    kept: slice  # of the frames


def split_chunks(waveform: NDArray[np.float32], frontend: FrontendConfig, frames: int = FRAMES) -> list[Chunk]:
    """Chunks whose kept frames, one after the other, are those of the whole: `frames` each, the last one fewer.

    The samples are views into `waveform`, (samples,), which must be longer than half of `n_fft`.
    """
    total, hop = frontend.frames(len(waveform)), frontend.hop
    margin = -(-frontend.n_fft // hop)  # frames: a whole n_fft, since the last chunk must be long enough to be padded
    chunks: list[Chunk] = []
    for first in range(0, total, frames):
        begin, end = max(first - margin, 0), min(first + frames, total)
        samples = waveform[begin * hop : (end + margin) * hop]
        chunks.append(Chunk(samples, slice(first - begin, end - begin)))
    return chunks


def join_chunks(chunks: Sequence[Chunk], spectrograms: Sequence[Array]) -> Array:
    """(mels, frames) of the whole from the spectrogram of each chunk."""
    kept = [values[:, chunk.kept] for chunk, values in zip(chunks, spectrograms, strict=True)]
    return np.concatenate(kept, axis=1)
