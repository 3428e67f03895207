"""JSON of trees with float16 arrays in them: quick, in pieces, and without holding up other threads for long."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from otoscope.results import Array

PIECE = 256 * 1024
"""Bytes of a piece, at least: joining tens of megabytes would take tens of milliseconds, in which nothing else runs."""

_BLOCK = 16_384  # values that are written at a time, in less than a millisecond
_GAP = orjson.Fragment(b"\0")  # JSON holds no such byte: in strings it is escaped


def dumps(tree: Any) -> list[bytes]:
    """JSON of a tree whose leaves may be float16 arrays: the pieces of one text, in order."""
    arrays: list[Array] = []

    def leave_out(values: Array) -> orjson.Fragment:
        arrays.append(values)
        return _GAP

    first, *others = orjson.dumps(tree, default=leave_out).split(b"\0")
    texts = (text for values, after in zip(arrays, others, strict=True) for text in (*_lists(values), after))
    pieces, held, size = [], [first], len(first)
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= PIECE:
            pieces.append(b"".join(held))
            held, size = [], 0
    return [*pieces, b"".join(held)]


def _lists(values: Array) -> Iterator[bytes]:
    """An array as nested lists, some rows at a time."""
    rows = max(1, _BLOCK * len(values) // max(values.size, 1))
    yield b"["
    for at in range(0, len(values), rows):
        numbers = _decimals().take(values[at : at + rows].view("<u2"))
        text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if at else b"") + text[1:-1]
    yield b"]"


@cache
def _decimals() -> NDArray[np.float32]:
    """What each float16 is written as, by its 16 bits: the fewest digits from which it can be read back.

    A table, since there are so few of them: to compute the digits took longer than to write them.
    """
    halves = np.arange(2**15, dtype="<u2").view("<f2")  # those without a sign
    best = wide = halves.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # zeros, and patterns that are no numbers
        exponents = np.floor(np.log10(wide))
        for digits in (5, 4, 3, 2, 1):
            scale = 10.0 ** (digits - 1 - exponents)
            rounded = np.round(wide * scale) / scale
            best = np.where(rounded.astype("<f2") == halves, rounded, best)
        written: NDArray[np.float32] = best.astype(np.float32)
    return np.concatenate([written, -written])
