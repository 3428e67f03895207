"""JSON of trees that hold float16 arrays: fast, in pieces, and without holding the interpreter lock for long."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from otoscope.arithmetic import Float32Array
from otoscope.results import Array

PIECE_BYTES = 256 * 1024
"""Minimum size of a piece. To join tens of megabytes would block the event loop for tens of milliseconds."""

_BLOCK = 16_384  # values that are serialized at a time, in less than a millisecond
_PLACEHOLDER = orjson.Fragment(b"\0")  # a byte that JSON never contains: in strings it is escaped


def dumps(tree: Any) -> list[bytes]:
    """JSON of a tree whose leaves may be float16 or float32 arrays: consecutive pieces of one text.

    Numbers have the fewest digits from which they can be read back; NaN and infinities are null.
    """
    arrays: list[Array | Float32Array] = []

    def replace_array(values: Array | Float32Array) -> orjson.Fragment:
        arrays.append(values)
        return _PLACEHOLDER

    first, *others = orjson.dumps(tree, default=replace_array).split(b"\0")
    texts = (text for values, after in zip(arrays, others, strict=True) for text in (*_lists(values), after))
    pieces, pending, size = [], [first], len(first)
    for text in texts:
        pending.append(text)
        size += len(text)
        if size >= PIECE_BYTES:
            pieces.append(b"".join(pending))
            pending, size = [], 0
    return [*pieces, b"".join(pending)]


def _lists(values: Array | Float32Array) -> Iterator[bytes]:
    """An array as nested lists, a block of rows at a time."""
    rows = max(1, _BLOCK * len(values) // max(values.size, 1))
    yield b"["
    for at in range(0, len(values), rows):
        block = values[at : at + rows]
        numbers = block if block.dtype == np.float32 else _shortest_decimals().take(block.view("<u2"))
        text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if at else b"") + text[1:-1]
    yield b"]"


@cache
def _shortest_decimals() -> NDArray[np.float32]:
    """(65536,): for each float16, by its 16 bits, the float32 with the fewest digits that rounds to it.

    A table, since there are so few of them: to compute the digits took longer than to serialize them.
    """
    halves = np.arange(2**15, dtype="<u2").view("<f2")  # the non-negative ones
    best = wide = halves.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # zeros, infinities and NaN
        exponents = np.floor(np.log10(wide))
        for digits in (5, 4, 3, 2, 1):
            scale = 10.0 ** (digits - 1 - exponents)
            rounded = np.round(wide * scale) / scale
            best = np.where(rounded.astype("<f2") == halves, rounded, best)
        decimals: NDArray[np.float32] = best.astype(np.float32)
    return np.concatenate([decimals, -decimals])
