"""Where others read this worker's metrics."""

import socket
from contextlib import suppress
from ipaddress import ip_address


def metrics_url(host: str, port: int) -> str:
    """The address of a /metrics that listens on `host`; empty where none can be told.

    One that listens everywhere is told by what this machine's own name stands for: in a container that is its address
    on the network that it shares with the others. Where it is none that others reach, set OTOSCOPE_METRICS_HOST.
    """
    with suppress(ValueError):  # a name
        if ip_address(host).is_unspecified:
            host = _own_address()
    if not host:
        return ""
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"


def _own_address() -> str:
    with suppress(OSError):
        return str(socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0])
    return ""
