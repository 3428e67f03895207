"""The pool of decode processes: real processes with real files, killed and stopped by signals."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otoscope.errors import (
    AudioChannels,
    AudioCorrupt,
    AudioError,
    AudioTooLong,
    AudioTruncated,
    DeadlineExceeded,
    DecoderDied,
    JobCancelled,
    NotAudio,
)
from shared.audio.decode import BLOCK_SAMPLES, decode
from tests.support.process_tree import gone, stop, until
from tests.support.sounds import AV_FORMS, chirp, encode, encode_av, flac_of_silence
from tests.support.worker_harness import wait_until_ready
from worker.decode import process
from worker.decode.framing import FramedSocket
from worker.decode.pool import DecoderPool, DecoderStopped
from worker.decode.process import Clock

RATE = 16_000


@pytest.fixture(scope="module")
def wav() -> bytes:
    """A short stereo sound at another rate than the requested one."""
    return encode(chirp(0.5, 22_050, 2), 22_050, "WAV", "PCM_16")


@pytest.fixture
def pools() -> Iterator[Callable[..., DecoderPool]]:
    """Makes pools; they are closed at the end, whatever the state of their processes."""
    made: list[DecoderPool] = []

    def start(processes: int = 1, seconds: float = 30.0, **more: object) -> DecoderPool:
        made.append(DecoderPool(processes, seconds, 700.0, **more))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for pool in made:
        pool.close()


@pytest.fixture
def pool(pools: Callable[..., DecoderPool]) -> DecoderPool:
    """One process."""
    return pools()


@pytest.fixture
def file_sent(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a process has been sent its file and its reply is awaited."""
    event, receive = threading.Event(), FramedSocket.receive

    def watched(connection: FramedSocket, *limits: Any) -> bytearray:
        event.set()
        return receive(connection, *limits)

    monkeypatch.setattr(FramedSocket, "receive", watched)
    return event


def test_the_result_equals_that_of_decoding_in_this_process(pool: DecoderPool, wav: bytes) -> None:
    """Bit for bit the samples of `shared.audio.decode.decode`, with the properties of the file."""
    there, here = pool.decode(wav, RATE), decode(wav, RATE)
    np.testing.assert_array_equal(there.waveform, here.waveform)
    assert there.waveform.dtype == np.float32
    assert (there.rate, there.source_rate, there.channels, there.container) == (RATE, 22_050, 2, "WAV")
    assert there.seconds == here.seconds


def test_errors_of_a_file_have_the_same_type_and_text(pool: DecoderPool, wav: bytes) -> None:
    """Errors in the process become those of otoscope.errors, and the process keeps running."""
    before = pool.pids
    for data, kind in ((b"some text", NotAudio), (wav[:40], AudioTruncated)):
        with pytest.raises(kind) as here:
            decode(data, RATE)
        with pytest.raises(kind) as there:
            pool.decode(data, RATE)
        assert there.value.detail == here.value.detail
    pool.decode(wav, RATE)
    assert pool.pids == before


def test_a_file_with_subtitles(pool: DecoderPool) -> None:
    """PyAV loads what it needs for them when it meets them, which the sandbox does not permit: it is loaded before."""
    file = encode_av(chirp(1.0, 44_100), AV_FORMS["FLV MP3"])
    body = b"\x02\0\x0aonTextData\x08\0\0\0\1\0\4text\x02\0\2hi\0\0\x09"
    tag = b"\x12" + len(body).to_bytes(3, "big") + bytes(7) + body + (11 + len(body)).to_bytes(4, "big")
    decoded = pool.decode(file[:13] + tag + file[13:], RATE)
    assert decoded.seconds == pytest.approx(1.0, abs=0.1)


def test_options_reach_the_process(pool: DecoderPool, wav: bytes) -> None:
    """Which channel, and whether a sound that is cut is refused."""
    waves = [pool.decode(wav, RATE, channel=channel).waveform for channel in (1, 2, "left", "mean")]
    np.testing.assert_array_equal(waves[0], waves[2])
    np.testing.assert_allclose((waves[0] + waves[1]) / 2, waves[3], atol=1e-6)
    cut = pool.decode(wav[:-100], RATE)
    assert [warning.code for warning in cut.warnings if warning.code == "truncated"]
    with pytest.raises(AudioTruncated):
        pool.decode(wav[:-100], RATE, strict=True)
    with pytest.raises(AudioChannels, match="Channel 3"):
        pool.decode(wav, RATE, channel=3)


def test_the_longest_sound_is_set_by_the_pool() -> None:
    """The limit of the settings reaches the process."""
    pool = DecoderPool(1, 30.0, 0.5)
    try:
        with pytest.raises(AudioTooLong):
            pool.decode(encode(chirp(2.0, 8_000), 8_000, "WAV", "PCM_16"), RATE)
    finally:
        pool.close()


def test_a_file_that_kills_its_process_costs_one_job(
    pools: Callable[..., DecoderPool], wav: bytes, file_sent: threading.Event
) -> None:
    """SIGKILL in the middle of a file: DecoderDied names the signal, and the next file gets a new process."""
    crashes: list[None] = []
    pool = pools(on_crash=lambda: crashes.append(None))
    (pid,) = pool.pids
    stop(pid)
    with ThreadPoolExecutor(1) as thread:
        blocked = thread.submit(pool.decode, wav, RATE)
        assert file_sent.wait(20)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DecoderDied, match=r"died \(killed by SIGKILL\)"):
            blocked.result(20)
    assert pool.pids != [pid]
    assert pool.decode(wav, RATE).channels == 2
    assert len(crashes) == 1


def test_a_process_that_crashed_while_idle_costs_no_job(pools: Callable[..., DecoderPool], wav: bytes) -> None:
    """The next file does not fail because of it."""
    crashes: list[None] = []
    pool = pools(on_crash=lambda: crashes.append(None))
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))
    assert pool.decode(wav, RATE).channels == 2
    assert len(crashes) == 1
    assert len(pool.pids) == 1


CRASHES = {
    "exit": "os._exit(3)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exception": "raise RuntimeError('a bug')",
    "no json": "reply(b''); reply(b'{')",
    "a list": "reply(b''); reply(b'[]')",
    "deep": "reply(b''); reply(b'[' * 60_000)",
    "not an error of sounds": """reply(b''); reply(b'{"code": "queue_full", "detail": "x"}')""",
    "infinite number": """reply(b''); reply(b'{"samples": 1, "source_rate": 1e999, "channels": 1}')""",
    "no level": """reply(b''); reply(b'{"samples": 1, "source_rate": 1, "channels": 1, "container": 1, "level": 1}')""",
    "more samples than shared memory": """reply(b''); reply(b'{"samples": 262145}')""",
    "no samples": """reply(b''); reply(b'{"samples": 0}')""",
    "half a sample": "reply(b'abc')",
    "a long block": "reply(bytes(2**21))",
    "too much": """connection._end.sendall((2**60).to_bytes(8, "big"))""",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_an_invalid_reply_fails_one_job(
    crash: str, wav: bytes, pools: Callable[..., DecoderPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a malicious file controls, or that is broken, is replaced; its reply is not trusted."""
    source = (
        "import os, signal, socket, sys; from worker.decode.framing import FramedSocket; sys.stderr.close()\n"
        "connection = FramedSocket(socket.socket(fileno=int(sys.argv[1])))\n"
        "connection.send(b''); connection.receive(2**30); connection.receive(2**30); reply = connection.send\n"
        f"{CRASHES[crash]}\n"
        "connection.receive(8)"
    )
    with monkeypatch.context() as patch:
        patch.setattr(process, "_COMMAND", (sys.executable, "-c", source))
        pool = pools()
    with pytest.raises(DecoderDied):
        pool.decode(wav, RATE)
    assert pool.decode(wav, RATE).channels == 2, "a working process has replaced it"


@pytest.mark.parametrize("started", [True, False])
def test_a_file_that_exceeds_the_time_limit_fails(
    pools: Callable[..., DecoderPool], monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """The process is killed, even if it stopped while it received the file, or before it had started."""
    monkeypatch.setattr(process, "_START_SECONDS", 60.0 if started else 0.3)
    pool = pools(seconds=0.3)
    (pid,) = pool.pids
    if started:
        wait_until_ready(pool)
    stop(pid)
    with pytest.raises(DecoderDied, match=r"took more than 0\.3 s"):
        pool.decode(encode(chirp(40.0, 48_000), 48_000), RATE)
    assert gone(pid)


def test_an_uncompressed_file_needs_no_process(pool: DecoderPool) -> None:
    """PCM at the right rate is read in this process, with the same result; another rate or a codec needs a process."""
    stop(pool.pids[0])
    plain = encode(chirp(1.0, RATE), RATE)
    np.testing.assert_array_equal(pool.decode(plain, RATE, timeout=5).waveform, decode(plain, RATE).waveform)
    with pytest.raises(AudioTruncated):
        pool.decode(plain[:-100], RATE, timeout=5, strict=True)
    for sound in (encode(chirp(1.0, 8_000), 8_000), encode(chirp(1.0, RATE), RATE, "FLAC")):
        stop(pool.pids[0])  # the previous one was killed
        with pytest.raises(DeadlineExceeded):
            pool.decode(sound, RATE, timeout=0.2)


def test_a_deadline_that_passes_is_not_the_files_fault(pool: DecoderPool, wav: bytes) -> None:
    """If the job's deadline comes before the time limit of the file, the error is DeadlineExceeded."""
    stop(pool.pids[0])
    with pytest.raises(DeadlineExceeded):
        pool.decode(wav, RATE, timeout=0.2)
    assert pool.decode(wav, RATE, timeout=30).channels == 2


def test_the_wait_for_a_process_counts(pool: DecoderPool, wav: bytes, file_sent: threading.Event) -> None:
    """A job that waits behind a slow file gets DeadlineExceeded in time, and the slow file is not disturbed."""
    (pid,) = pool.pids
    stop(pid)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(pool.decode, wav, RATE)
        assert file_sent.wait(20)
        with pytest.raises(DeadlineExceeded):
            pool.decode(wav, RATE, timeout=0.1)
        os.kill(pid, signal.SIGCONT)
        assert slow.result(20).channels == 2
    assert pool.pids == [pid]


def test_a_file_that_needs_too_much_memory_fails_alone(
    pools: Callable[..., DecoderPool], wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AudioCorrupt and a detail of its own; the process keeps running."""
    monkeypatch.setattr(process, "_MEMORY", 500 * 2**20)  # of which the libraries map 200
    pool = pools()
    silence = encode(np.zeros((50 * 8_000, 1), np.float32), 8_000, "FLAC", "PCM_16")
    assert pool.decode(silence, 192_000 * 2).channels == 1  # 80 MB
    before = pool.pids
    with pytest.raises(AudioCorrupt, match="more memory than is allowed"):
        pool.decode(silence, 192_000 * 8)  # 320 MB
    assert pool.decode(wav, RATE).channels == 2
    assert pool.pids == before


def test_a_process_frees_its_last_file(pool: DecoderPool) -> None:
    """The memory of a long sound is freed while the process waits for the next one."""
    silence = encode(np.zeros((50 * 8_000, 1), np.float32), 8_000, "FLAC", "PCM_16")
    pool.decode(silence, 192_000 * 8)
    (pid,) = pool.pids

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    until(lambda: resident() < 200 * 2**20)


def test_many_threads_share_few_processes(pools: Callable[..., DecoderPool]) -> None:
    """Each gets its own sound, valid files beside invalid ones."""
    pool = pools(2)
    before = set(pool.pids)

    def one(n: int) -> None:
        if n % 7 == 3:
            with pytest.raises(NotAudio):
                pool.decode(b"text %d" % n, RATE)
            return
        frames = 1_000 + n
        own = np.resize(np.float32([n / 1_000, -n / 1_000]), frames)
        waveform = pool.decode(encode(own[:, None], RATE, "WAV", "FLOAT"), RATE).waveform
        np.testing.assert_array_equal(waveform, own)

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(one, n) for n in range(300)]:
            done.result(60)
    assert set(pool.pids) == before


def test_a_closed_pool_leaves_no_process_and_no_thread_waiting(pools: Callable[..., DecoderPool], wav: bytes) -> None:
    """Calls in progress or waiting raise DecoderStopped, which is no statement about the file."""
    pool = pools(2)
    pids = pool.pids
    for pid in pids:
        stop(pid)
    with ThreadPoolExecutor(4) as threads:
        blocked: list[Future[object]] = [threads.submit(pool.decode, wav, RATE) for _ in range(4)]
        until(lambda: pool._idle.empty())
        pool.close()
        for one in blocked:
            with pytest.raises(DecoderStopped):
                one.result(20)
    with pytest.raises(DecoderStopped):
        pool.decode(wav, RATE)
    assert all(gone(pid) for pid in (*pids, *pool.pids))


def test_broken_frames_do_not_flood_the_log(
    capfd: pytest.CaptureFixture[str], pools: Callable[..., DecoderPool]
) -> None:
    """mpg123 prints a line for each of them to stderr, which is where the worker logs."""
    data = bytearray(encode(chirp(20.0, RATE), RATE, "MP3", "MPEG_LAYER_III"))
    for at in range(3_000, len(data) - 3_000, 400):
        data[at] ^= 0xFF
    with suppress(AudioError):
        pools().decode(bytes(data), RATE)  # started here, so that its stderr is captured
    assert capfd.readouterr().err == ""


MINUTES = flac_of_silence(660, 8_000, 1)
"""Eleven minutes: a long sound."""


def test_a_long_sound_has_a_process_of_its_own(pool: DecoderPool, wav: bytes) -> None:
    """It is decoded as fast as its blocks are taken; meanwhile the pool's only process is free for other files."""
    before = pool.pids
    with pool.open(MINUTES, RATE, long=True) as stream:
        blocks = iter(stream)
        first = next(blocks)
        assert len(first) == BLOCK_SAMPLES
        assert len(pool.pids) == 2
        assert pool.decode(wav, RATE).channels == 2
        samples = len(first) + sum(map(len, blocks))
    assert samples == 660 * RATE
    assert stream.info.source_rate == 8_000
    assert pool.pids == before


def test_only_so_many_long_sounds_are_decoded_at_a_time(pool: DecoderPool) -> None:
    """As many as there are processes; a further one waits, and is not started after its deadline."""
    with (
        pool.open(MINUTES, RATE, long=True),
        pytest.raises(DeadlineExceeded),
        pool.open(MINUTES, RATE, timeout=0.1, long=True),
    ):
        pass
    with pool.open(MINUTES, RATE, timeout=20, long=True) as stream:
        assert len(next(iter(stream))) == BLOCK_SAMPLES


def test_a_file_that_is_left_ends_its_process(pools: Callable[..., DecoderPool], wav: bytes) -> None:
    """Which is replaced; it is no crash. The rest of the file is not decoded."""
    crashes: list[None] = []
    pool = pools(on_crash=lambda: crashes.append(None))
    (before,) = pool.pids
    with pool.open(MINUTES, RATE) as stream:
        next(iter(stream))
    assert gone(before)
    assert pool.decode(wav, RATE).channels == 2
    assert crashes == []


@pytest.mark.parametrize("busy", [False, True])
def test_a_check_ends_the_wait(pools: Callable[..., DecoderPool], wav: bytes, busy: bool) -> None:
    """Within a fraction of a second, while a process decodes or while there is none free."""
    pool = pools()
    (pid,) = pool.pids
    stop(pid)
    ended = threading.Event()

    def check() -> None:
        if ended.is_set():
            raise JobCancelled("The job was cancelled.")

    def decode_one(check: Callable[[], None]) -> None:
        with pool.open(wav, RATE, 20, check) as stream:
            list(stream)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(decode_one, (lambda: None) if busy else check)
        until(lambda: pool._idle.empty())
        second = threads.submit(decode_one, check) if busy else first
        ended.set()
        with pytest.raises(JobCancelled):
            second.result(1.0)
        if busy:
            os.kill(pid, signal.SIGCONT)
            first.result(20)
    assert pool.decode(wav, RATE).channels == 2


def test_the_time_limit_grows_with_the_sound_and_leaves_out_the_reader(
    pools: Callable[..., DecoderPool],
) -> None:
    """Every ten minutes of sound add the limit of a file; the time that its reader takes does not count."""
    clock = Clock(3.0, math.inf, RATE)
    assert clock.limit == 3.0
    clock.samples = 25 * 60 * RATE
    assert clock.limit == 9.0
    pool = pools(seconds=2.0)
    with pool.open(MINUTES, RATE) as stream:
        blocks = iter(stream)
        next(blocks)
        time.sleep(2.5)
        assert sum(map(len, blocks)) > 640 * RATE


def test_more_samples_than_requested_are_an_invalid_reply(
    pools: Callable[..., DecoderPool], wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that sends blocks without end is ended."""
    source = (
        "import os, socket, sys; from worker.decode.framing import FramedSocket; sys.stderr.close()\n"
        "connection = FramedSocket(socket.socket(fileno=int(sys.argv[1])))\n"
        "connection.send(b''); connection.receive(2**30); connection.receive(2**30)\n"
        "while True: connection.send(bytes(2**20))"
    )
    with monkeypatch.context() as patch:
        patch.setattr(process, "_COMMAND", (sys.executable, "-c", source))
        pool = pools()
    with pytest.raises(DecoderDied, match="invalid reply"):
        pool.decode(wav, RATE)
