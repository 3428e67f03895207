"""The decode process: reads requests from its parent's socket, decodes, answers. No torch, nothing of the parent's.

Native decoders meet hostile files here and nowhere else. The process has limits on memory and on CPU time a file; when
it dies, one job fails. Answers are a JSON header and raw float32, never a pickle: a process that a file has taken over
must not be able to run code in its parent.
"""

import json
import os
import resource
import socket
import sys
import threading

from otoscope.errors import AudioCorrupt, OtoscopeError
from shared.audio.decode import AudioLimits, decode
from worker.decode.framing import FramedSocket


def serve(wire: FramedSocket, memory: int, cpu_seconds: float) -> None:
    """Answer until the parent closes its end."""
    # So that a file that needs more dies here by MemoryError rather than the host by swapping.
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        while True:
            _serve_one(wire, memory, cpu_seconds)
    except (EOFError, ConnectionError):
        return


def _serve_one(wire: FramedSocket, memory: int, cpu_seconds: float) -> None:
    """One file; nothing of it is kept when this returns."""
    request = json.loads(wire.receive(memory))
    data = bytes(wire.receive(memory))
    _limit_cpu(cpu_seconds)
    try:
        decoded = decode(data, request["rate"], AudioLimits(max_seconds=request["max_seconds"]))
    except OtoscopeError as error:
        wire.send(json.dumps({"code": error.code, "detail": error.detail}).encode())
    except MemoryError:
        detail = "Decoding this file needs more memory than is allowed."
        wire.send(json.dumps({"code": AudioCorrupt.code, "detail": detail}).encode())
    else:
        about = {"source_rate": decoded.source_rate, "channels": decoded.channels, "container": decoded.container}
        wire.send(json.dumps(about).encode())
        wire.send(decoded.waveform.data.cast("B"))


def _limit_cpu(seconds: float) -> None:
    """CPU time is counted over the life of the process: move the limit ahead of what is used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _end_with_parent(parent: int) -> None:
    """A parent that is killed cannot tell its children: notice it from here, in the middle of a long file too."""
    stop = threading.Event()
    while os.getppid() == parent:
        stop.wait(2.0)
    os._exit(0)


def _mute_native_code() -> None:
    """mpg123 prints a line for each broken frame, and a file may hold thousands; Python's own words still come out."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


if __name__ == "__main__":
    _mute_native_code()
    descriptor, memory, cpu_seconds, parent = sys.argv[1:]
    threading.Thread(target=_end_with_parent, args=(int(parent),), daemon=True).start()
    serve(FramedSocket(socket.socket(fileno=int(descriptor))), int(memory), float(cpu_seconds))
