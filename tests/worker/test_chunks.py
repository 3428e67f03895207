"""The spectrogram of a whole sound, joined from chunks."""

import numpy as np
import pytest
import torch

from worker.model.frontend import FrontendConfig, LogMel
from worker.pipeline.chunks import join_chunks, split_chunks

FRONT_ENDS = [
    FrontendConfig(),
    FrontendConfig(n_fft=512, hop=160, n_mels=32, window_seconds=1.0),
    FrontendConfig(n_fft=640, hop=640, n_mels=32),  # no overlap
    FrontendConfig(n_fft=1_023, hop=100, n_mels=32),  # no middle
]


def noise(samples: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """White noise, different in every frame."""
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("config", FRONT_ENDS, ids=lambda config: f"{config.n_fft}-{config.hop}")
@pytest.mark.parametrize("frames", [1, 7, 50])
def test_joined_chunks_equal_the_whole(config: FrontendConfig, frames: int) -> None:
    """For any length, position of the cuts and length of the last chunk: no padding at a cut is visible."""
    frontend = LogMel(config)
    shortest = config.n_fft // 2 + 1
    for samples in (shortest, 50 * config.hop - 1, 50 * config.hop, 50 * config.hop + 1, 57 * config.hop + 33):
        sound = noise(max(samples, shortest))
        chunks = split_chunks(sound, config, frames)
        spectrograms = [frontend.decibels(torch.from_numpy(one.samples)[None])[0, 0].numpy() for one in chunks]
        whole = frontend.decibels(torch.from_numpy(sound)[None])[0, 0].numpy()
        joined = join_chunks(chunks, [values.astype(np.float16) for values in spectrograms])
        assert joined.dtype == np.float16
        assert joined.shape == whole.shape
        np.testing.assert_allclose(joined, whole, atol=0.03)


def test_ten_minutes_are_split_into_small_chunks() -> None:
    """Of a bounded length, without copying the sound."""
    config = FrontendConfig()
    sound = np.zeros(600 * config.sample_rate, np.float32)
    chunks = split_chunks(sound, config)
    assert max(len(chunk.samples) for chunk in chunks) < 30 * config.sample_rate
    assert all(chunk.samples.base is sound for chunk in chunks)
    assert sum(chunk.kept.stop - chunk.kept.start for chunk in chunks) == config.frames(len(sound))
