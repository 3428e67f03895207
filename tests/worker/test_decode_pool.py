"""The decode processes: real ones, with real sounds, killed and stopped in earnest."""

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from otoscope.errors import (
    AudioCorrupt,
    AudioError,
    AudioTooLong,
    AudioTruncated,
    DeadlineExceeded,
    DecoderDied,
    NotAudio,
)
from shared.audio.decode import decode
from tests.support.process_tree import gone, stop, until
from tests.support.sounds import chirp, encode
from worker.decode import pool as decoder
from worker.decode.framing import FramedSocket
from worker.decode.pool import DecoderPool, DecoderStopped

RATE = 16_000


@pytest.fixture(scope="module")
def wav() -> bytes:
    """A short stereo sound at another rate than is asked for."""
    return encode(chirp(0.5, 22_050, 2), 22_050, "WAV", "PCM_16")


@pytest.fixture
def pools() -> Iterator[Callable[..., DecoderPool]]:
    """Pools that are closed in the end, whatever state their processes are in."""
    made: list[DecoderPool] = []

    def start(processes: int = 1, seconds: float = 30.0, **more: object) -> DecoderPool:
        made.append(DecoderPool(processes, seconds, 60.0, **more))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for pool in made:
        pool.close()


@pytest.fixture
def pool(pools: Callable[..., DecoderPool]) -> DecoderPool:
    """One process."""
    return pools()


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a process has been sent its file and its answer is awaited."""
    event, receive = threading.Event(), FramedSocket.receive

    def watched(wire: FramedSocket, limit: int, deadline: float = math.inf) -> bytearray:
        event.set()
        return receive(wire, limit, deadline)

    monkeypatch.setattr(FramedSocket, "receive", watched)
    return event


def test_a_sound_comes_back_as_decoded_here(pool: DecoderPool, wav: bytes) -> None:
    """Bit for bit what `shared.audio.decode.decode` makes of it, and what the file was."""
    there, here = pool.decode(wav, RATE), decode(wav, RATE)
    np.testing.assert_array_equal(there.waveform, here.waveform)
    assert there.waveform.dtype == np.float32
    assert (there.rate, there.source_rate, there.channels, there.container) == (RATE, 22_050, 2, "WAV")
    assert there.seconds == here.seconds


def test_what_is_wrong_with_a_file_is_told_in_the_same_words(pool: DecoderPool, wav: bytes) -> None:
    """Errors of the process are the errors of the tree, and the process lives on."""
    before = pool.pids
    for data, kind in ((b"some text", NotAudio), (wav[:-100], AudioTruncated)):
        with pytest.raises(kind) as here:
            decode(data, RATE)
        with pytest.raises(kind) as there:
            pool.decode(data, RATE)
        assert there.value.detail == here.value.detail
    pool.decode(wav, RATE)
    assert pool.pids == before


def test_the_longest_sound_is_the_pools_to_say() -> None:
    """The limit of the settings reaches the process."""
    pool = DecoderPool(1, 30.0, 0.5)
    try:
        with pytest.raises(AudioTooLong):
            pool.decode(encode(chirp(2.0, 8_000), 8_000, "WAV", "PCM_16"), RATE)
    finally:
        pool.close()


def test_a_file_that_kills_its_process_costs_one_job(
    pools: Callable[..., DecoderPool], wav: bytes, handed_over: threading.Event
) -> None:
    """SIGKILL in the middle of a file: DecoderDied says how, and the next file has a new process."""
    deaths: list[None] = []
    pool = pools(on_crash=lambda: deaths.append(None))
    (pid,) = pool.pids
    stop(pid)
    with ThreadPoolExecutor(1) as thread:
        held = thread.submit(pool.decode, wav, RATE)
        assert handed_over.wait(20)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DecoderDied, match=r"died \(killed by SIGKILL\)"):
            held.result(20)
    assert pool.pids != [pid]
    assert pool.decode(wav, RATE).channels == 2
    assert len(deaths) == 1


def test_a_process_that_died_while_idle_costs_no_job(pools: Callable[..., DecoderPool], wav: bytes) -> None:
    """The next file is not blamed for it."""
    deaths: list[None] = []
    pool = pools(on_crash=lambda: deaths.append(None))
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))
    assert pool.decode(wav, RATE).channels == 2
    assert len(deaths) == 1
    assert len(pool.pids) == 1


CRASHES = {
    "exit": "os._exit(3)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exception": "raise RuntimeError('a bug')",
    "no json": "wire.send(b'{')",
    "a list": "wire.send(b'[]')",
    "deep": "wire.send(b'[' * 60_000)",
    "not an error of sounds": """wire.send(b'{"code": "queue_full", "detail": "x"}')""",
    "infinite": """wire.send(b'{"source_rate": 1e999, "channels": 1, "container": "WAV"}'); wire.send(b'')""",
    "half a sample": """wire.send(b'{"source_rate": 1, "channels": 1, "container": "WAV"}'); wire.send(b'abc')""",
    "too much": """wire._end.sendall((2**60).to_bytes(8, "big"))""",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_no_answer_of_a_process_can_do_harm(
    crash: str, wav: bytes, pools: Callable[..., DecoderPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a file has taken over, or broken, fails its job and is replaced; nothing it says is trusted."""
    source = (
        "import os, signal, socket, sys; from worker.decode.framing import FramedSocket; sys.stderr.close()\n"
        "wire = FramedSocket(socket.socket(fileno=int(sys.argv[1]))); wire.receive(2**30); wire.receive(2**30)\n"
        f"{CRASHES[crash]}\n"
        "wire.receive(8)"
    )
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_COMMAND", (sys.executable, "-c", source))
        pool = pools()
    with pytest.raises(DecoderDied):
        pool.decode(wav, RATE)
    assert pool.decode(wav, RATE).channels == 2, "a real one has taken its place"


def test_a_file_that_takes_too_long_is_given_up(pools: Callable[..., DecoderPool]) -> None:
    """The process is killed, even where it has stopped in the middle of taking the file in."""
    pool = pools(seconds=0.3)
    (pid,) = pool.pids
    stop(pid)
    with pytest.raises(DecoderDied, match=r"took more than 0\.3 s"):
        pool.decode(encode(chirp(40.0, 48_000), 48_000), RATE)
    assert gone(pid)


def test_what_is_plain_needs_no_process(pool: DecoderPool) -> None:
    """Numbers at the right rate are read in place, with the same outcome; another rate or a codec is handed over."""
    stop(pool.pids[0])
    plain = encode(chirp(1.0, RATE), RATE)
    np.testing.assert_array_equal(pool.decode(plain, RATE, timeout=5).waveform, decode(plain, RATE).waveform)
    with pytest.raises(AudioTruncated):
        pool.decode(plain[:-100], RATE, timeout=5)
    for sound in (encode(chirp(1.0, 8_000), 8_000), encode(chirp(1.0, RATE), RATE, "FLAC")):
        stop(pool.pids[0])  # the one before was given up
        with pytest.raises(DeadlineExceeded):
            pool.decode(sound, RATE, timeout=0.2)


def test_a_deadline_that_passes_is_not_the_files_fault(pool: DecoderPool, wav: bytes) -> None:
    """Where the job's time was shorter than a file's, it is the deadline that was exceeded."""
    stop(pool.pids[0])
    with pytest.raises(DeadlineExceeded):
        pool.decode(wav, RATE, timeout=0.2)
    assert pool.decode(wav, RATE, timeout=30).channels == 2


def test_the_wait_for_a_process_counts(pool: DecoderPool, wav: bytes, handed_over: threading.Event) -> None:
    """A job behind a slow file is told of its deadline in time, and the slow one is not disturbed."""
    (pid,) = pool.pids
    stop(pid)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(pool.decode, wav, RATE)
        assert handed_over.wait(20)
        with pytest.raises(DeadlineExceeded):
            pool.decode(wav, RATE, timeout=0.1)
        os.kill(pid, signal.SIGCONT)
        assert slow.result(20).channels == 2
    assert pool.pids == [pid]


def test_a_file_that_needs_too_much_memory_fails_alone(
    pools: Callable[..., DecoderPool], wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleanly, with an error of its own, and the host does not swap."""
    monkeypatch.setattr(decoder, "_MEMORY", 400 * 2**20)
    pool = pools()
    silence = encode(np.zeros((50 * 8_000, 1), np.float32), 8_000, "FLAC", "PCM_16")
    assert pool.decode(silence, 192_000 * 2).channels == 1  # 80 MB
    before = pool.pids
    with pytest.raises(AudioCorrupt, match="more memory than is allowed"):
        pool.decode(silence, 192_000 * 8)  # 320 MB
    assert pool.decode(wav, RATE).channels == 2
    assert pool.pids == before


def test_a_process_forgets_its_last_file(pool: DecoderPool) -> None:
    """The memory of a long sound is given back while the process waits for the next."""
    silence = encode(np.zeros((50 * 8_000, 1), np.float32), 8_000, "FLAC", "PCM_16")
    pool.decode(silence, 192_000 * 8)
    (pid,) = pool.pids

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    until(lambda: resident() < 200 * 2**20)


def test_many_threads_share_few_processes(pools: Callable[..., DecoderPool]) -> None:
    """Each gets its own sound back, good ones beside bad ones."""
    pool = pools(2)
    before = set(pool.pids)

    def one(n: int) -> None:
        if n % 7 == 3:
            with pytest.raises(NotAudio):
                pool.decode(b"text %d" % n, RATE)
            return
        frames = 1_000 + n
        sound = encode(np.full((frames, 1), n / 1_000, np.float32), RATE, "WAV", "FLOAT")
        waveform = pool.decode(sound, RATE).waveform
        np.testing.assert_array_equal(waveform, np.full(frames, n / 1_000, np.float32))

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(one, n) for n in range(300)]:
            done.result(60)
    assert set(pool.pids) == before


def test_a_closed_pool_leaves_no_process_and_no_thread_waiting(pools: Callable[..., DecoderPool], wav: bytes) -> None:
    """Whoever was decoding, or waiting to, is told that the pool was stopped: it says nothing of the file."""
    pool = pools(2)
    pids = pool.pids
    for pid in pids:
        stop(pid)
    with ThreadPoolExecutor(4) as threads:
        held: list[Future[object]] = [threads.submit(pool.decode, wav, RATE) for _ in range(4)]
        until(lambda: pool._idle.empty())
        pool.close()
        for one in held:
            with pytest.raises(DecoderStopped):
                one.result(20)
    with pytest.raises(DecoderStopped):
        pool.decode(wav, RATE)
    assert all(gone(pid) for pid in (*pids, *pool.pids))


def test_broken_frames_do_not_flood_the_log(
    capfd: pytest.CaptureFixture[str], pools: Callable[..., DecoderPool]
) -> None:
    """mpg123 complains of each of them on the error output that the worker's log is read from."""
    data = bytearray(encode(chirp(20.0, RATE), RATE, "MP3", "MPEG_LAYER_III"))
    for at in range(3_000, len(data) - 3_000, 400):
        data[at] ^= 0xFF
    with suppress(AudioError):
        pools().decode(bytes(data), RATE)  # started here: its error output is the captured one
    assert capfd.readouterr().err == ""
