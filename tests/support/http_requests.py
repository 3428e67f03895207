"""HTTP requests as bytes, so that they can be malformed, and functions to send them."""

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

Address = tuple[str, int]


@dataclass(frozen=True)
class Answer:
    """A response; status 0 where the connection was closed without one."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def send_request(address: Address, request: bytes, timeout: float = 20.0) -> Answer:
    """Send these bytes over a new connection. Raises TimeoutError where there is no response."""
    with socket.create_connection(address, timeout=timeout) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # the response may arrive before the request is sent
            connection.sendall(request)
        response = HTTPResponse(connection, method=request.partition(b" ")[0].decode("latin-1"))
        try:
            response.begin()
            body = response.read()
        except (ConnectionError, HTTPException):
            return Answer(0, {}, b"")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def refused(answer: Answer, status: int, code: str) -> str:
    """The detail of a response, which must be a problem document of limited size with that code."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"]) == (status, code), problem
    assert 10 < len(problem["detail"]) <= 1_000
    return str(problem["detail"])


def request(method: str, path: str, headers: Sequence[str] = (), body: bytes = b"") -> bytes:
    """A request with the right Content-Length; the other headers may be anything."""
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *length, *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def multipart(*parts: tuple[str, bytes]) -> bytes:
    """A body with the boundary `x`, from (headers, content) of each part."""
    return b"".join(b"--x\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + b"--x--\r\n"


FILE = 'Content-Disposition: form-data; name="file"; filename="a.wav"'
