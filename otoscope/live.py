"""Live classification: sound is sent while it is recorded, and an answer comes back for each window (`/v1/stream`).

It needs asyncio and the package websockets, which the extra `live` installs.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from urllib.parse import urlencode

import httpx2
import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from otoscope.calls import OUTAGE
from otoscope.connection import environment_proxy
from otoscope.errors import BY_CODE, Busy, OtoscopeError, RateLimited
from otoscope.responses import ServiceUnreachable, error_from_response, unreachable_error
from otoscope.results import ARRAYS, ARRAYS_PER_LAYER, Array
from otoscope.types import SampleFormat, StreamAnswer

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger(__name__)
T = TypeVar("T")

Block = bytes | bytearray | memoryview | NDArray[Any]
"""Samples of one channel: bytes in the format of the stream, or an array, (samples,) or (samples, 1), of int16 or of
floats in -1..1."""

Blocks = Iterable[Block] | AsyncIterable[Block]

_OPEN_SECONDS = 15.0  # for the connection and the first message
_BUFFERED = 64  # blocks that wait while there is no connection; then the source has to wait
_MAX_MESSAGE = 64 * 2**20  # bytes of an answer: all channels of a layer are large
_MOST_SENT = 128 * 1024  # bytes of a message; the service accepts twice as many


class LiveOptions(TypedDict, total=False):
    """The options of `stream_audio`. Absent or None: the server's default."""

    format: SampleFormat  # of blocks of bytes
    model: str | None
    hop: float | None  # seconds from one answer to the next
    top_k: int | None
    include: str | Iterable[str]  # parts of a window: maps, spectrogram, cam, embedding
    layer: str | None  # return all channels of this layer
    unknown_threshold: float | None
    min_confidence: float | None
    merge_gap: float | None  # seconds: closer detections of one class are joined
    min_duration: float | None  # seconds: shorter detections are left out


class LiveAnswer(StreamAnswer):
    """The answer to a window, with the arrays that were included: by part, or by part and layer."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    arrays: dict[str, Array | dict[str, Array]] = Field({}, exclude=True)


class LiveCall:
    """One call of `stream_audio`: it reconnects, also where a stream is as long as the service accepts. Times count
    from the first sample that it has sent."""

    def __init__(self, url: str, headers: dict[str, str], blocks: Blocks, rate: int, options: LiveOptions) -> None:
        self._url, self._headers, self._blocks, self._rate = url, headers, blocks, rate
        given = {name: value for name, value in options.items() if value is not None}
        include = given.get("include", ())
        given["include"] = include if isinstance(include, str) else ",".join(include)  # type: ignore[arg-type]
        self._options = {name: value for name, value in given.items() if value != ""}
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BUFFERED)  # None: the source has ended
        self._begun = asyncio.Event()  # the type of the blocks is known, or there are none
        self._fault: Exception | None = None  # of the source
        self._width = 0  # bytes of a sample; 0 before the first block
        self._sent = 0  # bytes
        self._offset = 0.0  # seconds that were sent over earlier connections
        self._longest = 0.0  # seconds of sound that a stream may have
        self._held: bytes | None = None  # the block that is beyond it: the first one of the next stream
        self._renewed = False  # the stream ends because of that, and not with the sound
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def answers(self) -> AsyncGenerator[LiveAnswer, None]:
        """Raises what the source raises, ServiceUnreachable, or the error with which the service has ended the stream.

        The only generator of the call: nested ones could not be closed in order when the event loop ends.
        """
        pump = asyncio.create_task(self._pump())
        reached, lost_at, pause = False, time.monotonic(), 0.5
        try:
            await self._begun.wait()
            while self._width:
                try:
                    if self._socket is None:
                        await self._connect()
                    answer = await self._receive()
                except (Busy, ServiceUnreachable) as failure:
                    await self._disconnect()
                    if self._fault is not None:
                        raise self._fault from None
                    is_flood = isinstance(failure, RateLimited) and failure.retry_after is None
                    if is_flood or not reached or time.monotonic() - lost_at > OUTAGE:
                        raise
                    log.info("the stream is opened again: %s", failure)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 5.0)
                    continue
                reached, lost_at, pause = True, time.monotonic(), 0.5
                if answer.last and self._renewed:
                    answer.last = False
                    await self._disconnect()
                yield answer
                if answer.last:
                    return
            if self._fault is not None:
                raise self._fault
        finally:
            pump.cancel()
            await self._disconnect()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self) -> None:
        """Move the blocks of the source into the queue. Those of an ordinary iterable are taken in threads, since it
        may wait for a microphone."""
        try:
            if isinstance(self._blocks, AsyncIterable):
                async for block in self._blocks:
                    await self._put(block)
            else:
                iterator = iter(self._blocks)
                while (taken := await asyncio.wrap_future(_in_thread(next, iterator, None))) is not None:
                    await self._put(taken)
        except Exception as error:  # of the source, whatever it is; the call raises it
            self._fault = error
        self._begun.set()
        await self._queue.put(None)

    async def _put(self, block: Block) -> None:
        """Raises TypeError."""
        if not isinstance(block, (bytes, bytearray, memoryview, np.ndarray)):  # of a number, bytes() makes zeros
            raise TypeError(f"a block is bytes or an array, not {type(block).__name__}; a sound is several blocks")
        samples = block if isinstance(block, np.ndarray) else None
        if samples is not None and samples.ndim == 2 and samples.shape[1] == 1:  # as microphones are often read
            samples = samples[:, 0]
        if not self._width:
            if samples is not None:
                self._options["format"] = "s16le" if samples.dtype == np.int16 else "f32le"
            self._width = 4 if self._options.get("format") == "f32le" else 2
            self._begun.set()
        if samples is not None:
            is_float = samples.dtype.kind == "f"
            if samples.ndim != 1:
                raise TypeError(f"a block must have the shape (samples,), not {samples.shape}")
            if is_float != (self._width == 4) or not (is_float or samples.dtype == np.int16):
                raise TypeError(f"the blocks of a stream are all int16 or all floats; this one has {samples.dtype}")
            block = np.ascontiguousarray(samples, "<f4" if is_float else "<i2").tobytes()
        sound = bytes(block)
        for at in range(0, len(sound), _MOST_SENT):
            await self._queue.put(sound[at : at + _MOST_SENT])

    async def _connect(self) -> None:
        """Open a stream, and begin to send. Raises OtoscopeError."""
        connect, lost, refused = _websockets()
        query = urlencode({"rate": self._rate, **self._options})
        address = f"{self._url.replace('http', 'ws', 1).rstrip('/')}/v1/stream?{query}"
        try:
            self._socket = await connect(
                address, additional_headers=self._headers, compression=None, max_size=_MAX_MESSAGE,
                open_timeout=_OPEN_SECONDS, close_timeout=2.0, proxy=environment_proxy(self._url),
            )  # fmt: skip
            self._parse(await asyncio.wait_for(self._socket.recv(), _OPEN_SECONDS))
        except ImportError as error:
            raise OtoscopeError(
                "Live classification through a SOCKS proxy needs the package python-socks:"
                " pip install 'python-socks[asyncio]'."
            ) from error
        except refused as error:
            raise self._refusal(error) from error
        except lost as error:
            raise self._unreachable(httpx2.ConnectError, error) from error
        self._offset, self._renewed = self._sent / self._rate / self._width, False
        self._tasks.append(asyncio.create_task(self._send(self._socket)))

    async def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if socket is not None:
                await socket.close()
        finally:  # also where the event loop ends, which cancels this
            self._tasks.clear()
            if socket is not None:
                socket.transport.abort()

    async def _send(self, socket: "ClientConnection") -> None:
        begin = self._sent
        end = begin + self._longest * self._rate * self._width
        while (block := self._held or await self._queue.get()) is not None:
            if self._sent > begin and self._sent + len(block) > end:
                self._held, self._renewed = block, True
                break
            self._held = None
            await socket.send(block)
            self._sent += len(block)
        else:
            self._queue.put_nowait(None)  # for another connection, if this one is lost before the last answer
        if self._fault is not None and not self._renewed:
            await socket.close()
        else:
            await socket.send(json.dumps({"type": "end"}))

    async def _receive(self) -> LiveAnswer:
        """The next answer. Raises OtoscopeError."""
        _, lost, _ = _websockets()
        assert self._socket is not None  # nosec B101  # the socket is open between connect and close
        while True:
            try:
                message = await self._socket.recv()
            except lost as error:
                raise self._unreachable(httpx2.ReadError, error) from error
            if answer := self._parse(message):
                return _moved(answer, self._offset)

    def _unreachable(self, kind: type[httpx2.TransportError], cause: Exception) -> ServiceUnreachable:
        error = kind(str(cause), request=httpx2.Request("GET", self._url))
        error.__cause__ = cause
        return unreachable_error(error)

    def _parse(self, message: str | bytes) -> LiveAnswer | None:
        """An answer; None for another message. Raises the error of an error message."""
        try:
            tree = json.loads(message) if isinstance(message, str) else msgpack.unpackb(message)
            kind = tree["type"]
            if kind == "answer":
                arrays = {name: _unpack(tree.pop(name)) for name in (*ARRAYS, *ARRAYS_PER_LAYER) if name in tree}
                return LiveAnswer.model_validate({**tree, "arrays": arrays}, extra="ignore")
            if kind == "opened":
                self._longest = float(tree["max_seconds"])
        except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
            raise OtoscopeError(f"The service sent a message that is no answer ({type(error).__name__}).") from error
        if kind == "error":
            ended = BY_CODE.get(tree.get("code", ""), OtoscopeError)
            raise ended(str(tree.get("detail", "")), retry_after=tree.get("retry_after"))
        return None

    def _refusal(self, error: Any) -> OtoscopeError:
        """The error of a handshake that was answered with a status."""
        response, request = error.response, httpx2.Request("GET", f"{self._url}/v1/stream", headers=self._headers)
        headers = list(response.headers.raw_items())
        body = bytes(response.body or b"")  # it may be a bytearray, which httpx2 takes for a stream
        return error_from_response(
            httpx2.Response(response.status_code, headers=headers, content=body, request=request)
        )


def _in_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """What a function will return. The end of the program does not wait for its thread, as it does for asyncio's."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _websockets() -> tuple[Any, tuple[type[Exception], ...], type[Exception]]:
    """`connect`, the errors of a lost connection, and that of a refused handshake. Raises OtoscopeError."""
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
    except ImportError as error:
        raise OtoscopeError("Live classification needs the package websockets: pip install websockets.") from error
    return connect, (OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage), InvalidStatus


def _unpack(tree: Any) -> Array | dict[str, Array]:
    if "data" in tree:
        return np.frombuffer(tree["data"], dtype="<f2").reshape(tree["shape"])
    return {layer: np.frombuffer(one["data"], dtype="<f2").reshape(one["shape"]) for layer, one in tree.items()}


def _moved(answer: LiveAnswer, seconds: float) -> LiveAnswer:
    """The answer with times that many seconds later."""
    if not seconds:
        return answer
    for detection in (*answer.began, *answer.ended):
        detection.start, detection.end = detection.start + seconds, detection.end + seconds
        detection.peak += seconds
    answer.start, answer.end = answer.start + seconds, answer.end + seconds
    return answer
