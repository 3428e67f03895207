"""Redis keys and the packed form of a result."""

from dataclasses import fields

import msgpack
import numpy as np
import pytest

from otoscope.results import (
    ARRAYS,
    ARRAYS_PER_LAYER,
    CONTRACT_VERSION,
    Array,
    Detection,
    Level,
    Result,
    SoundWarning,
    WindowPrediction,
    unpack_result,
)
from otoscope.types import Part
from shared import contract
from shared.results import pack_result


def full() -> Result:
    """A result with every part, values that float16 holds exactly and some that it does not."""
    rng = np.random.default_rng(1)

    def array(*shape: int) -> Array:
        return rng.normal(scale=20, size=shape).astype(np.float16)

    ranked = [("dog", 0.75), ("rain", 0.25)]
    return Result(
        model="tiny",
        predictions=ranked,
        duration=1.25,
        sample_rate=44_100,
        windows=[
            WindowPrediction(0.0, 1.0, ranked, True, 0.75, Level(-1.5, -20.25)),
            WindowPrediction(0.25, 1.25, ranked[::-1], False),
        ],
        combined="evidence of 2 windows",
        window=1,
        spectrogram=array(32, 101),
        maps={"stem": array(8, 26), "layer1.block1": array(8, 26)},
        embedding=array(16),
        cam=array(4, 13),
        occlusion=array(6, 10),
        waveform=array(2, 1_000),
        full_spectrogram=array(32, 12),
        channels={"layer1": array(4, 2, 6), "layer1.residual": array(4, 2, 6)},
        parts=sorted(Part),
        verdict="unsure",
        known=0.75,
        level=Level(-1.5, -20.25, 0.125, 0.0, 7_000.0),
        warnings=[SoundWarning("quiet", "The loudest tenth of a second is at -41 dBFS.")],
        detections=[Detection("dog", 0.25, 0.75, 0.5, 0.5)],
        ltsa=array(32, 6),  # last: the snapshots of earlier versions have the random numbers before it
    )


def test_a_result_survives_packing() -> None:
    """Every field, arrays bit for bit with their shape and type."""
    before = full()
    after = unpack_result(pack_result(before))
    for name in {field.name for field in fields(Result)} - {*ARRAYS, *ARRAYS_PER_LAYER}:
        assert getattr(after, name) == getattr(before, name), name
    assert after.maps.keys() == before.maps.keys()
    assert after.channels.keys() == before.channels.keys()
    pairs = [(after.maps[layer], before.maps[layer]) for layer in before.maps]
    pairs += [(after.channels[name], before.channels[name]) for name in before.channels]
    pairs += [(getattr(after, name), getattr(before, name)) for name in ARRAYS]
    for there, here in pairs:
        assert there.dtype == np.float16
        np.testing.assert_array_equal(there, here)


def test_parts_that_were_not_requested_are_absent() -> None:
    """None stays None; it is no empty array."""
    after = unpack_result(pack_result(Result("tiny", [("dog", 1.0)], 1.0, 8_000, [], "single window", 0)))
    assert [getattr(after, name) for name in ARRAYS] == [None] * len(ARRAYS)
    assert after.maps == after.channels == {}
    assert after.parts == []


def test_a_result_that_was_stored_before_a_field_existed_can_be_read() -> None:
    """The later fields are empty."""
    tree = msgpack.unpackb(pack_result(full()))
    del tree["full_spectrogram"], tree["channels"], tree["verdict"], tree["level"], tree["warnings"], tree["detections"]
    del tree["windows"][0]["level"]
    after = unpack_result(msgpack.packb(tree))
    assert (after.verdict, after.level, after.warnings, after.detections) == ("named", None, [], [])
    assert after.windows[0].level is None
    assert after.full_spectrogram is None
    assert after.channels == {}
    assert after.cam is not None


def test_arrays_are_packed_in_row_order_whatever_their_memory_layout() -> None:
    """A transposed, strided or big-endian array is stored as the values that it shows."""
    values = np.arange(24, dtype=np.float16).reshape(4, 6)
    for odd in (values.T, values[::2, ::-1], values.astype(">f2")):
        result = full()
        result.spectrogram = odd
        back = unpack_result(pack_result(result)).spectrogram
        assert back is not None
        np.testing.assert_array_equal(back, odd)


def test_the_packed_form_can_be_read_without_this_package() -> None:
    """MessagePack with the documented names; an array is its shape and little-endian float16."""
    result = full()
    tree = msgpack.unpackb(pack_result(result))
    assert tree["contract"] == CONTRACT_VERSION
    assert tree["predictions"][0] == {"class": "dog", "confidence": 0.75}
    assert tree["windows"][1]["start"] == 0.25
    assert tree["parts"] == [
        "cam", "detections", "embedding", "full_spectrogram", "ltsa", "maps", "occlusion", "spectrogram", "waveform",
        "windows",
    ]  # fmt: skip
    assert tree["detections"] == [{"class": "dog", "start": 0.25, "end": 0.75, "confidence": 0.5, "peak": 0.5}]
    assert tree["channels"]["layer1.residual"]["shape"] == [4, 2, 6]
    cam = tree["cam"]
    assert result.cam is not None
    np.testing.assert_array_equal(np.frombuffer(cam["data"], "<f2").reshape(cam["shape"]), result.cam)


def test_unpacked_arrays_are_read_only_views() -> None:
    """Unpacking copies nothing."""
    after = unpack_result(pack_result(full()))
    assert after.spectrogram is not None
    with pytest.raises(ValueError, match="read-only"):
        after.spectrogram[0, 0] = 1


def test_a_packed_array_takes_two_bytes_a_value() -> None:
    """A map of 128 × 1500 takes 384 kB, where JSON would take 2.4 MB."""
    result = full()
    result.spectrogram = np.zeros((128, 1_500), np.float16)
    assert len(pack_result(result)) < 128 * 1_500 * 2 + 10_000


def test_no_two_keys_are_the_same() -> None:
    """Neither the keys of one job nor those of two, and all have the prefix `otoscope:`."""
    makers = (
        contract.job_key, contract.audio_key, contract.result_key, contract.events_key, contract.tombstone_key,
        contract.idempotency_key, contract.worker_key, contract.queue_key,
    )  # fmt: skip
    fixed = {contract.QUEUED, contract.UNFINISHED, contract.WORKERS, contract.MODELS, contract.CHANGES, contract.QUEUE}
    fixed |= {contract.MODELS_SEEN, contract.TOTALS, contract.UNACKED}
    keys = [make(job) for make in makers for job in ("a", "b")]
    assert len({*keys, *fixed}) == len(keys) + len(fixed)
    assert all(key.startswith("otoscope:") for key in (*keys, *fixed))


def test_job_ids_do_not_repeat() -> None:
    """And they need no escaping in a URL."""
    made = {contract.new_job_id() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(len(job) == 32 and job.isalnum() for job in made)


def test_a_job_id_names_its_server() -> None:
    """In its last two digits; nothing else of an id depends on the server."""
    for server in (0, 1, 255):
        job_id = contract.new_job_id(server)
        assert (contract.server_of(job_id), len(job_id)) == (server, 32)
        assert contract.at_server(job_id, 7) == f"{job_id[:30]}07"
