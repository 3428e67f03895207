"""Live streams through a real gateway: messages, order, dropped windows, limits, keys, close codes, hostile clients."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from otoscope import Client
from otoscope.errors import InferenceFailed, RateLimited
from otoscope.types import JobOptions
from shared.api_keys import Scope, new_key, write_keys
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, fake_result, gateway_thread, wav
from tests.support.http_requests import request, send_request
from tests.support.process_tree import until
from tests.support.streams import RATE, StreamClient, open_stream, pcm, tone

HOP = 0.5


@pytest.fixture
def stream(http: httpx2.Client, busy_worker: FakeWorker) -> Iterator[StreamClient]:
    """An open stream of a gateway whose worker finishes every job; `opened` has been read."""
    with open_stream(str(http.base_url)) as client:
        assert client.receive()["type"] == "opened"
        yield client


def metric(http: httpx2.Client, name: str, **labels: str) -> float:
    text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    sample = f"{name}{{{text}}} " if labels else f"{name} "
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(sample)]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_each_hop_is_answered_in_order(stream: StreamClient) -> None:
    """A window ends at every hop, begins a window length before that, and is answered before the next one."""
    answers = []
    for _ in range(4):
        stream.send(tone(HOP))
        answers.append(stream.receive())
    assert [(answer["start"], answer["end"]) for answer in answers] == [(0, 0.5), (0, 1), (0.5, 1.5), (1, 2)]
    first = answers[0]
    assert first["type"] == "answer"
    assert first["predictions"][0] == {"class": "dog", "confidence": 0.7}
    assert first["verdict"] == "named"
    assert first["error"] is None
    assert first["dropped"] == 0
    assert not first["last"]
    assert 0 < first["latency"] < 5


def test_the_first_message_names_the_model_and_the_limits(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """So that a client need not know the default model, its rate or when it must speak."""
    with open_stream(str(http.base_url), hop=1) as client:
        opened = client.receive()
    assert opened.pop("stream")
    assert opened == {
        "type": "opened", "model": "tiny", "sample_rate": 16_000, "window_seconds": 1.0, "hop": 1.0,
        "idle_seconds": 30.0, "max_seconds": 3_600.0,
    }  # fmt: skip


def test_messages_need_not_match_hops(stream: StreamClient) -> None:
    """Sound is cut by its samples, however it is divided into messages."""
    sound = tone(1.0)
    for at in range(0, len(sound), 1_234):
        stream.send(sound[at : at + 1_234])
    answers = stream.finish()
    assert answers[-1]["end"] == 1.0
    assert sum(1 + answer["dropped"] for answer in answers) == 3


def test_the_end_of_the_sound_is_answered_and_closes_normally(stream: StreamClient) -> None:
    """What comes after the last hop is classified as well."""
    stream.send(tone(0.7))
    messages = stream.finish()
    assert messages[-1]["end"] == 0.7
    assert messages[-1]["predictions"]


def test_windows_reach_the_worker_as_sent(http: httpx2.Client, worker: FakeWorker) -> None:
    """At the rate of the model: the same samples, in 16 bits or as floats."""
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, RATE // 2).astype("<f4")
    for format, body in (("s16le", pcm(samples)), ("f32le", samples.tobytes())):
        with open_stream(str(http.base_url), format=format) as client:
            client.send(body)
            job = worker.start(queued(worker))
            assert job.audio.endswith(body)
            assert job.duration == 0.5
            worker.succeed(job.id, job.options)
            client.receive()
            assert client.receive()["predictions"]


def test_sound_of_another_rate_is_resampled(http: httpx2.Client, worker: FakeWorker) -> None:
    """The worker gets every window at the rate of its model, whatever the microphone has."""
    with open_stream(str(http.base_url), rate=48_000) as client:
        client.send(tone(0.5, 48_000))
        client.send(tone(0.1, 48_000))  # the filter needs a millisecond after the window
        job = worker.start(queued(worker))
    samples = np.frombuffer(job.audio[44:], "<i2") / 32_768
    assert len(samples) == 8_000
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(int(spectrum.argmax()) * 2 - 440) <= 2
    assert 0.34 < np.sqrt(np.mean(samples[100:-100] ** 2)) < 0.36


def queued(worker: FakeWorker) -> str:
    """The id of the job that is queued, as soon as there is one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := worker._client.zrange("otoscope:queued", 0, -1):
            return found[0].decode()  # type: ignore[index, no-any-return]
        time.sleep(0.005)
    raise AssertionError("no window was queued")


def test_a_slow_worker_makes_windows_drop_the_oldest_first(http: httpx2.Client, worker: FakeWorker) -> None:
    """One window is in the queue and one waits; the answer to the newest says how many were left out before it."""
    with open_stream(str(http.base_url)) as client:
        client.receive()
        client.send(tone(HOP))
        first = queued(worker)
        for _ in range(3):
            client.send(tone(HOP))
        time.sleep(0.2)  # the gateway reads them
        worker.finish(first)
        assert (client.receive()["end"], metric(http, "otoscope_api_live_windows_total", outcome="dropped")) == (0.5, 2)
        worker.finish(queued(worker))
        answer = client.receive()
    assert (answer["end"], answer["dropped"]) == (2.0, 2)


def test_a_window_that_fails_does_not_end_the_stream(http: httpx2.Client, worker: FakeWorker) -> None:
    """Its answer has the error; the next window is classified."""
    with open_stream(str(http.base_url)) as client:
        client.receive()
        client.send(tone(HOP))
        worker.fail(queued(worker), InferenceFailed("The model failed."))
        failed = client.receive()
        assert failed["error"]["code"] == "inference_failed"
        assert failed["predictions"] == []
        client.send(tone(HOP))
        worker.finish(queued(worker))
        assert client.receive()["predictions"]


@pytest.mark.slow
def test_a_window_that_no_worker_takes_has_a_deadline(
    http: httpx2.Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer says so, and it is no longer in the queue: it would be of no use later."""
    monkeypatch.setattr("api.live.stream.DEADLINE_SECONDS", 0.5)
    with open_stream(str(http.base_url)) as client:
        client.receive()
        client.send(tone(HOP))
        assert client.receive()["error"]["code"] == "deadline_exceeded"
        wait_for(lambda: not worker._client.zcard("otoscope:queued"))
        client.send(tone(HOP))
        worker.finish(queued(worker))
        assert client.receive()["predictions"]


def test_nothing_is_left_of_a_window(
    stream: StreamClient, redis_keys: Callable[[], set[bytes]], busy_worker: FakeWorker
) -> None:
    """Not its sound, its result or its record: a stream of an hour has 7,200 windows."""
    for _ in range(3):
        stream.send(tone(HOP))
        stream.receive()
    stream.finish()
    deadline = time.monotonic() + 5
    while (left := {key for key in redis_keys() if b":job:" in key or b"result" in key or b"audio" in key}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    assert not left
    assert not {key for key in redis_keys() if b"tombstone" in key or b"events" in key}


def test_a_window_of_a_closed_stream_is_cancelled(http: httpx2.Client, worker: FakeWorker) -> None:
    """A client that goes away leaves no work in the queue."""
    with open_stream(str(http.base_url)) as client:
        client.send(tone(HOP))
        queued(worker)
    deadline = time.monotonic() + 5
    while worker._client.zcard("otoscope:queued"):
        assert time.monotonic() < deadline, "the window is still queued"
        time.sleep(0.02)


def test_a_client_that_leaves_before_the_last_answer_is_no_fault_of_the_gateway(
    http: httpx2.Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted as a connection that was lost, and nothing is logged as a bug."""
    monkeypatch.setattr("api.live.stream.DEADLINE_SECONDS", 0.5)
    with open_stream(str(http.base_url)) as client:
        client.receive()
        client.send(tone(HOP))
        client.control(type="end")
        queued(worker)
    until(lambda: "otoscope_api_live_streams_ended_total{" in http.get("/metrics").text)
    assert 'otoscope_api_live_streams_ended_total{code="1006"} 1.0' in http.get("/metrics").text
    assert "a stream failed" not in caplog.text


def test_parts_come_as_messagepack(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """With `include` an answer is binary and has the arrays; a control message changes what is included."""
    with open_stream(str(http.base_url), include="maps") as client:
        client.receive()
        client.send(tone(HOP))
        answer = client.receive()
        assert set(answer["maps"]) == {"stem", "layer1.block1", "layer1"}
        assert answer["maps"]["stem"]["shape"] == [4, 6]
        assert len(answer["maps"]["stem"]["data"]) == 2 * 24
        assert answer["predictions"][0]["class"] == "dog"
        client.control(type="parts")
        client.send(tone(HOP))
        assert "maps" not in client.receive()
        client.control(type="parts", include=["embedding"])
        client.send(tone(HOP))
        assert client.receive()["embedding"]["shape"] == [2]


def test_a_stream_takes_turns_as_a_caller_of_its_own(http: httpx2.Client, worker: FakeWorker) -> None:
    """Jobs that its caller has queued before are not in front of its windows."""
    for _ in range(5):
        http.post("/v1/jobs", files={"file": wav()}).raise_for_status()
    with open_stream(str(http.base_url)) as client:
        client.send(tone(HOP))
        deadline = time.monotonic() + 5
        while (turns := worker._client.lrange("otoscope:queue", 0, -1)) and len(turns) < 2:  # type: ignore[arg-type]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        names = [turn.decode() for turn in turns]  # type: ignore[union-attr]
    assert sorted(name.count("/stream/") for name in names) == [0, 1]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"rate": 17_000}, 4422, "rate: 17000 Hz"),
        ({"rate": "fast"}, 4422, "rate"),
        ({"hop": 0.01}, 4422, "hop"),
        ({"format": "u8"}, 4422, "format"),
        ({"include": "waveform"}, 4422, "the parts of a stream"),
        ({"include": "occlusion"}, 4422, "the parts of a stream"),
        ({"layer": "nowhere"}, 4422, "no layer 'nowhere'"),
        ({"frobnicate": 1}, 4422, "The options are rate"),
        ({"model": "nothing"}, 4404, "nothing"),
    ],
)
def test_wrong_options_are_explained(
    http: httpx2.Client, worker: FakeWorker, options: dict[str, Any], code: int, text: str
) -> None:
    """In a message, since a browser does not show why a handshake failed; the close code is 4000 and the status."""
    with open_stream(str(http.base_url), **options) as client:
        (error,) = client.until_closed(code)
    assert error["type"] == "error"
    assert text in error["detail"]


def test_without_a_worker_the_stream_says_so(http: httpx2.Client) -> None:
    """4503: try again."""
    with open_stream(str(http.base_url)) as client:
        (error,) = client.until_closed(4503)
    assert error["code"] == "not_ready"


@pytest.mark.parametrize(
    ("message", "code", "name"),
    [
        (b"\0", 4422, "invalid_request"),
        (b"\0" * 4_097, 4422, "invalid_request"),
        ("hello", 4422, "invalid_request"),
        ('{"type": "dance"}', 4422, "invalid_request"),
        ('{"type": "parts", "include": ["windows"]}', 4422, "invalid_request"),
        ('{"type": "end", "more": 1}', 4422, "invalid_request"),
        ('{"type": "end"}', 4422, "audio_too_short"),
    ],
)
def test_messages_that_are_no_sound_end_the_stream(
    stream: StreamClient, message: bytes | str, code: int, name: str
) -> None:
    """Half a sample, text that is no control message, or no sound at all."""
    stream.socket.send(message)
    assert stream.until_closed(code)[-1]["code"] == name


def test_a_message_that_is_too_large_closes_the_connection(stream: StreamClient) -> None:
    """1009, from the protocol itself, before it is in memory."""
    stream.send(b"\0" * (256 * 1024 + 2))
    stream.until_closed(1009)


def test_a_flood_is_cut_off(stream: StreamClient, http: httpx2.Client) -> None:
    """Sound that arrives far faster than it was recorded: 4429."""
    try:
        for _ in range(40):
            stream.send(tone(1.0))
    except ConnectionClosed:
        pass
    messages = stream.until_closed(4429)
    assert messages[-1]["code"] == "rate_limited"
    assert http.get("/health/live").status_code == 200


def test_a_flood_of_tiny_messages_is_cut_off(stream: StreamClient) -> None:
    """Each costs as much as a longer one."""
    with suppress(ConnectionClosed):
        for _ in range(3_000):
            stream.send(b"\0\0")
    assert stream.until_closed(4429)[-1]["code"] == "rate_limited"


@pytest.mark.parametrize(
    ("block", "count", "words"), [(tone(1.0), 60, "ahead of its time"), (b"\0\0", 30_000, "messages a second")]
)
def test_the_client_does_not_repeat_a_flood(
    http: httpx2.Client, busy_worker: FakeWorker, block: bytes, count: int, words: str
) -> None:
    """A file in a pipe, or blocks that are too short: the error of the service is raised, also after an answer."""
    answered = threading.Event()

    def blocks() -> Iterator[bytes]:
        yield tone(1.0)
        answered.wait(5)
        yield from [block] * count

    def listen(client: Client) -> None:
        for _ in client.stream_audio(blocks(), RATE):
            answered.set()

    with Client(str(http.base_url)) as client, pytest.raises(RateLimited, match=words):
        listen(client)


@pytest.mark.parametrize("sound", [bytes(6_400), np.zeros(3_200, np.int16), [[0, 1]], ["abcd"]], ids=type)
def test_a_sound_that_is_no_sequence_of_blocks(http: httpx2.Client, busy_worker: FakeWorker, sound: Any) -> None:
    """One block, instead of several: its numbers are none."""
    with Client(str(http.base_url)) as client, pytest.raises(TypeError, match="a block is bytes or an array"):
        list(client.stream_audio(sound, RATE))


def test_silence_and_empty_messages_are_fine(stream: StreamClient) -> None:
    """An empty message is a sign of life and no sound."""
    stream.send(b"")
    stream.send(bytes(RATE))
    assert stream.receive()["end"] == 0.5


@pytest.mark.slow
def test_an_idle_stream_is_closed(http: httpx2.Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """4408 after half a minute without a message."""
    monkeypatch.setattr("api.live.stream.IDLE_SECONDS", 0.2)
    with open_stream(str(http.base_url)) as client:
        assert client.until_closed(4408)[-1]["code"] == "request_timeout"


def test_the_longest_stream(start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker) -> None:
    """Beyond `stream_seconds` of sound the stream is closed."""
    http = start_gateway(stream_seconds=1.0)
    with open_stream(str(http.base_url)) as client:
        client.send(tone(1.2))
        assert "at most 1 s of sound" in client.until_closed(4422)[-1]["detail"]


def test_the_client_goes_on_beyond_the_longest_stream(
    start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker
) -> None:
    """In another stream, in time: nothing is lost, and times go on."""
    http = start_gateway(stream_seconds=4.0)
    with Client(str(http.base_url)) as client:
        answers = list(client.stream_audio([tone(0.5, rate=48_000)] * 21, 48_000, hop=0.5))
    assert [answer.last for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1].end == pytest.approx(10.5, abs=0.01)
    assert metric(http, "otoscope_api_live_streams_ended_total", code="1000") >= 3


def test_sound_that_comes_faster_than_answers_loses_windows(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """Every window is answered or counted as dropped in the answer to the next one."""
    with open_stream(str(http.base_url), include="maps,embedding,cam,spectrogram", hop=0.1) as client:
        for _ in range(25):
            client.send(tone(1.0))
            time.sleep(0.01)
        answers = client.finish()
    assert sum(1 + answer["dropped"] for answer in answers if answer["type"] == "answer") in (250, 251)


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_disconnected(
    http: httpx2.Client, busy_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not read stays in its connection's buffer, which is bounded; after a while the stream ends."""
    large = replace(fake_result(JobOptions()), maps={"stem": np.zeros((2_000, 1_000), np.float16)})  # 4 MB
    monkeypatch.setattr("tests.api.conftest.fake_result", lambda options: large)
    monkeypatch.setattr("api.live.stream._SEND_SECONDS", 0.5)
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as connection:
        connection.sendall(handshake("/v1/stream?rate=16000&include=maps", host=f"127.0.0.1:{http.base_url.port}"))
        message = tone(HOP)
        frame = b"\x82" + struct.pack(">BH4x", 0x80 | 126, len(message)) + message  # masked with zeros
        wait_for(lambda: metric(http, "otoscope_api_live_streams") == 1)
        ended = time.monotonic() + 15
        while metric(http, "otoscope_api_live_streams") and time.monotonic() < ended:
            with suppress(ConnectionError):
                connection.sendall(frame)
            time.sleep(0.1)
    assert metric(http, "otoscope_api_live_streams_ended_total", code="4408") == 1


def test_streams_are_limited(start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker) -> None:
    """Of the streams of a gateway one caller may have its share; a place is free again when a stream is closed."""
    http = start_gateway(max_streams=2, caller_share=0.5)
    url = str(http.base_url)
    with open_stream(url) as first:
        first.receive()
        with open_stream(url) as second:
            assert second.until_closed(4429)[-1]["code"] == "rate_limited"
    wait_for(lambda: metric(http, "otoscope_api_live_streams") == 0)
    with open_stream(url) as third:
        assert third.receive()["type"] == "opened"
    http = start_gateway(max_streams=0)
    with open_stream(str(http.base_url)) as none:
        assert none.until_closed(4503)[-1]["code"] == "too_many_connections"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stream_counts_as_a_request_of_its_caller(
    start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker
) -> None:
    """The limit of concurrent requests holds for streams: the handshake is answered with 429 and a problem document."""
    http = start_gateway(max_connections=2, caller_share=0.5)
    url = str(http.base_url)
    with open_stream(url) as first:
        first.receive()
        with pytest.raises(InvalidStatus) as refused, open_stream(url):
            pass
    assert refused.value.response.status_code == 429
    assert b"rate_limited" in refused.value.response.body


class Keys:
    """A gateway with keys: `submits` may open streams, `reads` may not, `slow` may submit two sounds a minute."""

    def __init__(self, start: Callable[..., httpx2.Client], path: Path) -> None:
        made = {
            "submits": new_key("submits", [Scope.SUBMIT]),
            "reads": new_key("reads", [Scope.READ]),
            "slow": new_key("slow", [Scope.SUBMIT], 2),
        }
        write_keys(path, [key for key, _ in made.values()])
        self.secret = {name: secret for name, (_, secret) in made.items()}
        self.url = str(start(keys_file=path).base_url)

    def header(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret[name]}"}


@pytest.fixture
def keys(start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker, tmp_path: Path) -> Keys:
    return Keys(start_gateway, tmp_path / "keys")


def status_of(url: str, headers: dict[str, str] | None = None, **options: Any) -> int:
    """The status of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused, open_stream(url, headers, **options):
        pass
    return int(refused.value.response.status_code)


def test_a_stream_needs_a_key(keys: Keys) -> None:
    """In the header, the cookie of the page, or a subprotocol; never in the address."""
    assert status_of(keys.url) == 401
    assert status_of(keys.url, {"Authorization": "Bearer oto_no"}) == 401
    assert status_of(keys.url, keys.header("reads")) == 403
    secret = keys.secret["submits"]
    assert status_of(f"{keys.url}?key={secret}".replace("?key", "/v1/stream?key").split("/v1")[0]) == 401
    for headers, protocols in (
        (keys.header("submits"), None),
        ({"Cookie": f"otoscope_key={secret}"}, None),
        (None, ["otoscope.v1", f"otoscope.key.{secret}"]),
    ):
        with open_stream(keys.url, headers, protocols=protocols) as client:
            assert client.receive()["type"] == "opened"
            assert client.socket.subprotocol == (protocols[0] if protocols else None)


def test_a_stream_counts_towards_the_rate_limit(keys: Keys) -> None:
    """Its opening as one submission, and each further window of sound as another."""
    with open_stream(keys.url, keys.header("slow")) as client:
        client.send(tone(5.0))
        messages = client.until_closed(4429)
    assert messages[-1]["code"] == "rate_limited"
    assert status_of(keys.url, keys.header("slow")) == 429


def test_pages_of_other_sites_are_refused(start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker) -> None:
    """A browser opens a WebSocket for any page; its origin must be this gateway or one that is allowed."""
    http = start_gateway(cors_origins="https://friend.example")
    url = str(http.base_url)
    own = f"http://{http.base_url.host}:{http.base_url.port}"
    assert status_of(url, {"Origin": "https://evil.example"}) == 403
    assert status_of(url, {"Origin": "null"}) == 403
    for origin in (own, "https://friend.example"):
        with open_stream(url, {"Origin": origin}) as client:
            assert client.receive()["type"] == "opened"


def test_other_host_names_are_refused(http: httpx2.Client) -> None:
    """A page whose name resolves to this gateway (DNS rebinding) opens no stream."""
    address = http.base_url.host, http.base_url.port
    answer = send_request(address, handshake(host="evil.example", origin="http://evil.example"))
    assert answer.status == 421


def handshake(path: str = "/v1/stream?rate=16000", method: str = "GET", host: str = "localhost", **more: str) -> bytes:
    headers = {
        "Host": host, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def test_a_plain_request_says_what_is_missing(http: httpx2.Client) -> None:
    """As from a proxy that does not pass on the upgrade."""
    answer = http.get("/v1/stream")
    assert answer.status_code == 422
    assert "Upgrade" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (handshake("/v1/jobs/x"), 404),  # no other path is upgraded
        (handshake("/v1/streams"), 404),
        (handshake(method="POST"), 405),
        (handshake(Sec_WebSocket_Key="short"), 400),
        (handshake(Sec_WebSocket_Version="7"), 400),
        (handshake(X=9_000 * "x"), 431),
        (handshake(**{f"X{number}": "x" for number in range(120)}), 431),
        (handshake("/v1/stream?rate=" + 9_000 * "1"), 431),
    ],
    ids=["path", "prefix", "method", "key", "version", "long header", "many headers", "long path"],
)  # fmt: skip
def test_odd_handshakes(http: httpx2.Client, worker: FakeWorker, raw: bytes, status: int) -> None:
    """Each is answered with a status, and the gateway stays up."""
    address = http.base_url.host, http.base_url.port
    assert send_request(address, raw).status == status
    assert send_request(address, request("GET", "/health/live")).status == 200


@pytest.mark.slow
def test_a_stream_after_a_request_on_the_same_connection_stays_open(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """The timeout of request heads does not end a connection that has become a WebSocket."""
    http = start_gateway(upload_seconds=0.3)
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in connection.recv(65_536)
        connection.sendall(handshake(host=f"{http.base_url.host}:{http.base_url.port}"))
        received = b""
        while b"opened" not in received:
            received += connection.recv(65_536)
        connection.settimeout(0.8)
        with pytest.raises(TimeoutError):
            assert connection.recv(1) is None


def test_metrics_of_streams(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """Open streams, windows by outcome, time to the answer, and how streams ended; the handshake is a request."""
    with open_stream(str(http.base_url)) as client:
        client.receive()
        assert metric(http, "otoscope_api_live_streams") == 1
        client.send(tone(HOP))
        client.receive()
        client.finish()
    wait_for(lambda: metric(http, "otoscope_api_live_streams") == 0)
    assert metric(http, "otoscope_api_live_windows_total", outcome="answered") == 2
    assert metric(http, "otoscope_api_live_answer_seconds_count") == 2
    assert metric(http, "otoscope_api_live_streams_ended_total", code="1000") == 1
    assert metric(http, "otoscope_api_requests_total", route="/v1/stream", method="GET", status="101") == 1


def test_a_restart_closes_streams_with_1012(settings: Settings, worker: FakeWorker) -> None:
    """The client opens another one."""
    with gateway_thread(settings) as url:
        context = open_stream(url)
        client = context.__enter__()
        client.receive()
        client.send(tone(HOP))
        job_id = queued(worker)
    client.until_closed(1012)
    context.__exit__(None, None, None)
    assert not worker._client.exists(f"otoscope:job:{job_id}")


@pytest.mark.slow
def test_a_redis_that_stops_is_an_error_of_its_windows(
    http: httpx2.Client, busy_worker: FakeWorker, redis_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream stays open, and goes on when the queue is back."""
    with open_stream(str(http.base_url)) as client:
        client.receive()
        raw = redis.Redis(unix_socket_path=str(redis_socket))
        raw.config_set("maxmemory", 1)
        try:
            client.send(tone(HOP))
            answer = client.receive()
        finally:
            raw.config_set("maxmemory", 0)
            raw.close()
        assert answer["error"]["code"] in ("queue_full", "store_unavailable")
        time.sleep(1.1)  # the gateway reads the memory of Redis at most once a second
        client.send(tone(HOP))
        assert client.receive()["predictions"]


def test_refused_and_odd_handshakes_are_not_logged(
    http: httpx2.Client, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Any client can cause any number of them; nor does a stream log more than its beginning and its end."""
    caplog.set_level("INFO")
    address = http.base_url.host, http.base_url.port
    for raw in (handshake(Sec_WebSocket_Key="short"), handshake("/v1/jobs"), handshake(Origin="http://evil.example")):
        send_request(address, raw)
    with open_stream(str(http.base_url)) as client:
        client.receive()
        client.socket.socket.sendall(b"\x81\x81\0\0\0\0\xff")  # text that is no UTF-8
        client.until_closed(1007)
    wait_for(lambda: "stream closed" in caplog.text)
    messages = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "websockets"))]
    assert [text for text in messages if "upgrade" in text.lower() or "handshake" in text or "UTF" in text] == []
    assert [text for text in messages if "stream" in text] == ["stream opened", "stream closed"]
