"""The memory that uploads in progress and unread responses take: counted, bounded, and released."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send

from api.http.problems import STATUS
from api.memory import Budget
from api.metrics import GatewayMetrics
from api.middleware.limits import MemoryLimitMiddleware
from otoscope.errors import OtoscopeError
from otoscope.types import JobOptions, Part, Timings
from shared.results import pack_result
from tests.api.conftest import FakeWorker, fake_result, running_gateway, wav
from tests.support.http_requests import Address, request, send_request
from tests.support.process_tree import until

LIMIT = 1_000_000  # bytes
RAW = ["Content-Type: audio/wav"]


class _Requests:
    """Requests to an application that takes `size` bytes of a body and responds with as many."""

    def __init__(self) -> None:
        uploads, responses = Budget("uploads", LIMIT, 0.5), Budget("responses", LIMIT, 0.5)
        self.app = MemoryLimitMiddleware(self._respond, uploads, responses)
        self._metrics = GatewayMetrics(1)
        self._metrics.watch_held(uploads, responses)
        self.finish = asyncio.Event()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-length", str(scope["size"]).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.finish.wait()
        await send({"type": "http.response.body", "body": b""})

    async def status(self, address: str, *, upload: int = 0, response: int = 0) -> int:
        """Of one request, also where the upload was refused."""
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(upload)}

        async def send(message: Message) -> None:
            messages.append(message)

        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/v1/jobs", "client": (address, 1), "size": response,
            "headers": [], "query_string": b"", "state": {},
        }  # fmt: skip
        request = asyncio.create_task(self.app(scope, receive, send))
        while not request.done() and not (messages and messages[0]["status"] in (429, 503)):
            await asyncio.sleep(0.001)
        if not request.done():
            request.cancel()  # the application does not know that its response was replaced
            return int(messages[0]["status"])
        error = request.exception()
        return STATUS[error.code] if isinstance(error, OtoscopeError) else int(messages[0]["status"])

    def held(self, kind: str) -> float | None:
        return self._metrics.registry.get_sample_value("otoscope_api_held_bytes", {"kind": kind})


@pytest.mark.parametrize("kind", ["upload", "response"])
def test_bytes_are_bounded_for_all_and_for_one_client(kind: str) -> None:
    """One address holds at most its share, all together the limit, and what ended is free again."""

    async def run() -> None:
        requests = _Requests()
        held = [asyncio.create_task(requests.status("192.0.2.1", **{kind: LIMIT // 4})) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert requests.held(f"{kind}s") == LIMIT // 4 * 2
        assert await requests.status("192.0.2.1", **{kind: LIMIT // 4}) == 429
        held += [asyncio.create_task(requests.status("192.0.2.2", **{kind: LIMIT // 3}))]
        await asyncio.sleep(0.01)
        assert await requests.status("192.0.2.3", **{kind: LIMIT // 3}) == 503
        requests.finish.set()
        assert await asyncio.gather(*held) == [200, 200, 200]
        assert await requests.status("192.0.2.1", **{kind: LIMIT // 4}) == 200
        assert requests.held(f"{kind}s") == 0

    asyncio.run(run())


def test_a_refused_upload_is_a_problem_document(start_gateway: Callable[..., httpx2.Client], worker: object) -> None:
    """429 with Retry-After while its bytes arrive; a smaller one is accepted."""
    http = start_gateway(upload_memory=2**20)
    refused = http.post("/v1/jobs", content=bytes(2**20), headers={"Content-Type": "audio/wav"})
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    assert http.post("/v1/jobs", content=wav(), headers={"Content-Type": "audio/wav"}).status_code == 202
    assert 'otoscope_api_held_bytes{kind="uploads"} 0.0' in http.get("/metrics").text


def _ask(stack: ExitStack, address: Address, path: str, *headers: str) -> socket.socket:
    """A connection whose response is not read."""
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(address)
    connection.sendall(request("GET", path, headers))
    return connection


@pytest.mark.slow
def test_readers_that_do_not_read_take_bounded_memory() -> None:
    """Event streams, long polls and plain reads of a large result: what has no room is refused or waits, in whatever
    form it was requested, and other clients are served."""
    result = replace(
        fake_result(JobOptions(include=[Part.FULL_SPECTROGRAM])),
        full_spectrogram=np.random.default_rng(0).normal(size=(128, 12_000)).astype(np.float16),
    )
    packed = pack_result(result)  # 3 MB, as JSON 10
    with running_gateway(60, response_memory=str(64 * 2**20)) as (address, settings), ExitStack() as stack:
        worker = FakeWorker(settings)
        stack.callback(worker.close)
        submitted = send_request(address, request("POST", "/v1/jobs?include=full_spectrogram", RAW, wav()))
        job = json.loads(submitted.body)["id"]
        worker.start(job)
        unread = [_ask(stack, address, f"/v1/jobs/{job}{path}") for path in ("/events", "?wait=60") for _ in range(30)]
        time.sleep(0.5)
        worker.store.succeed(job, packed, Timings())
        unread += [_ask(stack, address, f"/v1/jobs/{job}{path}") for path in ("", "/result") for _ in range(10)]
        unread += [_ask(stack, address, f"/v1/jobs/{job}/result", "Accept: application/msgpack") for _ in range(30)]
        time.sleep(2)
        assert send_request(address, request("POST", "/v1/jobs", RAW, wav())).status == 202
        for connection in unread:
            connection.close()
        time.sleep(1)
        late = send_request(address, request("GET", f"/v1/jobs/{job}"))
        assert (late.status, len(late.body) > 2 * len(packed)) == (200, True)


@pytest.mark.slow
def test_one_caller_cannot_take_all_places(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """Its share of the open event streams and waiting requests is full; another caller is served."""
    http = start_gateway(max_connections=4, caller_share=0.5)
    job = http.post("/v1/jobs", content=wav(), headers={"Content-Type": "audio/wav"}).json()["id"]
    with ExitStack() as stack:
        streams = [stack.enter_context(http.stream("GET", f"/v1/jobs/{job}/events")).iter_bytes() for _ in range(2)]
        for chunks in streams:
            next(chunks)
        refused = http.get("/v1/models")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) > 0
        other = httpx2.HTTPTransport(local_address="127.0.0.2")
        with httpx2.Client(base_url=http.base_url, transport=other) as client:
            assert client.get("/v1/models").status_code == 200
        worker.finish(job)
    until(lambda: http.get("/v1/models").status_code == 200)
