"""Arrays as JSON: every float16, any shape, in pieces."""

import asyncio
import json

import numpy as np
import orjson
import pytest

from api.rendering.json_arrays import PIECE_BYTES, dumps
from api.rendering.results import JSON, render_result
from otoscope.results import Array, Result
from shared.results import pack_result

ALL = np.arange(2**16, dtype="<u2").view("<f2")


def read(tree: object) -> object:
    return orjson.loads(b"".join(dumps(tree)))


def test_every_float16_can_be_read_back() -> None:
    """To the bit, including the sign of zero; NaN and infinities are null."""
    parsed = read(ALL)
    assert isinstance(parsed, list)
    finite = np.isfinite(ALL)
    back = np.array([np.nan if value is None else value for value in parsed], np.float16)
    np.testing.assert_array_equal(back[finite].view(np.uint16), ALL[finite].view(np.uint16))
    assert {value for value, number in zip(parsed, finite, strict=True) if not number} == {None}


@pytest.mark.parametrize(
    ("value", "text"), [(1 / 3, "0.3333"), (-40.1, "-40.1"), (1.001, "1.001"), (100, "100.0"), (6e-8, "6e-8")]
)
def test_numbers_have_the_fewest_digits(value: float, text: str) -> None:
    """0.3333 identifies the float16 0.33325195."""
    assert b"".join(dumps(np.array([value], np.float16))) == f"[{text}]".encode()


@pytest.mark.parametrize("shape", [(0,), (7,), (65_536,), (3, 0), (0, 3), (2, 30_001), (40_000, 2), (3, 4, 5), (1, 1)])
def test_any_shape_is_nested_lists(shape: tuple[int, ...]) -> None:
    """Independent of the blocks in which it is serialized."""
    values = np.resize(np.arange(-300, 300, dtype=np.float16), shape)
    assert read({"values": values}) == {"values": values.tolist()}


def test_arrays_among_other_values() -> None:
    """At their places in the tree, also beside strings with zero bytes."""
    values = np.array([[1.5, -2.0]], np.float16)
    tree = {"a\0b": "\0", "one": values, "list": [values, "two", values.T], "none": None}
    parsed = {"a\0b": "\0", "one": values.tolist(), "list": [values.tolist(), "two", values.T.tolist()], "none": None}
    assert read(tree) == parsed


def long() -> Result:
    """Ten minutes of sound: 25 MB of JSON."""
    mels: Array = np.random.default_rng(0).normal(scale=20, size=(128, 30_001)).astype(np.float16)
    return Result(
        "tiny", [("dog", 1.0)], 600.0, 8_000, [], "mean", 0, full_spectrogram=mels, parts=["full_spectrogram"]
    )  # fmt: skip


@pytest.mark.slow
def test_large_results_come_in_pieces() -> None:
    """So that tens of megabytes are never joined or sent at once."""
    pieces = asyncio.run(render_result(pack_result(long()), JSON))
    assert len(pieces) > 50
    assert max(map(len, pieces)) < 3 * PIECE_BYTES
    parsed = json.loads(b"".join(pieces))["full_spectrogram"]
    assert (parsed["shape"], len(parsed["values"]), len(parsed["values"][0])) == ([128, 30_001], 128, 30_001)
