"""Real sound through real processes."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from otoscope.results import unpack_result
from otoscope.types import EvaluateResponse, Job
from tests.e2e.conftest import Stack
from tests.support.sounds import chirp, encode

PARTS = "maps,spectrogram,waveform,embedding,windows,cam"


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx2.Client]:
    """A client of the stack's gateway."""
    with stack.client() as client:
        yield client


def classify(http: httpx2.Client, body: bytes, **options: str) -> Job:
    answer = http.post("/v1/jobs", files={"file": ("s", body)}, data=options, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    return Job.model_validate(answer.json())


def sound(seconds: float = 1.0, rate: int = 16_000) -> bytes:
    return encode(chirp(seconds, rate), rate, "WAV", "PCM_16")


def test_poll_wait_and_stream_agree(http: httpx2.Client) -> None:
    """The same result whether the client polls, waits or follows the stream."""
    waited = classify(http, sound())
    polled = http.post("/v1/jobs", files={"file": sound()}).json()
    while (state := http.get(polled["links"]["self"]).json())["status"] in ("queued", "running"):
        pass
    streamed = http.post("/v1/jobs", files={"file": sound()}).json()
    events = http.get(streamed["links"]["events"]).text
    assert re.findall(r"^event: (\w+)", events, re.MULTILINE) == ["status"] * 3 + ["result"]
    last = json.loads(re.findall(r"^data: (.*)$", events, re.MULTILINE)[-1])
    assert waited.result is not None
    expected = waited.result.model_dump(by_alias=True, mode="json")["predictions"]
    assert state["result"]["predictions"] == last["result"]["predictions"] == expected
    assert len(expected) == 5


def test_a_result_has_every_part(http: httpx2.Client) -> None:
    """Maps of every stage and block, spectrogram, embedding, class activation, waveform, windows."""
    job = classify(http, sound(2.2), include=PARTS)
    assert job.result is not None
    packed = http.get(job.links["result"], headers={"Accept": "application/msgpack"})
    result = unpack_result(packed.content)
    assert list(result.maps) == ["stem", "layer1.block1", "layer1", "layer2.block1", "layer2"]
    assert result.maps["stem"].shape == (8, 26)
    assert result.spectrogram is not None
    assert result.spectrogram.shape == (32, 101)
    assert result.cam is not None
    assert result.cam.shape == result.maps["layer2"].shape
    assert 0 <= result.cam.min() <= result.cam.max() <= 1
    assert result.embedding is not None
    assert result.embedding.shape == (16,)
    assert result.waveform is not None
    assert result.waveform.shape == (2, 1_000)
    assert [round(w.start, 2) for w in result.windows] == [0.0, 0.5, 1.0, 1.2]
    strongest = max(dict(window.predictions)[result.predictions[0][0]] for window in result.windows)
    assert result.predictions[0][1] == pytest.approx(strongest, abs=1e-5)
    timings = job.timings.model_dump(exclude={"load"})  # of the first job of a model
    assert timings.keys() == {"queue", "decode", "batch", "forward", "total"}
    assert None not in timings.values()


def test_the_arithmetic_of_a_cell_is_that_of_the_map(http: httpx2.Client) -> None:
    """In JSON and in MessagePack: the sum of products is the sum that it states, and the last operation is the number
    on the map of that channel."""
    job = classify(http, sound(), layer="layer1.block1", cell="layer1.block1:2:3:4")
    assert job.result is not None
    assert job.result.channels is not None
    assert job.result.arithmetic is not None
    operations = job.result.arithmetic.operations
    shown = np.array(job.result.channels["layer1.block1"].values)[2, 3, 4]
    assert operations[0].value == pytest.approx(shown, rel=2e-2, abs=2e-2)
    for operation in operations:
        if operation.kind == "convolution":
            assert operation.patch is not None
            assert operation.kernel is not None
            products = np.array(operation.patch.values) * np.array(operation.kernel.values)
            assert operation.value == pytest.approx(products.sum() + operation.numbers.get("bias", 0.0), abs=1e-4)
    packed = http.get(job.links["result"], headers={"Accept": "application/msgpack"})
    unpacked = unpack_result(packed.content).arithmetic
    assert unpacked is not None
    assert [one.value for one in unpacked.operations] == [one.value for one in operations]
    packed = http.get(job.links["result"], headers={"Accept": "application/x-npz"})
    assert packed.status_code == 200


@pytest.mark.parametrize("cell", ["layer1.block1:2:3", "layer9:0:0:0", "layer1.block1:99:0:0", "logits:unicorn"])
def test_a_cell_that_the_model_lacks_is_refused(http: httpx2.Client, cell: str) -> None:
    """Before the sound is queued, in words."""
    answer = http.post("/v1/jobs", files={"file": sound()}, data={"cell": cell})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_window_can_be_chosen(http: httpx2.Client) -> None:
    """`window=N` selects the window of the arrays; a missing one fails the job, with the number of windows."""
    job = classify(http, sound(2.2), include="spectrogram", window="2")
    assert job.result is not None
    assert job.result.window == 2
    answer = http.post("/v1/jobs", files={"file": sound(2.2)}, data={"window": "9"}, headers={"Prefer": "wait=30"})
    assert answer.json()["error"]["code"] == "invalid_request"
    assert "4 windows" in answer.json()["error"]["detail"]


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
    ],
)  # fmt: skip
def test_every_format_has_the_same_prediction(http: httpx2.Client, container: str, subtype: str) -> None:
    """The same chirp in every accepted format: the same class, with a tolerance for lossy codecs."""
    rate = 48_000 if subtype == "OPUS" else 16_000
    reference = classify(http, encode(chirp(1.0, rate), rate, "WAV", "FLOAT"))
    job = classify(http, encode(chirp(1.0, rate), rate, container, subtype))
    assert reference.result is not None
    assert job.result is not None
    expected = {p.class_: p.confidence for p in reference.result.predictions}
    got = {p.class_: p.confidence for p in job.result.predictions}
    assert got == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_rate_and_channels_do_not_change_the_prediction(http: httpx2.Client, rate: int, channels: int) -> None:
    """A sound below 3 kHz is complete at 8 kHz, so every sample rate has the same prediction."""
    reference = classify(http, encode(chirp(1.0, 16_000), 16_000, "WAV", "FLOAT"))
    job = classify(http, encode(chirp(1.0, rate, channels), rate, "WAV", "FLOAT"))
    assert reference.result is not None
    assert job.result is not None
    expected = {p.class_: p.confidence for p in reference.result.predictions}
    assert {p.class_: p.confidence for p in job.result.predictions} == pytest.approx(expected, abs=0.03)


def test_evaluate_serves_clients_of_the_older_systems(http: httpx2.Client) -> None:
    """Synchronous, with all maps, spectrogram and waveform in the old format."""
    body = {"audio_data": base64.b64encode(sound()).decode()}
    response = EvaluateResponse.model_validate(http.post("/evaluate?spelling=old", json=body).json())
    assert len(response.predictions) == 3
    assert list(response.visualization) == ["stem", "layer1.block1", "layer1", "layer2.block1", "layer2"]
    assert response.input_spectogram is not None
    assert response.input_spectogram.shape == [32, 101]
    assert len(response.waveform.values) == 2_000


@pytest.mark.parametrize(("bad", "code"), [("nan", "audio_not_finite"), ("cut FLAC", "audio_truncated")])
def test_a_fault_behind_the_header_fails_the_job_with_the_same_code(http: httpx2.Client, bad: str, code: str) -> None:
    """A file with a valid header is accepted, and its job fails when it is decoded; a cut one if it must be whole."""
    if bad == "nan":
        body = encode(np.full((16_000, 1), np.nan, np.float32), 16_000, "WAV", "FLOAT")
    else:
        body = encode(chirp(3.0, 16_000), 16_000, "FLAC", "PCM_16")
        body = body[: len(body) // 2]
    answer = http.post("/v1/jobs", files={"file": body}, data={"strict": "true"}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["error"]["code"]) == ("failed", code)


def test_a_corrupt_sound_fails_alone(http: httpx2.Client) -> None:
    """Forty at once, every fourth one corrupt: the others have the result that they have alone."""
    alone = classify(http, sound())
    nan = encode(np.full((16_000, 1), np.nan, np.float32), 16_000, "WAV", "FLOAT")

    def send(number: int) -> dict[str, object]:
        body = nan if number % 4 == 0 else sound()
        answer = http.post("/v1/jobs", files={"file": body}, headers={"Prefer": "wait=60"})
        return answer.json()  # type: ignore[no-any-return]

    with ThreadPoolExecutor(20) as pool:
        answers = [Job.model_validate(tree) for tree in pool.map(send, range(40))]
    assert alone.result is not None
    expected = {p.class_: p.confidence for p in alone.result.predictions}
    for number, job in enumerate(answers):
        if number % 4 == 0:
            assert job.error is not None
            assert job.error.code == "audio_not_finite"
        else:
            assert job.result is not None, job
            got = {p.class_: p.confidence for p in job.result.predictions}
            assert got == pytest.approx(expected, abs=0.01)


def test_ten_minutes_are_split_and_combined(http: httpx2.Client) -> None:
    """Over a thousand windows of the tiny model, one result."""
    job = classify(http, encode(chirp(600, 8_000), 8_000, "FLAC", "PCM_16"))
    assert job.result is not None, job.error
    assert job.result.window_count == 1_199
    assert job.result.combined == "evidence of 1199 windows"


def test_python_client_sync_and_async(stack: Stack, tmp_path: Path) -> None:
    """`from otoscope import Client`: path, bytes and array; submit and wait; stream; arrays; errors by class."""
    from otoscope import AsyncClient, Client
    from otoscope.errors import NotAudio

    path = tmp_path / "a.wav"
    path.write_bytes(sound())
    with Client(stack.url) as client:
        by_path = client.classify(path)
        by_array = client.classify(chirp(1.0, 16_000)[:, 0], rate=16_000)
        assert by_path.result is not None
        assert by_array.result is not None
        assert by_path.result.predictions[0].class_ == by_array.result.predictions[0].class_
        job = client.wait(client.submit(sound(), include=["maps"]).id)
        assert client.result(job.id).maps["stem"].shape == (8, 26)
        with pytest.raises(NotAudio):
            client.classify(b"hello there, this is text")
        assert "tiny" in [card.name for card in client.models().models]

    async def classify() -> Job:
        async with AsyncClient(stack.url) as client:
            return await client.classify(path)

    assert asyncio.run(classify()).result == by_path.result


def test_worker_metrics_show_every_stage(stack: Stack, http: httpx2.Client) -> None:
    """Time in queue, decoding, waiting for a batch, forward pass and storing; batch sizes; models ready."""
    classify(http, sound())
    text = httpx2.get(stack.worker_metrics).text
    for stage in ("queue", "decode", "batch_wait", "forward", "store"):
        match = re.search(rf'^otoscope_worker_stage_seconds_count{{stage="{stage}"}} (\S+)$', text, re.MULTILINE)
        assert match, stage
        assert float(match[1]) > 0, stage
    assert re.search(r'^otoscope_worker_model_ready{model="tiny"} 1', text, re.MULTILINE)
    assert re.search(r"^otoscope_worker_batch_size_count [1-9]", text, re.MULTILINE)


def test_gateway_process_has_no_torch_and_stays_light(stack: Stack, http: httpx2.Client) -> None:
    """Below 150 MB resident, after all the requests of these tests."""
    classify(http, sound(), include=PARTS)
    status = Path(f"/proc/{stack.processes['api'].pid}/status").read_text()
    resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024
    assert resident < 150, f"{resident:.0f} MB"
    mapped = Path(f"/proc/{stack.processes['api'].pid}/maps").read_text()
    assert "libtorch" not in mapped
    assert "libsndfile" not in mapped
