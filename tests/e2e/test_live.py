"""Live classification through the whole stack: gateway, queue and worker, the Python client and `otoscope listen`."""

import asyncio
import io
import json
import subprocess
import time
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from otoscope.client import AsyncClient, Client
from otoscope.errors import InvalidRequest, ModelNotFound
from otoscope.live import LiveAnswer
from otoscope.responses import ServiceUnreachable
from tests.conftest import PYTHON, ROOT
from tests.e2e.conftest import Stack, running_stack
from tests.support.sounds import chirp

RATE = 16_000
SIREN = ROOT / "api" / "static" / "sounds" / "siren.flac"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack with two models: it is ready sooner than one with all of them."""
    with running_stack(default_model="tiny", models="tiny,esc50-light") as running:
        yield running


@pytest.fixture(scope="module")
def siren() -> NDArray[np.float32]:
    """(samples,) at 16 kHz of a synthetic siren."""
    samples, rate = soundfile.read(SIREN, dtype="float32", always_2d=True)
    resampled: NDArray[np.float32] = soxr.resample(samples.mean(axis=1), rate, RATE).astype(np.float32)
    return resampled


def paced(samples: NDArray[np.float32], seconds: float = 0.1, speed: float = 4.0) -> Iterator[NDArray[np.float32]]:
    """Blocks of samples, a few times as fast as they play."""
    size = round(seconds * RATE)
    for at in range(0, len(samples), size):
        time.sleep(seconds / speed)
        yield samples[at : at + size]


def test_a_siren_is_heard(stack: Stack, siren: NDArray[np.float32]) -> None:
    """Answers in order, each a hop later, with the class, and detections that begin and end."""
    with Client(stack.url) as client:
        answers = list(client.stream_audio(paced(siren), RATE, model="esc50-light", top_k=3))
    assert [answer.error for answer in answers] == [None] * len(answers)
    ends = [answer.end for answer in answers]
    assert ends == sorted(ends)
    assert answers[-1].last
    assert ends[-1] == round(len(siren) / RATE, 6)
    hops = len(siren) // (RATE // 2)
    assert len(answers) + sum(answer.dropped for answer in answers) in (hops, hops + 1)
    assert answers[-1].predictions[0].class_ == "siren"
    assert len(answers[-1].predictions) == 3
    began = [one.class_ for answer in answers for one in answer.began]
    ended = [one.class_ for answer in answers for one in answer.ended]
    assert "siren" in began
    assert sorted(began) == sorted(ended)


def test_an_answer_is_that_of_its_window(stack: Stack, siren: NDArray[np.float32]) -> None:
    """The same predictions as for a file with the same samples."""
    with Client(stack.url) as client:
        (*_, last) = client.stream_audio(paced(siren[: 5 * RATE]), RATE, model="esc50-light")
        job = client.classify(siren[: 5 * RATE], RATE, model="esc50-light")
    assert job.result is not None
    assert (last.start, last.end) == (0.0, 5.0)
    assert last.verdict == job.result.verdict
    assert last.known == job.result.known
    assert last.level == job.result.level
    for live, whole in zip(last.predictions, job.result.predictions, strict=True):
        assert live.class_ == whole.class_
        assert live.confidence == pytest.approx(whole.confidence, abs=1e-4)


def test_a_microphone_of_another_rate(stack: Stack) -> None:
    """48 kHz, resampled by the gateway: as the worker's own resampling, within a hundredth."""
    samples, rate = soundfile.read(SIREN, dtype="float32", always_2d=True)
    wide = soxr.resample(samples.mean(axis=1), rate, 48_000)[: 5 * 48_000].astype(np.float32)
    with Client(stack.url) as client:
        blocks = (time.sleep(0.02) or wide[at : at + 4_800] for at in range(0, len(wide), 4_800))
        (*_, last) = client.stream_audio(blocks, 48_000, model="esc50-light")
        job = client.classify(wide, 48_000, model="esc50-light")
    assert job.result is not None
    assert last.predictions[0].class_ == job.result.predictions[0].class_
    assert last.predictions[0].confidence == pytest.approx(job.result.predictions[0].confidence, abs=0.01)


def test_maps_of_a_stream(stack: Stack) -> None:
    """As numpy arrays, by layer; and all channels of one layer."""
    with Client(stack.url) as client:
        sound = chirp(1.0, RATE).astype(np.float32)
        answer, *_ = client.stream_audio([sound], RATE, include=["maps", "spectrogram"], layer="stem")
    maps, spectrogram, channels = (answer.arrays[name] for name in ("maps", "spectrogram", "channels"))
    assert isinstance(maps, dict)
    assert isinstance(channels, dict)
    assert isinstance(spectrogram, np.ndarray)
    assert spectrogram.shape[0] == 32
    assert maps["stem"].ndim == 2
    assert channels["stem"].shape[0] == 8


def test_an_async_source(stack: Stack) -> None:
    """Blocks from an async generator, bytes of 16-bit PCM; the loop may be left at any answer."""

    async def blocks() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)
            yield bytes(RATE // 5)

    async def listen() -> list[LiveAnswer]:
        answers = []
        async with AsyncClient(stack.url) as client:
            async for answer in client.stream_audio(blocks(), RATE, hop=0.2):
                answers.append(answer)
                if len(answers) == 3:
                    break
        return answers

    answers = asyncio.run(listen())
    assert [answer.verdict for answer in answers] == ["silent"] * 3
    assert answers[0].level is not None
    assert answers[0].level.peak_dbfs is None


def test_errors_of_a_stream(stack: Stack) -> None:
    """Those of the service have their classes; those of the source pass through."""
    with Client(stack.url) as client:
        with pytest.raises(ModelNotFound):
            list(client.stream_audio([bytes(3_200)], RATE, model="nothing"))
        with pytest.raises(InvalidRequest, match="rate: 17000"):
            list(client.stream_audio([bytes(3_200)], 17_000))

        def broken() -> Iterator[bytes]:
            yield bytes(3_200)
            raise OSError("the microphone is gone")

        with pytest.raises(OSError, match="the microphone is gone"):
            list(client.stream_audio(broken(), RATE))
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(ServiceUnreachable, match="There is no Otoscope"):
        list(nobody.stream_audio([bytes(3_200)], RATE))


@pytest.mark.timeout(180)
def test_a_restart_of_the_gateway_does_not_end_a_stream(stack: Stack) -> None:
    """The client connects again; times go on from the sound that it had sent."""
    stopped = False

    def blocks() -> Iterator[bytes]:
        nonlocal stopped
        tone = (8_000 * np.sin(np.arange(RATE // 10) * 0.2)).astype("<i2").tobytes()
        until = time.monotonic() + 100
        while not finished and time.monotonic() < until:
            time.sleep(0.1)
            yield tone

    finished, before, after = False, 0.0, []
    with Client(stack.url) as client:
        for answer in client.stream_audio(blocks(), RATE):
            if not stopped:
                before = answer.end
                if before >= 1.0:
                    stopped = True
                    stack.stop("api")
                    stack.start("api")
            elif not answer.last:
                after.append(answer.end)
                finished = len(after) >= 3
    assert after == sorted(after)
    assert after[0] > before


def run_listen(stack: Stack, *arguments: str, sound: bytes | None = None) -> list[str]:
    """The lines that `otoscope listen` prints."""
    command = [PYTHON, "-m", "otoscope", "listen", *arguments, "--url", stack.url]
    done = subprocess.run(command, cwd=ROOT, input=sound, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_listen_to_a_file(stack: Stack) -> None:
    """As it plays; JSON lines."""
    lines = run_listen(stack, str(SIREN), "--model", "esc50-light", "--json")
    answers = [json.loads(line) for line in lines]
    assert answers[-1]["last"]
    assert answers[-1]["predictions"][0]["class"] == "siren"


@pytest.mark.parametrize("bits", [8, 16])
def test_listen_to_a_pipe(stack: Stack, tmp_path: Path, bits: int) -> None:
    """What `arecord` writes: a WAV whose length is not known, of 8 bits by default."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(bits // 8)
        file.setframerate(RATE)
        file.writeframes(np.full(2 * RATE, 128, np.uint8).tobytes() if bits == 8 else bytes(4 * RATE))
    lines = run_listen(stack, "-", "--hop", "0.5", sound=buffer.getvalue())
    assert lines[-1].split()[:7] == ["1.0", "s", "nothing", "to", "hear", "digital", "silence"]
    raw = run_listen(stack, "-", "--rate", str(RATE), sound=bytes(2 * RATE))
    assert raw[-1].split()[:2] == ["1.0", "s"]
