"""One stream: it reads sound from a WebSocket and sends an answer for each window.

A window is a job of the queue like any other, with a short deadline. One window of a stream is in the queue or on a
worker at a time, so that answers are in order, and one waits in the gateway. When the next one is complete before that,
the waiting one is dropped, and the answer to its successor says so.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import msgpack
import orjson
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, ValidationError

from api.http.problems import STATUS, error_info
from api.live.detections import DetectionTracker
from api.live.windows import LiveWindow, WindowCutter, wav_file
from api.memory import memory_of
from api.middleware.auth import Caller
from api.rendering.results import detection_json, level_json, predictions_json
from api.service import Gateway
from otoscope.errors import (
    AudioTooShort,
    InternalError,
    InvalidRequest,
    OtoscopeError,
    RateLimited,
    RequestTimeout,
    StoreUnavailable,
)
from otoscope.results import ARRAYS, ARRAYS_PER_LAYER, Detection, unpack_result
from otoscope.types import Detection as PublicDetection
from otoscope.types import (
    JobOptions,
    ModelCard,
    Part,
    StreamAnswer,
    StreamError,
    StreamOpened,
    StreamOptions,
)
from shared import tracing
from shared.contract import new_job_id
from shared.jobs.records import JobRecord
from shared.validation import describe_validation_errors

log = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
"""Without a message after which a stream is closed."""
DEADLINE_SECONDS = 5.0
"""Of a window: an answer that comes later is of no use."""
AHEAD_SECONDS = 30.0
"""Sound may arrive so much earlier than it would be played; the connection may have been interrupted."""
MESSAGES_A_SECOND = 500
"""Of a client at most, in the mean; each costs the gateway some microseconds, however short it is."""
_SEND_SECONDS = 30.0  # that a client may take to read an answer
_REPLY_SECONDS = 1.0  # that Redis may take after the deadline of a window
_FORGET_SECONDS = 5.0  # to remove the last window of a stream

_CLOSED = (OSError, RuntimeError, WebSocketDisconnect)  # what a message to a closed connection raises

NORMAL, INTERNAL = 1000, 1011  # close codes (RFC 6455, section 7.4)


def close_code(error: OtoscopeError) -> int:
    """The close code of a stream that ends with an error: 4000 and the HTTP status."""
    return 4_000 + STATUS[error.code]


class _Disconnected(Exception):
    """The client, or the shutdown of the gateway, has closed the connection."""

    def __init__(self, code: int) -> None:
        self.code = code


class _Control(BaseModel):
    """A text message of the client."""

    model_config = ConfigDict(extra="forbid")

    type: str
    include: tuple[Part, ...] | None = None
    layer: str | None = None


@dataclass
class _Counts:
    answered: int = 0
    failed: int = 0
    dropped: int = 0


class LiveStream:
    """Run it once."""

    def __init__(
        self, socket: WebSocket, gateway: Gateway, caller: Caller, options: StreamOptions, card: ModelCard
    ) -> None:
        """Raises InvalidRequest for options that the model cannot fulfil."""
        self._socket, self._gateway, self._caller, self._options, self._card = socket, gateway, caller, options, card
        self.id = new_job_id()
        self._job_options = JobOptions(
            model=card.name, top_k=options.top_k, unknown_threshold=options.unknown_threshold,
            min_confidence=options.min_confidence, merge_gap=options.merge_gap,
        )  # fmt: skip
        self._set_parts(options.include, options.layer)
        self._cutter = WindowCutter(options.rate, card.sample_rate, options.format, card.window_seconds, options.hop)
        self._tracker = DetectionTracker(options.merge_gap, options.min_duration)
        self._waiting: LiveWindow | None = None
        self._changed = asyncio.Event()  # a window waits, or the sound has ended
        self._ended = False
        self._dropped = 0  # since the last answer
        self._counts = _Counts()
        self._charged = 0.0  # seconds of sound that are counted towards the rate limit
        self._jobs: set[asyncio.Task[None]] = set()  # that remove what is finished

    async def run(self) -> None:
        """Until the sound or the connection ends. The connection is closed then, with the code that says why."""
        metrics, began = self._gateway.metrics, time.monotonic()
        fields = {"stream": self.id, "caller": self._caller.name, "model": self._card.name}
        log.info("stream opened", extra={**fields, "rate": self._options.rate, "hop": self._options.hop})
        memory_of(self._socket).receive(self._cutter.buffer_bytes)
        code = INTERNAL
        try:
            with metrics.live.streams.track_inprogress():
                code = await self._run()
        finally:
            metrics.live.observe_end(code)
            counts = self._counts
            log.info(
                "stream closed",
                extra={
                    **fields, "code": code, "lasted": round(time.monotonic() - began, 3),
                    "seconds": round(self._cutter.seconds, 3), "answered": counts.answered, "failed": counts.failed,
                    "dropped": counts.dropped,
                },
            )  # fmt: skip

    async def _run(self) -> int:
        """The close code."""
        opened = StreamOpened(
            stream=self.id, model=self._card.name, sample_rate=self._card.sample_rate,
            window_seconds=self._card.window_seconds, hop=self._options.hop, idle_seconds=IDLE_SECONDS,
            max_seconds=self._gateway.settings.stream_seconds,
        )  # fmt: skip
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._send(opened.model_dump(mode="json"))
            tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._classify())]
            await asyncio.gather(*tasks)
            await close(self._socket, NORMAL)
            return NORMAL
        except _Disconnected as end:
            return end.code
        except OtoscopeError as error:
            return await fail(self._socket, error)
        except Exception:
            log.exception("a stream failed", extra={"stream": self.id})
            return await fail(self._socket, InternalError("The gateway failed on this stream; see its log."))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._jobs:
                await asyncio.wait(self._jobs, timeout=_FORGET_SECONDS)

    async def _read(self) -> None:
        """Until the client ends the sound. Raises _Disconnected or an OtoscopeError."""
        began = time.monotonic()
        limit, messages = self._gateway.settings.stream_seconds, 0
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    message = await self._socket.receive()
            except TimeoutError as error:
                raise RequestTimeout(f"There was no message for {IDLE_SECONDS:g} s.") from error
            if message["type"] == "websocket.disconnect":
                raise _Disconnected(message.get("code") or 1006)
            now, messages = time.monotonic(), messages + 1
            if messages > MESSAGES_A_SECOND * (1 + now - began):
                raise RateLimited(f"There are more than {MESSAGES_A_SECOND} messages a second; send longer ones.")
            if (sound := message.get("bytes")) is not None:
                self._add(sound, now)
                if self._cutter.seconds > now - began + AHEAD_SECONDS:
                    raise RateLimited(
                        f"The sound is {AHEAD_SECONDS:g} s ahead of its time: a stream is for sound as it is recorded."
                        " Submit a file to /v1/jobs."
                    )
                if self._cutter.seconds > limit:
                    raise InvalidRequest(f"A stream has at most {limit:g} s of sound; open another one.")
            elif self._control(message.get("text") or ""):
                last = self._cutter.rest(now)
                if last is None:
                    raise AudioTooShort("The sound ended before there was enough of it to classify.")
                self._offer(last)
                self._ended = True
                self._changed.set()
                return

    def _add(self, sound: bytes, now: float) -> None:
        """Raises InvalidRequest or RateLimited."""
        window, skipped = self._cutter.add(sound, now)
        self._drop(skipped)
        if window is not None:
            self._offer(window)
        while self._cutter.seconds >= self._charged + self._card.window_seconds:
            self._charged += self._card.window_seconds
            if seconds := self._caller.acquire():
                raise RateLimited(
                    "This key has no submissions left: each window of sound in a stream counts as one. Try again in"
                    f" {seconds} s.",
                    retry_after=seconds,
                )

    def _offer(self, window: LiveWindow) -> None:
        """A window that is to be classified next, in place of one that still waits."""
        if self._waiting is not None:
            self._drop(1)
        self._waiting = window
        self._changed.set()

    def _drop(self, windows: int) -> None:
        if windows:
            self._dropped += windows
            self._counts.dropped += windows
            self._gateway.metrics.live.observe_dropped(windows)

    def _control(self, text: str) -> bool:
        """Whether the message ends the sound. Raises InvalidRequest."""
        try:
            control = _Control.model_validate_json(text)
        except ValidationError as error:
            faults = describe_validation_errors(error.errors())
            raise InvalidRequest(f"A text message is not valid: {faults}") from error
        if control.type == "end":
            return True
        if control.type != "parts":
            raise InvalidRequest(f"A text message has the type {control.type[:50]!r}; `parts` and `end` are accepted.")
        self._set_parts(control.include or (), control.layer)
        return False

    def _set_parts(self, include: tuple[Part, ...], layer: str | None) -> None:
        """What the answers contain from the next window on. Raises InvalidRequest."""
        parts = [part for part in Part if part.info.of_window_pass]
        if others := [part for part in include if part not in parts]:
            accepted = ", ".join(parts)
            raise InvalidRequest(f"include: {', '.join(others)}: the parts of a stream are {accepted}.")
        if layer is not None:
            self._card.require_layer(layer)
        self._job_options = self._job_options.model_copy(
            update={"include": (*dict.fromkeys(include), Part.DETECTIONS), "layer": layer}
        )

    async def _classify(self) -> None:
        """Answer windows until the sound has ended. Raises _Disconnected."""
        while True:
            while self._waiting is None:
                self._changed.clear()
                await self._changed.wait()
            window, self._waiting = self._waiting, None
            dropped, self._dropped = self._dropped, 0
            last = self._ended
            try:
                with tracing.span("live window", "server", attributes={tracing.STREAM: self.id}):
                    answer, packed = await self._answer(window)
            except OtoscopeError as error:
                self._counts.failed += 1
                answer = StreamAnswer(start=window.start, end=window.end, error=error_info(error), latency=0.0)
                packed = b""
            latency = time.monotonic() - window.arrived
            self._gateway.metrics.live.observe_answer(latency, answer.error.code if answer.error else "")
            self._counts.answered += answer.error is None
            if last:
                answer.ended += [_public(detection) for detection in self._tracker.finish()]
            answer.dropped, answer.latency, answer.last = dropped, round(latency, 4), last
            await self._send(answer.model_dump(mode="json", by_alias=True), _arrays(packed) if packed else None)
            if last:
                return

    async def _answer(self, window: LiveWindow) -> tuple[StreamAnswer, bytes]:
        """The answer, and the packed result if its arrays are to be sent. Raises OtoscopeError."""
        options = self._job_options
        try:
            async with asyncio.timeout(DEADLINE_SECONDS + _REPLY_SECONDS), self._job(window, options) as job:
                packed = job.packed or b""
        except TimeoutError as error:
            raise StoreUnavailable("The queue does not answer right now; try again.", retry_after=2) from error
        result = unpack_result(packed)
        found = [
            replace(
                detection,
                start=round(detection.start + window.start, 3),
                end=round(min(detection.end + window.start, window.end), 3),
                peak=round(detection.peak + window.start, 3),
            )
            for detection in result.detections
        ]
        began, ended = self._tracker.add(found, window.end)
        answer = StreamAnswer.model_validate(
            {
                "start": window.start,
                "end": window.end,
                "predictions": predictions_json(result.predictions),
                "verdict": result.verdict,
                "known": result.known,
                "level": level_json(result.level),
                "warnings": [{"code": warning.code, "detail": warning.detail} for warning in result.warnings],
                "began": [detection_json(detection) for detection in began],
                "ended": [detection_json(detection) for detection in ended],
                "latency": 0.0,
            }
        )
        wanted = options.layer is not None or len(options.include) > 1
        return answer, packed if wanted else b""

    @asynccontextmanager
    async def _job(self, window: LiveWindow, options: JobOptions) -> AsyncIterator[JobRecord]:
        """The succeeded job of a window. It is removed in any case. Raises OtoscopeError."""
        body, audio = wav_file(window, self._card.sample_rate, self._options.format)
        job_id = self._gateway.store.new_job_id(self._card.name)
        # A stream takes turns as one caller: it has one window in the queue, however many jobs its caller has there.
        turn = f"{self._caller.name}/stream/{self.id}"

        def accepted(taken: str) -> None:
            nonlocal job_id
            job_id = taken

        try:
            yield await self._gateway.classify_window(
                job_id, self._card, options, audio, body, turn, DEADLINE_SECONDS, accepted
            )
        finally:
            task = asyncio.create_task(self._forget(job_id))
            self._jobs.add(task)
            task.add_done_callback(self._jobs.discard)

    async def _forget(self, job_id: str) -> None:
        """Cancel the job of a window if it is unfinished, and delete it."""
        with suppress(OtoscopeError):  # it was refused; or it expires by itself
            if await self._gateway.store.cancel(job_id) == "cancelled":
                await self._gateway.store.cancel(job_id)

    async def _send(self, message: dict[str, object], arrays: dict[str, object] | None = None) -> None:
        """JSON in a text message; with arrays MessagePack in a binary one. Raises _Disconnected."""
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                if arrays is None:
                    await self._socket.send_text(orjson.dumps(message).decode())
                else:
                    await self._socket.send_bytes(msgpack.packb(message | arrays))
        except TimeoutError as error:
            raise _Disconnected(close_code(RequestTimeout(""))) from error
        except _CLOSED as error:
            raise _Disconnected(1006) from error


async def fail(socket: WebSocket, error: OtoscopeError) -> int:
    """Say why an accepted stream ends, and close it; returns the close code."""
    code = close_code(error)
    message = StreamError(code=error.code, title=error.title, detail=error.detail, retry_after=error.retry_after)
    with suppress(*_CLOSED, TimeoutError):
        async with asyncio.timeout(1.0):
            await socket.send_text(message.model_dump_json())
    await close(socket, code, error.code)
    return code


async def close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close a connection, which may be closed already."""
    with suppress(*_CLOSED, TimeoutError):
        async with asyncio.timeout(1.0):
            await socket.close(code, reason)


def _arrays(packed: bytes) -> dict[str, object]:
    """The arrays of a packed result, as they are: {shape, data} each, by layer where it has several."""
    tree = msgpack.unpackb(packed)
    return {name: tree[name] for name in (*ARRAYS, *ARRAYS_PER_LAYER) if tree.get(name)}


def _public(detection: Detection) -> PublicDetection:
    return PublicDetection.model_validate(detection_json(detection))
