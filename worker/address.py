"""Where others read this worker's metrics."""

import socket
from contextlib import suppress

_EVERYWHERE = ("0.0.0.0", "::")  # nosec B104  # compared with, not bound


def metrics_url(host: str, port: int) -> str:
    """The address of a /metrics that listens on `host`; empty where none can be told.

    One that listens everywhere is told by what this machine's own name stands for: in a container that is its address
    on the network that it shares with the others. Where it is none that others reach, set OTOSCOPE_METRICS_HOST.
    """
    if host in _EVERYWHERE:
        host = ""
        with suppress(OSError):
            host = str(socket.getaddrinfo(socket.gethostname(), port, type=socket.SOCK_STREAM)[0][4][0])
    if not host:
        return ""
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
