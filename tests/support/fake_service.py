"""A fake service over real HTTP: the API of jobs, with programmable faults."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np

from otoscope.exports import Format, Recording, export, media_type
from otoscope.results import Detection, Result, WindowPrediction
from shared.results import pack_result

DOG = [{"class": "dog", "confidence": 0.9}, {"class": "cat", "confidence": 0.1}]
RESULT = {
    "model": "tiny", "predictions": DOG, "duration": 1.0, "sample_rate": 16_000, "combined": "single window",
    "window": 0, "window_count": 1,
}  # fmt: skip
CARD = {
    "name": "tiny", "description": "", "classes": ["dog", "cat"], "sample_rate": 16_000, "window_seconds": 1.0,
    "architecture": {}, "frontend": {}, "parameters": 12_345, "layers": [], "licence": "CC0", "version": "1",
    "accuracy": [{"data": "sounds", "protocol": "held out", "correct": 3, "total": 4}],
}  # fmt: skip


LIMITS = {
    "max_upload_bytes": 1_000_000, "max_seconds": 60.0, "min_seconds": 0.1, "max_channels": 8, "min_rate": 2_000,
    "max_rate": 384_000, "formats": ["WAV"], "extensions": [".wav", ".flac"], "max_wait": 60.0, "result_ttl": 3_600,
    "queue_limit": 100,
}  # fmt: skip
DETECTIONS = [Detection("dog", 0.25, 0.75, 0.9, 0.5)]


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it was received."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    fields: dict[str, str]
    filename: str | None
    file: bytes


@dataclass(frozen=True)
class CannedResponse:
    """A prepared response; where `status` is None the connection is closed instead."""

    status: int | None
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def problem(status: int, code: str, retry_after: int | None = None) -> CannedResponse:
    document = {"type": "about:blank", "title": code, "status": status, "detail": f"that is {code}", "code": code}
    headers = [("Content-Type", "application/problem+json")]
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    return CannedResponse(status, json.dumps(document).encode(), tuple(headers))


def answer(document: dict[str, Any], status: int = 200) -> CannedResponse:
    return CannedResponse(status, json.dumps(document).encode(), (("Content-Type", "application/json"),))


def job_document(job_id: str, status: str, **more: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "id": job_id, "status": status, "model": "tiny", "created_at": "2026-01-01T00:00:00Z",
        "audio": {"bytes": 4, "container": "WAV", "codec": "float"}, "links": {"self": f"/v1/jobs/{job_id}"},
    }  # fmt: skip
    if status == "succeeded":
        known["result"] = RESULT
    return known | more


def sse(kind: str, number: int, document: dict[str, Any]) -> bytes:
    return f"id: {number}-0\r\nevent: {kind}\r\ndata: {json.dumps(document)}\r\n\r\n".encode()


Outcome = Callable[[ReceivedRequest, str], dict[str, Any]]
"""From a submission and its job id to the document of the finished job."""


class FakeService:
    """Jobs finish `delay` seconds after their submission; responses in `first` are sent before any other."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.first: deque[CannedResponse] = deque()
        self.delay = 0.0
        self.outcome: Outcome = lambda request, job_id: job_document(job_id, "succeeded")
        self.streams: deque[tuple[list[bytes], bool]] = deque()  # for each connection its chunks, and whether it is cut
        self.ready = True
        self.limits: dict[str, Any] = dict(LIMITS)
        self.active = self.most_active = 0
        self._lock = threading.Lock()
        self._jobs: dict[str, tuple[float, ReceivedRequest]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may disconnect early
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, request: ReceivedRequest) -> CannedResponse:
        with self._lock:
            self.requests.append(request)
            if self.first:
                return self.first.popleft()
        route = (request.method, *request.path.strip("/").split("/"))
        match route:
            case ("POST", "v1", "jobs"):
                return self._submit(request)
            case ("GET", "v1", "jobs", job_id):
                return self._job(job_id, float(request.query.get("wait", 0)), 200)
            case ("GET", "v1", "jobs", _, "result"):
                return CannedResponse(200, pack_result(RESULT_WITH_ARRAYS), (("Content-Type", "application/msgpack"),))
            case ("GET", "v1", "jobs", job_id, "detections"):
                format = cast(Format, request.query["format"])
                text = export(format, DETECTIONS, Recording("dog.wav", 1.0, 16_000, "tiny"))
                return CannedResponse(200, text.encode(), (("Content-Type", media_type(format)),))
            case ("GET", "v1", "jobs", job_id, "audio") if job_id in self._jobs:
                return CannedResponse(200, self._jobs[job_id][1].file, (("Content-Type", "audio/wav"),))
            case ("DELETE", "v1", "jobs", job_id) if job_id in self._jobs:
                return CannedResponse(204)
            case ("GET", "v1", "models"):
                return answer({"default": "tiny", "models": [CARD]})
            case ("GET", "v1", "limits"):
                return answer(self.limits)
            case ("GET", "health", "ready"):
                document: dict[str, Any] = {
                    "status": "ready" if self.ready else "not_ready",
                    "redis": True,
                    "workers": 1,
                    "models": [],
                }
                return answer(document, 200 if self.ready else 503)
        return problem(404, "job_not_found")

    def _submit(self, request: ReceivedRequest) -> CannedResponse:
        with self._lock:
            job_id = f"job{len(self._jobs)}"
            self._jobs[job_id] = (time.monotonic() + self.delay, request)
        prefer = request.headers.get("Prefer", "")
        return self._job(job_id, float(prefer.partition("=")[2] or 0), 202)

    def _job(self, job_id: str, hold: float, unfinished: int) -> CannedResponse:
        if job_id not in self._jobs:
            return problem(404, "job_not_found")
        done_at, submission = self._jobs[job_id]
        left = done_at - time.monotonic()
        with self._lock:
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        time.sleep(max(0.0, min(left, hold)))
        with self._lock:
            self.active -= 1
        if left > hold:
            return answer(job_document(job_id, "queued", queue_position=1), unfinished)
        return answer(self.outcome(submission, job_id))


RESULT_WITH_ARRAYS = Result(
    model="tiny", predictions=[("dog", 0.9)], duration=1.0, sample_rate=16_000, combined="single window", window=0,
    windows=[WindowPrediction(0.0, 1.0, [("dog", 0.9)])], parts=["embedding"],
    embedding=np.arange(4, dtype=np.float16), full_spectrogram=np.zeros((2, 3), np.float16),
    channels={"layer1": np.zeros((4, 2, 1), np.float16)},
)  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    fake: FakeService
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/events") and not self.fake.first:
            self._stream()
        else:
            self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        canned = self.fake.handle(self._read_request())
        if canned.status is None:
            self.close_connection = True
            return
        self.send_response(canned.status)
        for name, value in canned.headers:
            self.send_header(name, value)
        if canned.status != 204:
            self.send_header("Content-Length", str(len(canned.body)))
        self.end_headers()
        self.wfile.write(canned.body)

    def _stream(self) -> None:
        self.fake.requests.append(self._read_request())
        pieces, cut = self.fake.streams.popleft() if self.fake.streams else ([], False)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        if not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _read_request(self) -> ReceivedRequest:
        target = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields: dict[str, str] = {}
        filename, file = None, b""
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/"):
            form = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
            for part in cast(Any, form).iter_parts():
                content = part.get_payload(decode=True)
                name = part.get_param("name", header="content-disposition")
                if name == "file":
                    filename, file = part.get_filename(), content
                else:
                    fields[name] = content.decode()
        return ReceivedRequest(self.command, target.path, query, self.headers, fields, filename, file)
