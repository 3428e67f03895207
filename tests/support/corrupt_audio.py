"""Mutations of sound files that parsers tend to get wrong. The same seed and number always give the same file.

Used by the tests and by `bench/fuzz.py`, so that each can reproduce what the other finds.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from tests.support.odd_files import TELEPHONY, telephony
from tests.support.sounds import AV_FORMS, FORMS, checksummed, chirp, encode, encode_av, encode_m4a, id3, noise, remux

Dice = np.random.Generator
Mutation = Callable[[Dice, bytearray, bytes], None]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER = 256  # bytes that contain most of a file's header fields


def flip_a_bit(dice: Dice, file: bytearray, _: bytes) -> None:
    file[dice.integers(len(file))] ^= 1 << int(dice.integers(8))


def flip_a_bit_of_the_header(dice: Dice, file: bytearray, _: bytes) -> None:
    file[dice.integers(min(len(file), HEADER // 2))] ^= 1 << int(dice.integers(8))


def write_an_extreme(dice: Dice, file: bytearray, _: bytes) -> None:
    width = int(dice.choice([1, 2, 4]))
    at = int(dice.integers(min(len(file), HEADER)))
    value = int(dice.choice(EXTREMES)) & (1 << 8 * width) - 1
    file[at : at + width] = value.to_bytes(width, str(dice.choice(["little", "big"])))  # type: ignore[arg-type]


def scramble(dice: Dice, file: bytearray, _: bytes) -> None:
    at, size = int(dice.integers(len(file))), int(dice.integers(1, 200))
    file[at : at + size] = dice.bytes(size)


def cut(dice: Dice, file: bytearray, _: bytes) -> None:
    del file[int(dice.integers(len(file))) :]


def lose(dice: Dice, file: bytearray, _: bytes) -> None:
    at = int(dice.integers(len(file)))
    del file[at : at + int(dice.integers(1, 300))]


def repeat(dice: Dice, file: bytearray, _: bytes) -> None:
    at, size = int(dice.integers(len(file))), int(dice.integers(1, 2_000))
    file[at:at] = file[at : at + size]


def splice(dice: Dice, file: bytearray, other: bytes) -> None:
    at = int(dice.integers(len(file)))
    file[at:] = other[int(dice.integers(len(other))) :]


def tag(dice: Dice, file: bytearray, other: bytes) -> None:
    file[:0] = id3(int(dice.integers(100))) + other[: int(dice.integers(100))]


IN_PLACE: tuple[Mutation, ...] = (flip_a_bit, flip_a_bit_of_the_header, write_an_extreme, scramble)
OF_ANYTHING: tuple[Mutation, ...] = (*IN_PLACE, cut, lose, repeat)
OF_SOUNDS: tuple[Mutation, ...] = (*OF_ANYTHING, flip_a_bit_of_the_header, write_an_extreme, splice, tag)


def damage(dice: Dice, data: bytes, other: bytes = b"", mutations: tuple[Mutation, ...] = OF_ANYTHING) -> bytes:
    """One to four of these mutations, applied in sequence; `other` is a second file that some of them splice in."""
    file = bytearray(data)
    for _ in range(dice.integers(1, 5)):
        if file:
            mutations[int(dice.integers(len(mutations)))](dice, file, other)
    return bytes(file)


@cache
def sources() -> tuple[tuple[str, bytes], ...]:
    """(name of the form, valid file): each at 16 kHz mono as models need it, and at another rate in stereo."""
    made = []
    for name, form in FORMS.items():
        for rate, channels in ((16_000, 1), (form.rates[0], 2)):
            wave = 0.5 * chirp(0.3, rate, channels) + noise(0.3, rate, channels)
            made.append((name, encode(wave, rate, form.container, form.subtype, endian=form.endian)))
    for name, form in AV_FORMS.items():
        made.append((name, encode_av(chirp(0.3, form.rate), form)))
    made += [(name, telephony(name, 0.3)) for name in TELEPHONY]
    flac, vorbis = (encode(chirp(0.3, 16_000, 2), 16_000, *kind) for kind in (("FLAC", "PCM_16"), ("OGG", "VORBIS")))
    made += [("Ogg FLAC", remux(flac, "ogg")), ("Matroska FLAC", remux(flac, "matroska"))]
    made += [("WebM Vorbis", remux(vorbis, "webm")), ("WebM live", remux(vorbis, "webm", live="1"))]
    eight = encode_m4a(chirp(0.3, 44_100, 8), 44_100)
    made += [
        ("M4A eight channels", eight),
        ("MP4 in fragments", remux(eight, "mp4", movflags="frag_every_frame+empty_moov")),
    ]
    return tuple(made)


def damaged(seed: int, number: int) -> tuple[str, bytes]:
    """(name of the form, corrupted file).

    Half of them keep their length, since a file that is shorter or longer than its header claims is refused before it
    is decoded. Half have their checksums recomputed afterwards, since a FLAC or Ogg decoder discards anything else.
    """
    dice, files = np.random.default_rng((seed, number)), sources()
    name, whole = files[number % len(files)]
    _, other = files[int(dice.integers(len(files)))]
    file = damage(dice, whole, other, OF_SOUNDS if dice.integers(2) else IN_PLACE)
    return name, checksummed(file) if dice.integers(2) else file
