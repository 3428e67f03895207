"""The HEALTHCHECK of the images: `python -IS healthy.py PORT PATH [METRIC]`.

Exit status 0 if this container responds with 200 and, if a metric is given, one of its series is not 0; else 1. It is
started every few seconds, and therefore imports next to nothing.
"""

import socket
import sys


def healthy(port: int, path: str, metric: str | None = None, *, seconds: float = 4.0) -> bool:
    """Whether the response within that many seconds is as required."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
            # HTTP/1.0: the response ends with the connection and is not chunked.
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            while piece := connection.recv(65_536):
                answer += piece
    except OSError:
        return False
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        return False
    if metric is None:
        return True
    series = (line.rpartition(b" ") for line in body.splitlines() if not line.startswith(b"#"))
    return any(name.partition(b"{")[0] == metric.encode() and float(value) for name, _, value in series)


if __name__ == "__main__":
    port, path, *metric = sys.argv[1:]
    sys.exit(not healthy(int(port), path, *metric))
