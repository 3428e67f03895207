"""The decode process: reads requests from its parent's socket, decodes, replies. Imports no torch and no Redis client.

Native decoders parse untrusted files in this process only. It has limits on memory and on CPU time per file, and
`worker.decode.sandbox` denies it files, network and other processes; if it crashes, one job fails. A reply is any
number of blocks, raw float32 and sent as they are decoded, then an empty message and a JSON header or an error; never
pickle: a process that a malicious file has taken over must not be able to run code in its parent.
"""

import io
import json
import os
import resource
import socket
import sys
import threading
from dataclasses import asdict
from typing import Any

from otoscope.errors import AudioCorrupt, OtoscopeError
from shared.audio.decode import SoundStream
from shared.audio.limits import HEAD_SECONDS, AudioLimits
from worker.decode import sandbox
from worker.decode.framing import FramedSocket

_SILENT_AMR = b"#!AMR\n" + (b"\x3c" + bytes(31)) * 10  # 0.2 s


def serve(connection: FramedSocket, memory: int, cpu_seconds: float) -> None:
    """Report that the process is ready, and decode until the parent closes its end.

    `memory` is in bytes of address space, `cpu_seconds` per file.
    """
    # A file that needs more fails here with MemoryError, instead of making the host swap.
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        connection.send(b"")  # ready
        while True:
            _serve_one(connection, memory, cpu_seconds)
    except (EOFError, ConnectionError):
        return


def _serve_one(connection: FramedSocket, memory: int, cpu_seconds: float) -> None:
    """One file. A function of its own, so that the file and its samples are freed when it returns."""
    request = json.loads(connection.receive(memory))
    data = bytes(connection.receive(memory))
    try:
        last = _send_blocks(connection, data, request, cpu_seconds)
    except OtoscopeError as error:
        last = {"code": error.code, "detail": error.detail}
    except MemoryError:
        last = {"code": AudioCorrupt.code, "detail": "Decoding this file needs more memory than is allowed."}
    connection.send(b"")
    connection.send(json.dumps(last).encode())


def _send_blocks(connection: FramedSocket, data: bytes, request: dict[str, Any], cpu_seconds: float) -> dict[str, Any]:
    """Send the samples; returns the header. There are so many seconds of CPU for every ten minutes of sound."""
    rate, limits = request["rate"], AudioLimits(max_seconds=request["max_seconds"])
    stream = SoundStream(data, rate, limits, channel=request["channel"], strict=request["strict"])
    sent = limited = 0.0  # seconds of sound
    _limit_cpu(cpu_seconds)
    for block in stream:
        connection.send(block.data.cast("B"))
        sent += len(block) / rate
        if sent - limited > HEAD_SECONDS:
            _limit_cpu(cpu_seconds)
            limited = sent
    info = asdict(stream.info)
    return info | {"warnings": [[warning.code, warning.detail] for warning in stream.info.warnings]}


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
    """Decode with each library, so that it has loaded and opened what it needs."""
    import soundfile

    flac = io.BytesIO()
    soundfile.write(flac, [0.0] * 8_000, 8_000, format="FLAC")
    for file in (flac.getvalue(), _SILENT_AMR):
        for _ in SoundStream(file, 16_000):
            pass


if __name__ == "__main__":
    _mute_native_code()
    descriptor, memory, cpu_seconds, parent = sys.argv[1:]
    connection = FramedSocket(socket.socket(fileno=int(descriptor)))
    _load_libraries()
    sandbox.forbid_files()
    threading.Thread(target=_end_with_parent, args=(int(parent),), daemon=True).start()
    sandbox.forbid_calls()
    serve(connection, int(memory), float(cpu_seconds))
