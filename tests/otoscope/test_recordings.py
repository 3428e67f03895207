"""Recordings longer than the service accepts: cut, classified in parts, joined, resumed. The fake service hears dogs
wherever the samples of what it receives are loud."""

import io
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from otoscope.cli.main import app
from otoscope.errors import AudioCorrupt, AudioTooLong, AudioUnsupported
from otoscope.parts import PartResult, Plan, join_results
from otoscope.recordings import open_recording, wav_seconds
from otoscope.types import JobOptions, Limits, ResultJSON
from tests.support.fake_service import LIMITS, RESULT, FakeService, ReceivedRequest, job_document, problem

RATE = 8_000
EVENTS = [(3.0, 4.0), (57.5, 62.5), (118.2, 118.6), (199.0, 200.0)]
"""Seconds: the second is on both sides of the first cut, and the third in the overlap of two parts."""

Run = Callable[..., Result]


def recording(seconds: float = 200.0, channels: int = 1) -> NDArray[np.int16]:
    """(frames, channels): loud at EVENTS, and quiet noise elsewhere."""
    frames = np.random.default_rng(0).integers(-20, 20, (int(seconds * RATE), channels)).astype(np.int16)
    for start, end in EVENTS:
        frames[round(start * RATE) : round(end * RATE)] = 20_000
    return frames


def hear(seen: ReceivedRequest, job_id: str) -> dict[str, Any]:
    """The answer of a service that accepts up to 60 s, and whose M4A files are always longer."""
    if seen.file[4:8] == b"ftyp":
        samples, rate = np.zeros((61, 1)), 1
    else:
        samples, rate = soundfile.read(io.BytesIO(seen.file), dtype="float32", always_2d=True)
    seconds = len(samples) / rate
    if seconds > 60:
        error = {"code": "audio_too_long", "title": "t", "detail": f"{seconds} s"}
        return job_document(job_id, "failed", error=error)
    loud = np.concatenate([[False], np.abs(samples).max(axis=1) > 0.3, [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1]).reshape(-1, 2) / rate
    detections = [
        {"class": "dog", "start": start, "end": end, "confidence": 0.5 + (end - start) / 20, "peak": start}
        for start, end in edges.tolist()
    ]
    verdict = "named" if detections else "silent"
    warnings = [] if detections else [{"code": "silent", "detail": "Nothing."}]
    heard = RESULT | {"duration": seconds, "verdict": verdict, "warnings": warnings}
    return job_document(job_id, "succeeded", result=heard | {"detections": detections})


@pytest.fixture
def run(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(*arguments)` of `otoscope classify`."""
    service.outcome = hear
    service.limits["max_upload_bytes"] = 2_000_000
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTOSCOPE_URL", service.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(app, ["classify", *map(str, arguments)])


def events(done: Result) -> list[tuple[float, float]]:
    """The detections of `--json`, after a look at the exit status."""
    assert done.exit_code == 0, done.stderr
    return [(each["start"], each["end"]) for each in json.loads(done.stdout)["detections"]]


def submissions(service: FakeService) -> list[ReceivedRequest]:
    return [seen for seen in service.requests if seen.method == "POST"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("day.wav", {"subtype": "PCM_16"}), ("day.wav", {"subtype": "PCM_24"}), ("day.wav", {"subtype": "FLOAT"}),
        ("day.wav", {"subtype": "PCM_U8"}), ("day.wav", {"subtype": "ULAW"}), ("day.wav", {"format": "RF64"}),
        ("day.wav", {"format": "WAVEX", "subtype": "PCM_24"}), ("day.wav", {"subtype": "IMA_ADPCM"}),
        ("day.flac", {"subtype": "PCM_16"}), ("day.flac", {"subtype": "PCM_24"}), ("day.aiff", {}),
        ("day.ogg", {"subtype": "VORBIS"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)  # fmt: skip
def test_a_long_recording_is_cut_and_joined(
    run: Run, service: FakeService, tmp_path: Path, name: str, form: dict[str, str]
) -> None:
    """Each event is one detection at its place in the whole, whichever side of a cut it is on."""
    soundfile.write(tmp_path / name, recording() / 2**15, RATE, **form)
    done = run(name, "--detections", "--json")
    tolerance = 0.02 if name.endswith(".ogg") or form.get("subtype") == "IMA_ADPCM" else 0.001
    found = events(done)
    assert len(found) == len(EVENTS), found
    assert np.abs(np.array(found) - EVENTS).max() < tolerance
    answer = json.loads(done.stdout)
    assert (answer["duration"], answer["sample_rate"], answer["verdict"]) == (
        pytest.approx(200, abs=0.1),
        RATE,
        "named",
    )
    assert len(answer["parts"]) == 4
    lengths = [soundfile.info(io.BytesIO(seen.file)).duration for seen in submissions(service)]
    assert max(lengths[-4:]) <= 60
    assert not list((tmp_path / "cache").rglob("*.jsonl")), "what is done is not kept"


def write_m4a(path: Path) -> None:
    """At twice the rate."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=2 * RATE, layout="mono")
        block = av.AudioFrame.from_ndarray(recording().repeat(2, axis=0).T.copy(), format="s16", layout="mono")
        block.rate = 2 * RATE
        for frame in (block, None):
            file.mux(stream.encode(frame))


@pytest.mark.slow
def test_m4a_is_decoded_by_ffmpeg(run: Run, tmp_path: Path) -> None:
    """What libsndfile does not know, PyAV may."""
    write_m4a(tmp_path / "day.m4a")
    found = events(run("day.m4a", "--detections", "--json"))
    assert np.abs(np.array(found) - EVENTS).max() < 0.2


def run_piped(run: Run, tmp_path: Path, through: str, body: bytes) -> Result:
    if through == "standard input":
        return CliRunner().invoke(app, ["classify", "-", "--detections", "--json"], input=body)
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe").write_bytes, body)
        return run("pipe", "--detections", "--json")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["day.wav", "day.flac", "day.m4a"])
@pytest.mark.parametrize("through", ["standard input", "a named pipe"])
def test_a_long_recording_may_come_out_of_a_pipe(
    run: Run, service: FakeService, tmp_path: Path, name: str, through: str
) -> None:
    """It is cut like a file; of M4A the index comes last."""
    write_m4a(tmp_path / name) if name == "day.m4a" else soundfile.write(tmp_path / name, recording(), RATE)
    body = (tmp_path / name).read_bytes()
    service.limits["max_upload_bytes"] = 1_010_000
    assert len(body) > 1_010_000
    done = run_piped(run, tmp_path, through, body)
    assert [seen.path for seen in service.requests].count("/v1/limits") == 1
    assert np.abs(np.array(events(done)) - EVENTS).max() < 0.2
    assert max(len(seen.file) for seen in submissions(service)) <= 1_010_000


@pytest.mark.parametrize("through", ["standard input", "a named pipe"])
def test_an_endless_recording_does_not_fill_the_disk(
    run: Run, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """It is copied as long as as much is still free."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    free = SimpleNamespace(free=2_500_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    done = run_piped(run, tmp_path, through, (tmp_path / "day.wav").read_bytes())
    assert done.exit_code == 1
    assert "half of the free space of" in done.stderr + str(done.exception)
    assert submissions(service) == []


@pytest.mark.parametrize("through", ["standard input", "a named pipe"])
def test_an_endless_recording_ends_where_a_wav_file_does(
    run: Run, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """However much space is free; the error has the command for what has no end."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    monkeypatch.setattr("otoscope.cli.pipes._MOST_BYTES", 2_000_000)
    done = run_piped(run, tmp_path, through, (tmp_path / "day.wav").read_bytes())
    assert done.exit_code == 1
    assert re.search(r"the most that is copied; save .* `otoscope listen`", done.stderr + str(done.exception))
    assert submissions(service) == []


def test_a_large_file_is_not_sent_whole(run: Run, service: FakeService, tmp_path: Path) -> None:
    """The header of a WAV file and the size of any file are compared with the limits of the service first."""
    soundfile.write(tmp_path / "day.wav", recording(channels=2), RATE)
    assert events(run("day.wav", "--detections", "--json"))
    assert all(len(seen.file) <= 2_000_000 for seen in submissions(service))
    assert len(submissions(service)) == 4


def test_a_file_that_the_service_refuses_as_too_long_is_cut(run: Run, service: FakeService, tmp_path: Path) -> None:
    """A compressed file is short in bytes: that it is too long is known from the answer."""
    soundfile.write(tmp_path / "day.flac", recording(), RATE)
    assert (tmp_path / "day.flac").stat().st_size < service.limits["max_upload_bytes"]
    assert len(events(run("day.flac", "--detections", "--json"))) == len(EVENTS)
    assert len(submissions(service)) == 5


def test_short_files_are_sent_as_they_are(run: Run, service: FakeService, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", recording(10.0), RATE)
    assert run("short.wav").exit_code == 0
    (seen,) = service.requests
    assert seen.file == (tmp_path / "short.wav").read_bytes()


def fail_after(count: int) -> Callable[[ReceivedRequest, str], dict[str, Any]]:
    """The answers of a service that fails after so many."""
    left = iter([True] * count)
    error = {"code": "inference_failed", "title": "t", "detail": "d"}
    return lambda seen, job_id: hear(seen, job_id) if next(left, False) else job_document(job_id, "failed", error=error)


SEQUENTIAL = ("--detections", "--json", "--parallel", "1")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "left"), [("day.wav", 1), ("day.flac", 1), ("day.m4a", 4)])
def test_an_interrupted_recording_is_resumed(
    run: Run, service: FakeService, tmp_path: Path, name: str, left: int
) -> None:
    """With the parts that are done. Parts of M4A are shorter, since they are sent as 32-bit samples."""
    write_m4a(tmp_path / name) if name == "day.m4a" else soundfile.write(tmp_path / name, recording(), RATE)
    whole = int(name != "day.wav")  # a compressed file is first sent whole
    service.outcome = fail_after(3 + whole)
    assert run(name, *SEQUENTIAL).exit_code == 1
    service.outcome = hear
    before = len(submissions(service))
    found = events(run(name, *SEQUENTIAL))
    assert np.abs(np.array(found) - EVENTS).max() < 0.2
    assert len(submissions(service)) - before == whole + left


def test_a_torn_state_is_read_as_far_as_it_goes(run: Run, service: FakeService, tmp_path: Path) -> None:
    """A run that was killed may leave half a line."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    service.outcome = fail_after(2)
    assert run("day.wav", *SEQUENTIAL).exit_code == 1
    (state,) = (tmp_path / "cache").rglob("*.jsonl")
    assert len(state.read_text().splitlines()) == 2
    state.write_text(state.read_text()[:-30])
    service.outcome = hear
    assert len(events(run("day.wav", *SEQUENTIAL))) == len(EVENTS)
    assert len(submissions(service)) == 3 + 3


@pytest.mark.slow
@pytest.mark.parametrize("change", ["an option", "the file"])
def test_what_has_changed_is_not_resumed(run: Run, service: FakeService, tmp_path: Path, change: str) -> None:
    """Results of other sounds or options are not joined with these."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    service.outcome = fail_after(2)
    assert run("day.wav", *SEQUENTIAL).exit_code == 1
    if change == "the file":
        os.utime(tmp_path / "day.wav", (1, 1))
    service.outcome = hear
    assert run("day.wav", *SEQUENTIAL, *(["--overlap", "0.25"] if change == "an option" else [])).exit_code == 0
    assert len(submissions(service)) == 3 + 4


def test_parts_are_exported_and_tabulated_as_one(run: Run, tmp_path: Path) -> None:
    """`--format` and `--out` see the joined result."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    labels = run("day.wav", "--format", "audacity").stdout.splitlines()
    assert [float(line.split("\t")[0]) for line in labels] == [start for start, _ in EVENTS]
    assert run("day.wav", "--detections", "--out", "results.csv").exit_code == 0
    assert (tmp_path / "results.csv").read_text().count("\n") == 1 + len(EVENTS)


def test_a_short_event_on_a_cut_is_not_too_short(run: Run, service: FakeService, tmp_path: Path) -> None:
    """`--min-duration` is applied to the joined detections; parts are sent without it."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    found = events(run("day.wav", "--detections", "--json", "--min-duration", "1"))
    assert found == [event for event in EVENTS if event[1] - event[0] >= 1]
    assert {seen.fields["min_duration"] for seen in submissions(service)} == {"0.0"}


def test_arrays_of_a_cut_recording_are_refused(run: Run, service: FakeService, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    done = run("day.wav", "--json", "--include", "maps")
    assert (done.exit_code, submissions(service)) == (1, [])
    assert "maps cannot be joined" in done.stderr


def test_an_older_service_without_limits(run: Run, service: FakeService, tmp_path: Path) -> None:
    """The file is sent as before."""
    soundfile.write(tmp_path / "day.wav", recording(), RATE)
    service.first.append(problem(404, "not_found"))
    service.outcome = lambda _, job_id: job_document(job_id, "succeeded")
    assert run("day.wav").exit_code == 0
    assert [seen.method for seen in service.requests] == ["GET", "POST"]


@pytest.mark.parametrize("damage", ["size 0", "size unknown", "cut off", "odd chunk"])
def test_headers_of_recorders_that_were_switched_off(tmp_path: Path, damage: str) -> None:
    """The sizes in the header are wrong: every sample that is there counts."""
    path = tmp_path / "day.wav"
    soundfile.write(path, recording(5.0), RATE)
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        del data[-RATE * 2 :]
    elif damage == "odd chunk":
        data[12:12] = b"note" + struct.pack("<I", 3) + b"abc\0"
    else:
        at = data.index(b"data") + 4
        data[at : at + 4] = struct.pack("<I", 0 if damage == "size 0" else 0xFFFFFFFF)
    path.write_bytes(data)
    assert wav_seconds(path) == (4.0 if damage == "cut off" else 5.0)
    opened = open_recording(path)
    body, count = opened.part(3 * RATE, 2 * RATE)
    opened.close()
    assert count == (RATE if damage == "cut off" else 2 * RATE)
    samples, _ = soundfile.read(io.BytesIO(body), dtype="int16")
    assert (samples == recording(5.0)[3 * RATE :][:count, 0]).all()


@pytest.mark.parametrize("rate", [65_535, 97_656, 384_000, 768_000])
def test_a_rate_that_flac_cannot_state(tmp_path: Path, rate: int) -> None:
    """Parts are 32-bit float WAV then: such are the recordings of laboratories and of bat detectors."""
    samples = recording(2.0)
    soundfile.write(tmp_path / "bats.aiff", samples, rate)
    opened = open_recording(tmp_path / "bats.aiff")
    body, count = opened.part(0, len(samples))
    opened.close()
    assert (opened.rate, count) == (rate, len(samples))
    found, _ = soundfile.read(io.BytesIO(body), always_2d=True)
    np.testing.assert_allclose(found, samples / 2**15, atol=1e-7)


def test_a_recording_with_fewer_samples_than_it_states(tmp_path: Path) -> None:
    """A part beyond its end is empty, and no error."""
    soundfile.write(tmp_path / "day.au", recording(2.0) / 2**15, RATE, format="AU", subtype="FLOAT")
    opened = open_recording(tmp_path / "day.au")
    assert opened.part(2 * RATE, RATE) == (b"", 0)
    opened.close()


@pytest.mark.parametrize(
    "data",
    [
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\1\0data\0\0\0\0",
        b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0" + bytes(8),
    ],
)
def test_a_wav_without_samples_is_corrupt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(AudioCorrupt):
        open_recording(tmp_path / "x.wav")


@pytest.mark.parametrize(("name", "body"), [("noise.mp3", "noise"), ("noise.aac", "noise"), ("text.ogg", "text")])
def test_what_no_decoder_knows_is_unsupported(tmp_path: Path, name: str, body: str) -> None:
    """FFmpeg finds a stream without rate or channels in noise that is called MP3, and the end of the file in a text."""
    pytest.importorskip("av")
    (tmp_path / name).write_bytes(b"hello" if body == "text" else np.random.default_rng(0).bytes(100_000))
    with pytest.raises(AudioUnsupported, match=name):
        open_recording(tmp_path / name)


def test_a_stream_without_a_decoder_is_unsupported(tmp_path: Path) -> None:
    """As FFmpeg opens a WAV whose header states nonsense."""
    pytest.importorskip("av")
    layout = struct.pack("<HHIIHH", 0xFFFE, 2, RATE, 48_000, 6, 0xFF18)
    fields = layout + struct.pack("<HHI", 0xFFFF, 0x7F, 3) + b"\0\0\1\0\0\0\x10\0\x80\0\0\xaa\0\xff\xff\0"
    chunks = b"fmt " + struct.pack("<I", len(fields)) + fields + b"data" + struct.pack("<I", 4_000) + bytes(4_000)
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    with pytest.raises(AudioUnsupported, match=re.escape("x.wav")):
        open_recording(tmp_path / "x.wav")


def test_a_bad_recording_does_not_stop_a_batch(run: Run, service: FakeService, tmp_path: Path) -> None:
    """Whatever a decoder makes of it."""
    pytest.importorskip("av")
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(2_100_000))
    soundfile.write(tmp_path / "short.wav", recording(10.0), RATE)
    done = run("noise.mp3", "short.wav", "--json")
    assert done.exit_code == 1
    noise, short = map(json.loads, done.stdout.splitlines())
    assert (noise["error"]["code"], short["verdict"]) == ("audio_unsupported", "named")


def test_where_a_recording_is_damaged(tmp_path: Path) -> None:
    """Whoever reads it: the error names the place."""
    soundfile.write(tmp_path / "day.flac", recording(60.0), RATE)
    body = (tmp_path / "day.flac").read_bytes()
    (tmp_path / "day.flac").write_bytes(body[:-20_000] + bytes(20_000))
    damaged = open_recording(tmp_path / "day.flac")
    with pytest.raises(AudioCorrupt, match="cannot be decoded at 50 s"):
        damaged.part(50 * RATE, 10 * RATE)
    damaged.close()


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    soundfile.write(tmp_path / "day.flac", recording(1.0), RATE)
    (tmp_path / "day.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioUnsupported, match="pip install av"):
        open_recording(tmp_path / "day.m4a")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(AudioUnsupported, match="pip install soundfile"):
        open_recording(tmp_path / "day.flac")


@pytest.mark.parametrize(("frames", "count"), [(0, 0), (1, 1), (100, 1), (105, 2), (190, 2), (191, 3), (1_000, 11)])
def test_parts_cover_everything_once(frames: int, count: int) -> None:
    """Parts of 100 frames that overlap by 10; a rest that the part before has seen is no part."""
    plan = Plan(100, 10)
    assert plan.count(frames) == count
    covered = {frame for n in range(count) for frame in range(plan.start(n), min(plan.start(n) + 100, frames))}
    assert covered == set(range(frames))


def test_a_service_that_accepts_too_little(tmp_path: Path) -> None:
    limits = Limits.model_validate(LIMITS | {"max_seconds": 9.0})
    with pytest.raises(AudioTooLong, match="two windows"):
        Plan.of(RATE, 2, limits, 5.0)
    assert Plan.of(RATE, 2, limits, 4.0) == Plan(9 * RATE, 4 * RATE)


def results(*changes: dict[str, Any]) -> Iterator[PartResult]:
    for index, change in enumerate(changes):
        yield PartResult(index * 50.0, ResultJSON.model_validate(RESULT | {"duration": 60.0} | change))


def predictions(**confidences: float) -> dict[str, Any]:
    return {"predictions": [{"class": name, "confidence": value} for name, value in confidences.items()]}


def joined(*changes: dict[str, Any], **options: Any) -> ResultJSON:
    return join_results(list(results(*changes)), 170.0, RATE, JobOptions(**options))


def test_predictions_come_from_where_something_is_heard() -> None:
    """Silent parts do not count; `evidence` weighs by the known score, as the service does."""
    silent = predictions(rain=0.99) | {"verdict": "silent"}
    car = predictions(rain=0.9, dog=0.1) | {"verdict": "unknown", "known": 0.2, "window_count": 3}
    dog = predictions(dog=0.8, rain=0.2) | {"verdict": "named", "known": 1.0, "window_count": 1, "window": 0}
    best = joined(silent, car, dog)
    assert (best.predictions[0].class_, best.predictions[0].confidence, best.verdict) == ("dog", 0.8, "named")
    assert (best.known, best.window, best.window_count) == (1.0, 4, 5)
    loudest = joined(silent, car, dog, combine="max")
    assert (loudest.predictions[0].class_, loudest.verdict) == ("rain", "unknown")
    mean = joined(silent, car, dog, combine="mean", top_k=1)
    assert [(p.class_, round(p.confidence, 3)) for p in mean.predictions] == [("rain", 0.725)]
    assert joined(silent, silent).verdict == "silent"


def test_warnings_are_joined() -> None:
    """Each code once; a quiet hour is no warning of a day that is loud elsewhere."""
    quiet, silent, clipped = (
        {"warnings": [{"code": code, "detail": f"{code}."}]} for code in ("quiet", "silent", "clipped")
    )
    assert [w.code for w in joined(quiet, clipped, clipped).warnings] == ["clipped"]
    assert joined(clipped, clipped, {}).warnings[0].detail == "clipped. (2 of 3 parts)"
    assert [w.code for w in joined(quiet, silent).warnings] == ["quiet"]
    assert [w.code for w in joined(silent, silent).warnings] == ["silent"]


def test_levels_are_joined() -> None:
    """Powers are averaged over time."""
    loud = {"level": {"peak_dbfs": -1.0, "rms_dbfs": -10.0, "clipped": 0.1, "bandwidth": 3_000.0}}
    zero = {"level": {"peak_dbfs": None, "rms_dbfs": None}}
    level = joined(loud, zero).level
    assert level is not None
    assert (level.peak_dbfs, level.rms_dbfs, level.clipped, level.bandwidth) == (-1.0, -13.01, 0.05, 3_000.0)
    assert joined(zero).level == ResultJSON.model_validate(RESULT | zero).level
    assert joined({}).level is None
