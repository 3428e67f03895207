"""Corrupted files of every form, seeded: each gives an AudioError or a sound, and nothing else.

Run as a module with a seed and a count, this is the process that decodes; the test starts it, so that a crash of a
decoder is its exit status.
"""

import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from otoscope.errors import AudioError
from shared.audio.decode import decode
from shared.audio.limits import AudioLimits
from shared.audio.probe import probe
from tests.support.corrupt_audio import damaged, sources
from tests.support.sounds import checksummed

COUNT = 2_000
LIMITS = AudioLimits(max_seconds=5)


def outcome(read: Callable[[bytes], object], file: bytes) -> str:
    """The error code, or "fine"; any exception but an AudioError is a bug, and so is a warning."""
    try:
        read(file)
    except AudioError as error:
        return error.code if len(error.detail) > 15 else "no explanation"
    return "fine"


def check_decoded(file: bytes, *, strict: bool = False) -> None:
    decoded = decode(file, 16_000, LIMITS, strict=strict)
    assert decoded.waveform.dtype == np.float32
    assert decoded.waveform.ndim == 1
    assert 0 < decoded.seconds < LIMITS.max_seconds + 1
    assert np.isfinite(decoded.waveform).all()


def test_whole_files_are_fine_and_keep_their_checksums() -> None:
    """The files to be corrupted are valid, and recomputing valid checksums changes nothing."""
    for name, file in sources():
        assert outcome(check_decoded, file) == "fine", name
        assert checksummed(file) == file, name


def test_probe_of_corrupted_files() -> None:
    """`probe` gives a header or an AudioError for each."""
    ends = Counter(outcome(lambda data: probe(data, LIMITS), damaged(1, number)[1]) for number in range(COUNT))
    assert len(ends) > 8, ends  # many kinds of errors are hit
    assert "no explanation" not in ends


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_decode_of_corrupted_files(seed: int) -> None:
    """The decoder survives each, and gives finite samples or an AudioError; every second one is to be whole."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(seed), str(COUNT)],
        capture_output=True, text=True, errors="replace", cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.returncode == 0, f"file {child.stdout.splitlines()[-1]}: {child.stderr[-2_000:]}"
    lenient, strict = json.loads(child.stdout.splitlines()[-1])
    assert len(lenient | strict) > 8, (lenient, strict)
    assert strict["fine"] < COUNT / 3, strict  # half of these files; every byte of ADPCM is valid
    assert strict["audio_truncated"] > lenient["audio_truncated"]


if __name__ == "__main__":
    warnings.simplefilter("error")
    counted: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for position in range(int(sys.argv[2])):
        print(position, flush=True)  # the last number printed is the file that killed the process
        whole = bool(position // 2 % 2)  # not every second one, which would be the forms of even numbers
        read = partial(check_decoded, strict=whole)
        counted[whole][outcome(read, damaged(int(sys.argv[1]), position)[1])] += 1
    print(json.dumps(counted))
