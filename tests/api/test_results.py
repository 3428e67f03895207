"""A stored result in each of its representations."""

import asyncio
import io
import json

import numpy as np

from api.rendering.results import JSON, MSGPACK, NPZ, render_result
from otoscope.results import Result, unpack_result
from otoscope.types import ResultJSON
from shared.results import pack_result


def with_channels() -> Result:
    """A result with a layer's channels and the spectrogram of the whole sound."""
    cells = (np.arange(24).reshape(4, 3, 2) / 8).astype(np.float16)
    return Result(
        model="tiny", predictions=[("dog", 1.0)], duration=1.0, sample_rate=8_000, windows=[], combined="single window",
        window=0, full_spectrogram=np.array([[-50.0, 12.5, 0.25]], np.float16), parts=["full_spectrogram"],
        channels={"layer1": cells, "layer1.residual": -cells, "layer1.shortcut": cells},
    )  # fmt: skip


def rendered(result: Result, kind: str) -> bytes:
    return b"".join(asyncio.run(render_result(pack_result(result), kind)))


def test_channels_and_full_spectrogram_in_json() -> None:
    """With their shapes, two- and three-dimensional."""
    read = ResultJSON.model_validate_json(rendered(with_channels(), JSON))
    assert read.full_spectrogram is not None
    assert (read.full_spectrogram.shape, read.full_spectrogram.values) == ([1, 3], [[-50.0, 12.5, 0.25]])
    assert read.channels is not None
    assert {name: array.shape for name, array in read.channels.items()} == {
        name: [4, 3, 2] for name in ("layer1", "layer1.residual", "layer1.shortcut")
    }
    np.testing.assert_allclose(read.channels["layer1"].values, with_channels().channels["layer1"], rtol=1e-3)


def test_channels_and_full_spectrogram_in_an_npz() -> None:
    """Under their names, and not a second time in `meta`."""
    with np.load(io.BytesIO(rendered(with_channels(), NPZ))) as file:
        np.testing.assert_array_equal(file["channels/layer1.residual"], with_channels().channels["layer1.residual"])
        np.testing.assert_array_equal(file["full_spectrogram"], with_channels().full_spectrogram)
        meta = json.loads(str(file["meta"]))
    assert "channels" not in meta
    assert "full_spectrogram" not in meta
    assert meta["predictions"] == [{"class": "dog", "confidence": 1.0}]


def test_msgpack_is_the_stored_form() -> None:
    """To the byte."""
    packed = pack_result(with_channels())
    assert rendered(with_channels(), MSGPACK) == packed
    assert unpack_result(packed).channels.keys() == with_channels().channels.keys()


def test_parts_that_were_not_requested_are_absent() -> None:
    """The keys are missing, not null."""
    plain = Result("tiny", [("dog", 1.0)], 1.0, 8_000, [], "single window", 0)
    tree = json.loads(rendered(plain, JSON))
    assert {"channels", "full_spectrogram", "maps"}.isdisjoint(tree)
