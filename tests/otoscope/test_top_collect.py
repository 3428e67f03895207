"""Where `otoscope top` looks, and what it makes of answers that it does not expect."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from otoscope.top.collect import Look, Lookout
from otoscope.types import Ready

READY = Ready(status="ready", redis=True, workers=2, models=["tiny"])


@pytest.fixture
def stranger() -> Iterator[str]:
    """Some other service's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_no_gateway(stranger: str) -> None:
    """It is looked at, and told for what it is; so is a worker's address where nobody listens."""

    async def look() -> Look:
        async with Lookout(stranger, ("127.0.0.1:1",)) as lookout:
            return await lookout.look()

    found = asyncio.run(look())
    assert found.lost.startswith("this is no text of metrics")
    assert found.ready is None
    (worker,) = found.workers
    assert (worker.name, worker.url) == ("127.0.0.1:1", "http://127.0.0.1:1/metrics")
    assert worker.lost.startswith("does not answer")


def test_a_newer_gateway_may_say_more() -> None:
    """What is not known here is left out, and the rest is read."""
    said = {"/health/ready": {**READY.model_dump(), "added": 1}, "/v1/workers": {"workers": [], "added": 1}}

    async def look() -> Look:
        async with Lookout("http://here") as lookout:
            answer = httpx.MockTransport(lambda asked: httpx.Response(200, json=said.get(asked.url.path, {})))
            lookout._gateway = httpx.AsyncClient(base_url="http://here", transport=answer)
            return await lookout.look()

    assert asyncio.run(look()).ready == READY
