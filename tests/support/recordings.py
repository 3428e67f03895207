"""Small recordings for tests of custom data sets: tones with distinct frequencies, so that no two files are
identical."""

from itertools import count
from pathlib import Path

import av
import numpy as np

from tests.support.sounds import encode, tone

_frequencies = count(200)


def write_recording(
    path: Path, seconds: float = 0.3, *, hz: float | None = None, rate: int = 8_000, level: float = 0.5
) -> Path:
    """Write a WAV file with a tone; `hz` defaults to another frequency on every call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(seconds, hz=hz, rate=rate, level=level))
    return path


def wav_bytes(seconds: float = 0.3, *, hz: float | None = None, rate: int = 8_000, level: float = 0.5) -> bytes:
    return encode(tone(seconds, rate, hz=hz or next(_frequencies), level=level), rate)


def write_video(path: Path, seconds: float = 1.0, *, hz: float = 440, rate: int = 8_000) -> Path:
    """Write an MP4 or Matroska file with a grey picture (MPEG-4) and a tone (AAC)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = tone(seconds, rate, hz=hz)[:, 0]
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for _ in range(round(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for start in range(0, len(wave), 1_024):
            block = av.AudioFrame.from_ndarray(wave[None, start : start + 1_024], format="fltp", layout="mono")
            block.sample_rate, block.pts = rate, start
            container.mux(sound.encode(block))
        container.mux(sound.encode())
    return path


def write_class_folders(root: Path, *labels: str, takes: int = 4, speakers: int = 4) -> Path:
    """`takes` recordings of each class, called after their speaker: s0-0.wav, s1-1.wav, ..."""
    for label in labels:
        for take in range(takes):
            write_recording(root / label / f"{label}{take % speakers}-{take}.wav")
    return root
