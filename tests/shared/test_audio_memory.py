"""Peak memory of decoding depends on the limits, not on the size that a file expands to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.sounds import encode, flac_of_silence, spread

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from /proc")

# VmHWM is the peak of this process alone; ru_maxrss of getrusage is inherited from the parent process.
CHILD = """
import sys
from shared.audio.decode import SoundStream, decode
from shared.audio.limits import AudioLimits
from otoscope.errors import AudioError

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

data = sys.stdin.buffer.read()
decode(WARM, 16_000)
before = peak()
try:
    if sys.argv[1] == "whole":
        samples = len(decode(data, 16_000, AudioLimits(max_seconds=600)).waveform)
    else:
        samples = sum(map(len, SoundStream(data, 16_000)))
    print(samples / 16_000, peak() - before)
except AudioError as error:
    print(error.code, peak() - before)
"""

MB = 2**20
OUTPUT = 600 * 16_000 * 4  # bytes of ten minutes at 16 kHz


def peak_of(file: bytes, how: str = "whole") -> tuple[str, int]:
    """(length in seconds or error code, peak bytes above those of a small file)."""
    code = CHILD.replace("WARM", repr(flac_of_silence(1.0, 48_000, 2)))
    answer = subprocess.run([sys.executable, "-c", code, how], input=file, capture_output=True, check=True)
    end, held = answer.stdout.split()
    return end.decode(), int(held)


@pytest.mark.parametrize("claimed", [None, 0])
def test_ten_hours_of_silence_in_a_megabyte(claimed: int | None) -> None:
    """8 channels at 48 kHz would be 52 GB: refused by the header, or at the limit where the header lacks the length."""
    file = flac_of_silence(36_000, 48_000, 8, claimed=claimed)
    assert len(file) < MB
    end, held = peak_of(file)
    assert end == "audio_too_long"
    assert held < OUTPUT + 32 * MB


def test_ten_minutes_of_eight_channels_within_the_limits() -> None:
    """96 kHz is 1.8 GB as floats; the waveform is 37 MB, held twice while its parts are concatenated."""
    end, held = peak_of(flac_of_silence(600, 96_000, 8))
    assert float(end) == 600
    assert held < 2 * OUTPUT + 48 * MB


def test_ten_minutes_of_wav_within_the_limits() -> None:
    """Uncompressed samples are read in place, not copied first."""
    wave = spread(np.zeros(600 * 4_000, np.float32), 8)
    file = encode(wave, 4_000, "WAV", "ULAW")
    end, held = peak_of(file)
    assert float(end) == 600
    assert held < 2 * OUTPUT + 32 * MB


def test_two_hours_in_a_stream() -> None:
    """Only the first ten minutes are held, whatever comes after."""
    end, held = peak_of(flac_of_silence(7_200, 8_000, 1), "stream")
    assert float(end) == 7_200
    assert held < 2 * OUTPUT + 32 * MB
