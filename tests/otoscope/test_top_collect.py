"""Where `otoscope top` reads metrics, and how it handles unexpected responses."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx2
import pytest

from otoscope.top.collect import Collector, Snapshot
from otoscope.types import Ready

READY = Ready(status="ready", redis=True, workers=2, models=["tiny"])


@pytest.fixture
def other_service() -> Iterator[str]:
    """The address of another service."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_another_service(other_service: str) -> None:
    """It is reported as such; so is a worker's address that nothing listens on."""

    async def collect() -> Snapshot:
        async with Collector(other_service, ("127.0.0.1:1",)) as collector:
            return await collector.collect()

    found = asyncio.run(collect())
    assert found.error.startswith("this is not the Prometheus text format")
    assert found.ready is None
    (worker,) = found.workers
    assert (worker.name, worker.url) == ("127.0.0.1:1", "http://127.0.0.1:1/metrics")
    assert worker.error.startswith("does not answer")


def test_fields_of_a_newer_gateway_are_ignored() -> None:
    """The known fields are read."""
    answers = {"/health/ready": {**READY.model_dump(), "added": 1}, "/v1/workers": {"workers": [], "added": 1}}

    async def collect() -> Snapshot:
        async with Collector("http://here") as collector:
            answer = httpx2.MockTransport(lambda request: httpx2.Response(200, json=answers.get(request.url.path, {})))
            collector._gateway_http = httpx2.AsyncClient(base_url="http://here", transport=answer)
            return await collector.collect()

    assert asyncio.run(collect()).ready == READY
