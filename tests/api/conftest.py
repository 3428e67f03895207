"""A real gateway on a real port with a real Redis; the test acts as the worker, through the job store."""

import asyncio
import io
import os
import socket
import subprocess
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import numpy as np
import pytest
import uvicorn

from api.http.protocol import WEBSOCKETS, bounded_protocol
from api.main import create_app
from otoscope.errors import OtoscopeError
from otoscope.results import Detection, Result, WindowPrediction
from otoscope.types import Accuracy, JobOptions, Layer, ModelCard, Timings
from shared.config.settings import Settings
from shared.contract import LONGEST_HEARTBEAT, queue_key
from shared.jobs import JobStore
from shared.jobs.records import ClaimedJob, SkippedJob, WorkerHeartbeat
from shared.redis_client.connection import connect
from shared.results import pack_result
from tests.conftest import PYTHON, ROOT, start_server
from tests.support.http_requests import Address, request, send_request


def wav(seconds: float = 1.5, rate: int = 8_000, channels: int = 1) -> bytes:
    """A 440 Hz tone as 16-bit PCM."""
    tone = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    samples = np.repeat((tone * 20_000).astype("<i2")[:, None], channels, axis=1)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


MAX_RSS_KB = 400 * 2**10  # peak memory of a gateway process: about 80 MB when idle, and an upload may have 32 MB

LAYERS = ("stem", "layer1.block1", "layer1")


class FakeWorker:
    """Announces models and finishes jobs with fake results, one step at a time."""

    def __init__(self, settings: Settings) -> None:
        self._client = connect(settings)
        self.store = JobStore(self._client, settings)

    def announce(self, *names: str, seconds: int = 30) -> None:
        names = names or ("tiny",)
        self.store.heartbeat(WorkerHeartbeat("w1", list(names), 0), {name: card(name) for name in names}, seconds)

    def take(self, job_id: str) -> ClaimedJob | SkippedJob:
        for line in self._client.scan_iter(queue_key("*")):
            for message in self._client.lrange(line, 0, -1):  # type: ignore[union-attr]
                if job_id.encode() in message:
                    self._client.lrem(line, 1, message)
        return self.store.claim(job_id, "w1", isolated=True)  # some tests start a job more than once

    def start(self, job_id: str) -> ClaimedJob:
        work = self.take(job_id)
        assert isinstance(work, ClaimedJob), work
        return work

    def finish(self, job_id: str) -> ClaimedJob:
        work = self.start(job_id)
        self.succeed(job_id, work.options)
        return work

    def succeed(self, job_id: str, options: JobOptions | None = None) -> None:
        """Finish a claimed job."""
        packed = pack_result(fake_result(options or JobOptions()))
        self.store.succeed(job_id, packed, Timings(decode=0.01, batch=0.002, forward=0.03))

    def fail(self, job_id: str, error: OtoscopeError) -> None:
        self.start(job_id)
        self.store.fail(job_id, error)

    def finish_soon(self, client: httpx2.Client, stop: threading.Event) -> None:
        """Finish every queued job until `stop` is set; runs in a thread."""
        while not stop.wait(0.01):
            for entry in self._client.zrange("otoscope:queued", 0, -1):  # type: ignore[union-attr]
                job_id = entry.decode()  # type: ignore[union-attr]
                work = self.take(job_id)
                if isinstance(work, ClaimedJob):  # otherwise it was cancelled in the meantime
                    self.succeed(job_id, work.options)

    def close(self) -> None:
        self._client.close()


def card(name: str) -> ModelCard:
    return ModelCard(
        name=name,
        description="a fake",
        classes=["dog", "rain", "bell"],
        sample_rate=16_000,
        window_seconds=1.0,
        architecture={"depths": [1]},
        frontend={"n_mels": 8},
        parameters=123,
        layers=[Layer(name=layer, shape=[4, 4, 6]) for layer in LAYERS],
        accuracy=[Accuracy(data="made up", protocol="none", correct=1, total=2)],
        licence="CC0",
        version="0",
    )


def fake_result(options: JobOptions) -> Result:
    """A result with the requested parts; the values are easy to recognise."""
    parts = {part.value for part in options.include}
    ranked = [("dog", 0.7), ("rain", 0.2), ("bell", 0.1)][: options.top_k]
    grid = (np.arange(24, dtype=np.float16).reshape(4, 6) - 12) / 10
    return Result(
        model="tiny",
        predictions=ranked,
        duration=1.5,
        sample_rate=44_100,
        windows=[WindowPrediction(0.0, 1.0, ranked), WindowPrediction(0.5, 1.5, ranked)],
        combined="mean of the probabilities of 2 windows",
        window=1,
        spectrogram=grid * 10 if "spectrogram" in parts else None,
        maps={layer: grid for layer in LAYERS} if "maps" in parts else {},
        full_spectrogram=np.tile(grid * 10, 3) if "full_spectrogram" in parts else None,
        ltsa=np.tile(grid * 10, 2) if "ltsa" in parts else None,
        embedding=np.array([0.5, np.float16(1 / 3)], np.float16) if "embedding" in parts else None,
        cam=np.array([[0.0, 1.0]], np.float16) if "cam" in parts else None,
        occlusion=np.array([[0.25, -0.5]], np.float16) if "occlusion" in parts else None,
        waveform=np.array([[-0.5, -0.25], [0.5, 0.75]], np.float16) if "waveform" in parts else None,
        parts=sorted(parts),
        detections=[Detection("dog", 0.25, 0.75, 0.7, 0.5)] if "detections" in parts else [],
    )


@contextmanager
def gateway_process(upload_seconds: float) -> Iterator[Address]:
    """The address of `running_gateway`."""
    with running_gateway(upload_seconds) as (address, _):
        yield address


@contextmanager
def running_gateway(
    upload_seconds: float, *, preexec: Callable[[], None] | None = None, **more: str
) -> Iterator[tuple[Address, Settings]]:
    """A gateway that runs as a process of its own, which must not exit and not exceed MAX_RSS_KB.

    Yields its address, and settings with its Redis; `more` are settings of the gateway. `preexec` is called in the new
    process.
    """
    with tempfile.TemporaryDirectory(prefix="oto") as name, socket.socket() as probe:
        server, path = start_server(Path(name), "--save", "")
        probe.bind(("127.0.0.1", 0))
        address = "127.0.0.1", int(probe.getsockname()[1])
        probe.close()
        own = {"REDIS_URL": f"unix://{path}", "PORT": str(address[1]), "UPLOAD_SECONDS": str(upload_seconds)}
        own["ALLOWED_HOSTS"] = "*"  # some tests send odd ones
        own |= {name.upper(): value for name, value in more.items()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTOSCOPE_")}
        environment |= {f"OTOSCOPE_{name}": value for name, value in own.items()}
        gateway = subprocess.Popen(
            [PYTHON, "-m", "api"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, preexec_fn=preexec
        )
        settings = Settings(redis_url=f"unix://{path}")
        worker = FakeWorker(settings)
        worker.announce(seconds=LONGEST_HEARTBEAT)
        try:
            deadline = time.monotonic() + 20
            while True:
                with suppress(OSError):
                    send_request(address, request("GET", "/health/live"))
                    break
                assert time.monotonic() < deadline, "the gateway did not start"
                time.sleep(0.02)
            yield address, settings
            assert gateway.poll() is None, "the gateway is gone"
            status = Path(f"/proc/{gateway.pid}/status").read_text()
            peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        finally:
            gateway.terminate()
            gateway.wait(20)
            worker.close()
            server.kill()
            server.wait()
        assert peak < MAX_RSS_KB


class _ShortSleeps:
    """asyncio for uvicorn.server, which sleeps 100 ms in its main loop and again in its shutdown: 40 seconds over all
    tests. Both times are constants inside its methods, so a subclass would have to copy all of `Server.shutdown`."""

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


uvicorn.server.asyncio = _ShortSleeps()  # type: ignore[assignment]


@contextmanager
def gateway_thread(settings: Settings) -> Iterator[str]:
    """A gateway in a thread; yields its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        timeout_graceful_shutdown=1,
        http=bounded_protocol(settings.upload_seconds),
        **WEBSOCKETS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    try:
        while not server.started:
            assert time.monotonic() < deadline, "the gateway did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
    assert not thread.is_alive(), "the gateway did not stop"


@pytest.fixture
def start_gateway(settings: Settings) -> Iterator[Callable[..., httpx2.Client]]:
    """A function that starts a gateway, with some settings changed, and returns a client of it."""
    with ExitStack() as stack:

        def start(**changed: object) -> httpx2.Client:
            url = stack.enter_context(gateway_thread(settings.model_copy(update=changed)))
            return stack.enter_context(httpx2.Client(base_url=url, timeout=20, verify=False))  # saves reading the CAs

        yield start


@pytest.fixture
def http(start_gateway: Callable[..., httpx2.Client]) -> httpx2.Client:
    """A client of a gateway with the default settings."""
    return start_gateway()


@pytest.fixture
def worker(settings: Settings) -> Iterator[FakeWorker]:
    """A fake worker that has announced the model `tiny`."""
    fake = FakeWorker(settings)
    fake.announce()
    yield fake
    fake.close()


@pytest.fixture
def busy_worker(worker: FakeWorker, http: httpx2.Client) -> Iterator[FakeWorker]:
    """A fake worker that finishes every job, in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=worker.finish_soon, args=(http, stop), daemon=True)
    thread.start()
    yield worker
    stop.set()
    thread.join()
