"""The decode process: reads requests from its parent's socket, decodes, replies. Imports no torch and no Redis client.

Native decoders parse untrusted files in this process only. It has limits on memory and on CPU time per file, and
`worker.decode.sandbox` denies it files, network and other processes; if it crashes, one job fails. A reply is any
number of blocks, raw float32 and sent as they are decoded, then an empty message and a JSON header or an error; the
header has the number of samples of the last block, which is in memory that both share. Never pickle: a process that a
malicious file has taken over must not be able to run code in its parent.
"""

import io
import json
import os
import resource
import socket
import sys
import threading
from importlib.util import find_spec
from typing import Any

from otoscope.errors import AudioCorrupt, OtoscopeError
from shared.audio.decode import FileInfo, SoundStream, Waveform
from shared.audio.limits import HEAD_SECONDS, AudioLimits
from worker.decode import sandbox, shared_samples
from worker.decode.framing import FramedSocket
from worker.inference.malloc import keep_freed_memory

_KEPT_MEMORY = 16 * 2**20  # bytes: the samples of a minute in several forms
_SILENT_AMR = b"#!AMR\n" + (b"\x3c" + bytes(31)) * 10  # 0.2 s


def serve(connection: FramedSocket, samples: Waveform, memory: int, cpu_seconds: float) -> None:
    """Report that the process is ready, and decode until the parent closes its end.

    `samples` is the memory that both share, `memory` in bytes of address space, `cpu_seconds` per file.
    """
    # A file that needs more fails here with MemoryError, instead of making the host swap.
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        connection.send(b"")  # ready
        while True:
            _serve_one(connection, samples, memory, cpu_seconds)
    except (EOFError, ConnectionError):
        return


def _serve_one(connection: FramedSocket, samples: Waveform, memory: int, cpu_seconds: float) -> None:
    """One file. A function of its own, so that the file and its samples are freed when it returns."""
    request = json.loads(connection.receive(memory))
    data = bytes(connection.receive(memory))
    try:
        last = _send_blocks(connection, samples, data, request, cpu_seconds)
    except OtoscopeError as error:
        last = {"code": error.code, "detail": error.detail}
    except MemoryError:
        last = {"code": AudioCorrupt.code, "detail": "Decoding this file needs more memory than is allowed."}
    connection.send(b"", json.dumps(last).encode())


def _send_blocks(
    connection: FramedSocket, samples: Waveform, data: bytes, request: dict[str, Any], cpu_seconds: float
) -> dict[str, Any]:
    """Send all blocks but the last one, which is written to `samples`; returns the header.

    There are so many seconds of CPU for every ten minutes of sound.
    """
    rate, limits = request["rate"], AudioLimits(max_seconds=request["max_seconds"])
    stream = SoundStream(data, rate, limits, channel=request["channel"], strict=request["strict"])
    done = limited = 0.0  # seconds of sound
    last: Waveform = samples[:0]
    _limit_cpu(cpu_seconds)
    for block in stream:
        if len(last):
            connection.send(last.data.cast("B"))
        last = block
        done += len(block) / rate
        if done - limited > HEAD_SECONDS:
            _limit_cpu(cpu_seconds)
            limited = done
    samples[: len(last)] = last
    return {"samples": len(last), **_header(stream.info)}


def _header(info: FileInfo) -> dict[str, Any]:
    """The properties of the file, for JSON."""
    return {
        "source_rate": info.source_rate,
        "channels": info.channels,
        "container": info.container,
        "level": vars(info.level),
        "warnings": [[warning.code, warning.detail] for warning in info.warnings],
    }


def _limit_cpu(seconds: float) -> None:
    """Allow so many more seconds. RLIMIT_CPU counts from the start of the process, so it is raised for each file."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _end_with_parent(parent: int) -> None:
    """Exit once the parent has died. A killed parent cannot signal its children, so this polls, also during a file."""
    stop = threading.Event()
    while os.getppid() == parent:
        stop.wait(2.0)
    os._exit(0)


def _mute_native_code() -> None:
    """Discard what native code writes to stderr: mpg123 prints a line for each broken frame, and a file may have
    thousands. Python's own messages still go to the original stderr."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _load_libraries() -> None:
    """Decode with each library, so that it has loaded and opened what it needs. Without PyAV, which a bundle of
    bench/gpu.py leaves out, only files that need FFmpeg end the process."""
    import soundfile

    flac = io.BytesIO()
    soundfile.write(flac, [0.0] * 8_000, 8_000, format="FLAC")
    files = [flac.getvalue()]
    if find_spec("av"):
        import av.subtitles.codeccontext  # PyAV imports it when a file has subtitles: no file can be opened then
        import av.subtitles.stream  # noqa: F401

        files.append(_SILENT_AMR)
    for file in files:
        for _ in SoundStream(file, 16_000):
            pass


if __name__ == "__main__":
    _mute_native_code()
    keep_freed_memory(_KEPT_MEMORY)
    descriptor, memory, cpu_seconds, parent, shared = sys.argv[1:]
    connection = FramedSocket(socket.socket(fileno=int(descriptor)))
    samples = shared_samples.attach(int(shared))
    _load_libraries()
    sandbox.forbid_files()
    threading.Thread(target=_end_with_parent, args=(int(parent),), daemon=True).start()
    sandbox.forbid_calls()
    serve(connection, samples, int(memory), float(cpu_seconds))
