"""Arrays as JSON text: every float16, any shape, in pieces."""

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


def test_every_number_can_be_read_back() -> None:
    """To the bit, signs of zeros included; what is no number is null."""
    told = read(ALL)
    assert isinstance(told, list)
    finite = np.isfinite(ALL)
    back = np.array([np.nan if value is None else value for value in told], np.float16)
    np.testing.assert_array_equal(back[finite].view(np.uint16), ALL[finite].view(np.uint16))
    assert {value for value, number in zip(told, finite, strict=True) if not number} == {None}


@pytest.mark.parametrize(
    ("value", "text"), [(1 / 3, "0.3333"), (-40.1, "-40.1"), (1.001, "1.001"), (100, "100.0"), (6e-8, "6e-8")]
)
def test_no_digit_is_written_that_says_nothing(value: float, text: str) -> None:
    """0.3333 is enough where 0.33325195 is meant."""
    assert b"".join(dumps(np.array([value], np.float16))) == f"[{text}]".encode()


@pytest.mark.parametrize("shape", [(0,), (7,), (65_536,), (3, 0), (0, 3), (2, 30_001), (40_000, 2), (3, 4, 5), (1, 1)])
def test_any_shape_is_nested_lists(shape: tuple[int, ...]) -> None:
    """However it was cut into pieces on the way."""
    values = np.resize(np.arange(-300, 300, dtype=np.float16), shape)
    assert read({"values": values}) == {"values": values.tolist()}


def test_arrays_lie_among_other_values() -> None:
    """In their places, whatever the texts beside them hold."""
    values = np.array([[1.5, -2.0]], np.float16)
    tree = {"a\0b": "\0", "one": values, "list": [values, "two", values.T], "none": None}
    told = {"a\0b": "\0", "one": values.tolist(), "list": [values.tolist(), "two", values.T.tolist()], "none": None}
    assert read(tree) == told


def long() -> Result:
    """Ten minutes of sound: 25 MB of JSON."""
    mels: Array = np.random.default_rng(0).normal(scale=20, size=(128, 30_001)).astype(np.float16)
    return Result(
        "tiny", [("dog", 1.0)], 600.0, 8_000, [], "mean", 0, full_spectrogram=mels, parts=["full_spectrogram"]
    )  # fmt: skip


def test_large_results_come_in_pieces() -> None:
    """So that nobody has to join or send tens of megabytes at once."""
    pieces = asyncio.run(render_result(pack_result(long()), JSON))
    assert len(pieces) > 50
    assert max(map(len, pieces)) < 3 * PIECE_BYTES
    told = json.loads(b"".join(pieces))["full_spectrogram"]
    assert (told["shape"], len(told["values"]), len(told["values"][0])) == ([128, 30_001], 128, 30_001)
