"""A synthesised sound to try a service with, so that no recording has to be shipped."""

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # Hz
NAME = "A synthesised alarm clock"


def alarm_clock(seconds: float = 5.0) -> NDArray[np.float32]:
    """A digital alarm clock: four short beeps, a pause, and again. Shape (samples,); the same samples every time."""
    time = np.arange(int(seconds * RATE)) / RATE  # (samples,), seconds
    tone = sum(np.sin(2 * np.pi * 2_048 * partial * time) / partial**2 for partial in (1, 3))
    beat = time % 1.0  # a group of beeps each second
    sounding = (beat < 0.5) & (beat % 0.125 < 0.0625)
    edge = int(0.002 * RATE)  # 2 ms, so that beeps do not click
    envelope = np.convolve(sounding.astype(np.float64), np.hanning(edge) / np.hanning(edge).sum(), mode="same")
    noise = np.random.default_rng(0).normal(scale=0.002, size=len(time))
    return np.asarray(0.4 * tone * envelope + noise, dtype=np.float32)
