"""Damaged files of every form, seeded: an AudioError or a sound, and nothing else, ever.

Run as a module with a seed and a count it is the process that decodes; the test starts it, and a decoder that crashes
shows as its death.
"""

import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.audio import AudioLimits, aac_available, decode, probe
from shared.errors import AudioError
from tests.sounds import FORMS, checksummed, chirp, encode, encode_m4a, id3, noise

COUNT = 2_000
LIMITS = AudioLimits(max_seconds=5)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Mutation = Callable[[np.random.Generator, bytearray, bytes], None]


def flip_a_bit(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    file[dice.integers(len(file))] ^= 1 << int(dice.integers(8))


def flip_a_bit_of_the_header(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    file[dice.integers(min(len(file), 128))] ^= 1 << int(dice.integers(8))


def write_an_extreme(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    width = int(dice.choice([1, 2, 4]))
    at = int(dice.integers(min(len(file), 256)))
    value = int(dice.choice(EXTREMES)) & (1 << 8 * width) - 1
    file[at : at + width] = value.to_bytes(width, str(dice.choice(["little", "big"])))  # type: ignore[arg-type]


def scramble(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    at, size = int(dice.integers(len(file))), int(dice.integers(1, 200))
    file[at : at + size] = dice.bytes(size)


def cut(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    del file[int(dice.integers(len(file))) :]


def lose(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    at = int(dice.integers(len(file)))
    del file[at : at + int(dice.integers(1, 300))]


def repeat(dice: np.random.Generator, file: bytearray, _: bytes) -> None:
    at, size = int(dice.integers(len(file))), int(dice.integers(1, 2_000))
    file[at:at] = file[at : at + size]


def splice(dice: np.random.Generator, file: bytearray, other: bytes) -> None:
    at = int(dice.integers(len(file)))
    file[at:] = other[int(dice.integers(len(other))) :]


def tag(dice: np.random.Generator, file: bytearray, other: bytes) -> None:
    file[:0] = id3(int(dice.integers(100))) + other[: int(dice.integers(100))]


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_bit, flip_a_bit_of_the_header, flip_a_bit_of_the_header, write_an_extreme, write_an_extreme, scramble, cut,
    lose, repeat, splice, tag,
)  # fmt: skip


def originals() -> list[bytes]:
    files = []
    for form in FORMS.values():
        rate = form.rates[0]
        wave = 0.5 * chirp(0.3, rate, 2) + noise(0.3, rate, 2)
        files.append(encode(wave, rate, form.container, form.subtype, endian=form.endian))
    if aac_available():
        files += [encode_m4a(chirp(0.3, 16_000), 16_000, codec) for codec in ("aac", "alac")]
    return files


def damaged(seed: int, count: int) -> list[bytes]:
    """One to four mutations each; of Ogg every other one has its checksums set right, or it would go no further."""
    dice, files = np.random.default_rng(seed), originals()
    made = []
    for number in range(count):
        file = bytearray(files[number % len(files)])
        for _ in range(dice.integers(1, 5)):
            if file:
                other = files[int(dice.integers(len(files)))]
                MUTATIONS[int(dice.integers(len(MUTATIONS)))](dice, file, other)
        made.append(checksummed(bytes(file)) if number % 2 else bytes(file))
    return made


def outcome(read: Callable[[bytes], object], file: bytes) -> str:
    """How it ended; any exception but an AudioError is a bug, and so is a warning."""
    try:
        read(file)
    except AudioError as error:
        return error.code if len(error.detail) > 15 else "no explanation"
    return "fine"


def check_decoded(file: bytes) -> None:
    decoded = decode(file, 16_000, LIMITS)
    assert decoded.waveform.dtype == np.float32
    assert decoded.waveform.ndim == 1
    assert 0 < decoded.seconds < LIMITS.max_seconds + 1
    assert np.isfinite(decoded.waveform).all()


def test_probe_of_damaged_files() -> None:
    """The gateway answers each with a header or an AudioError."""
    ends = Counter(outcome(lambda data: probe(data, LIMITS), file) for file in damaged(1, COUNT))
    assert len(ends) > 8, ends  # the damage is of many kinds
    assert "no explanation" not in ends


@pytest.mark.parametrize("seed", [1, 2])
def test_decode_of_damaged_files(seed: int) -> None:
    """The decoder survives each, and answers with finite samples or an AudioError."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(seed), str(COUNT)],
        capture_output=True, text=True, errors="replace", cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.returncode == 0, f"file {child.stdout.splitlines()[-1]}: {child.stderr[-2_000:]}"
    ends = json.loads(child.stdout.splitlines()[-1])
    assert len(ends) > 8, ends
    assert ends["fine"] < COUNT / 2, ends


if __name__ == "__main__":
    warnings.simplefilter("error")
    counted: Counter[str] = Counter()
    for position, damaged_file in enumerate(damaged(int(sys.argv[1]), int(sys.argv[2]))):
        print(position, flush=True)  # the last one tells which file killed the process
        counted[outcome(check_decoded, damaged_file)] += 1
    print(json.dumps(counted))
