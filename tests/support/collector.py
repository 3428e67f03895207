"""An OpenTelemetry collector for tests: a real HTTP server for OTLP protobuf, which can be slow, refuse, or be down."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Span:
    """A received span. Times are nanoseconds since 1970."""

    service: str
    name: str
    kind: str  # server, producer, ...
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    attributes: dict[str, Any]
    links: frozenset[tuple[str, str]]  # (trace, id)
    failed: bool
    state: str  # its tracestate
    resource: dict[str, Any]

    @property
    def at(self) -> tuple[str, str]:
        return self.trace, self.id

    def within(self, other: Self) -> bool:
        """Whether it lies within the other span, give or take a millisecond: NTP may slew the clock meanwhile."""
        return other.began - 10**6 <= self.began <= self.ended <= other.ended + 10**6


class Collector:
    """`with Collector() as collector:` runs it at `collector.url`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        self.raw = b""  # all request bodies
        self.status, self.delay = 200, 0.0
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._receive))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def release(self) -> None:
        """Answer without delay from now on, also the requests that are waiting."""
        self._released.set()

    def close(self) -> None:
        """Go down: new connections are refused, and open ones are closed."""
        self.status = 0
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def until(self, condition: Callable[[list[Span]], Any], seconds: float = 20) -> list[Span]:
        """All spans received, once the condition holds for them."""
        deadline = time.monotonic() + seconds
        while not condition(self.spans):
            assert time.monotonic() < deadline, [(span.service, span.name, span.attributes) for span in self.spans]
            time.sleep(0.05)
        return list(self.spans)

    def _receive(self, path: str, headers: dict[str, str], body: bytes) -> int:
        self._released.wait(self.delay)
        if self.status == 200:
            assert path == "/v1/traces"
            self.raw += body
            self.headers.append(headers)
            self.spans.extend(parsed(body))
        return self.status


def parsed(body: bytes) -> list[Span]:
    found = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                found.append(
                    Span(
                        service=resource["service.name"],
                        name=span.name,
                        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        began=span.start_time_unix_nano,
                        ended=span.end_time_unix_nano,
                        attributes=_attributes(span.attributes),
                        links=frozenset((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                        state=span.trace_state,
                        resource=resource,
                    )
                )
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in pairs}


def _handler(receive: Callable[[str, dict[str, str], bytes], int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receive(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if not status:
                self.close_connection = True
                return
            with suppress(OSError):  # the client has timed out
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
