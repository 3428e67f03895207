"""The memory that uploads in progress and unread responses take: counted, bounded, and released."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from api.metrics import GatewayMetrics
from api.middleware.limits import MemoryLimitMiddleware
from otoscope.errors import TooManyConnections
from tests.api.conftest import wav

LIMIT = 1_000_000  # bytes


class _State:
    def __init__(self) -> None:
        self.gateway = self
        self.state = self
        self.metrics = GatewayMetrics(1)


class _Requests:
    """Requests to an application that takes `size` bytes of a body and responds with as many."""

    def __init__(self) -> None:
        self._state = _State()
        self.app = MemoryLimitMiddleware(self._respond, uploads=LIMIT, responses=LIMIT, share=0.5)
        self.finish = asyncio.Event()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-length", str(scope["size"]).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.finish.wait()
        await send({"type": "http.response.body", "body": b""})

    async def status(self, address: str, *, upload: int = 0, response: int = 0) -> int:
        """Of one request; 503 also where the upload was refused."""
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(upload)}

        async def send(message: Message) -> None:
            messages.append(message)

        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/v1/jobs", "client": (address, 1), "size": response,
            "headers": [], "query_string": b"", "app": self._state,
        }  # fmt: skip
        request = asyncio.create_task(self.app(scope, receive, send))
        while not request.done() and not (messages and messages[0]["status"] == 503):
            await asyncio.sleep(0.001)
        if not request.done():
            request.cancel()  # the application does not know that its response was replaced
            return 503
        return 503 if isinstance(request.exception(), TooManyConnections) else int(messages[0]["status"])

    def held(self, kind: str) -> float | None:
        return self._state.metrics.registry.get_sample_value("otoscope_api_held_bytes", {"kind": kind})


@pytest.mark.parametrize("kind", ["upload", "response"])
def test_bytes_are_bounded_for_all_and_for_one_client(kind: str) -> None:
    """One address holds at most its share, all together the limit, and what ended is free again."""

    async def run() -> None:
        requests = _Requests()
        held = [asyncio.create_task(requests.status("192.0.2.1", **{kind: LIMIT // 4})) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert requests.held(f"{kind}s") == LIMIT // 4 * 2
        assert await requests.status("192.0.2.1", **{kind: LIMIT // 4}) == 503
        held += [asyncio.create_task(requests.status("192.0.2.2", **{kind: LIMIT // 3}))]
        await asyncio.sleep(0.01)
        assert await requests.status("192.0.2.3", **{kind: LIMIT // 3}) == 503
        requests.finish.set()
        assert await asyncio.gather(*held) == [200, 200, 200]
        assert await requests.status("192.0.2.1", **{kind: LIMIT // 4}) == 200
        assert requests.held(f"{kind}s") == 0

    asyncio.run(run())


def test_a_refused_upload_is_a_problem_document(start_gateway: Callable[..., httpx2.Client], worker: object) -> None:
    """503 with Retry-After while its bytes arrive; a smaller one is accepted."""
    http = start_gateway(upload_memory=2**20)
    refused = http.post("/v1/jobs", content=bytes(2**20), headers={"Content-Type": "audio/wav"})
    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
    assert int(refused.headers["Retry-After"]) > 0
    assert http.post("/v1/jobs", content=wav(), headers={"Content-Type": "audio/wav"}).status_code == 202
    assert 'otoscope_api_held_bytes{kind="uploads"} 0.0' in http.get("/metrics").text
