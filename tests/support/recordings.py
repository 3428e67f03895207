"""Small recordings for tests of custom data sets: tones with distinct frequencies, so that no two files are
identical."""

from itertools import count
from pathlib import Path

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


def write_class_folders(root: Path, *labels: str, takes: int = 4, speakers: int = 4) -> Path:
    """`takes` recordings of each class, called after their speaker: s0-0.wav, s1-1.wav, ..."""
    for label in labels:
        for take in range(takes):
            write_recording(root / label / f"{label}{take % speakers}-{take}.wav")
    return root
