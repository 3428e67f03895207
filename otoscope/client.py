"""`Client` and `AsyncClient`: the service from Python. Both carry out the flows of `otoscope.calls`.

with Client() as client:
    job = client.classify("dog.ogg")
    print(job.result.predictions[0])
"""

import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import anyio
import anyio.to_thread
import httpx

from otoscope import calls as protocol
from otoscope.audio import Sound, load
from otoscope.calls import Options
from otoscope.connection import http_settings, request_parts, service_url
from otoscope.results import Result
from otoscope.sansio import Emit, Flow, JobEvent, Load, More, Open, Pause, Running, Send
from otoscope.types import Job, ModelList, Ready

T = TypeVar("T")


class Client:
    """The service, blocking. May be shared between threads.

    `key` is for a service that asks for one; OTOSCOPE_KEY by default. `timeout` is in seconds, for a whole call:
    connecting, being sent away by a full queue, and waiting. Every method that fails raises an error of
    `otoscope.errors`, ServiceUnreachable or WaitTimeout.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        headers: dict[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url, self._timeout = service_url(url), timeout
        self._http = httpx.Client(transport=transport, **http_settings(self.url, key, headers))

    def classify(self, sound: Sound, rate: int | None = None, **options: Unpack[Options]) -> Job:
        """The succeeded job of a path, bytes, samples with their rate, or a (samples, rate) pair."""
        return self._run(protocol.classify(sound, rate, options, self._timeout))

    def submit(self, sound: Sound, rate: int | None = None, **options: Unpack[Options]) -> Job:
        """The job as accepted, without waiting for it."""
        return self._run(protocol.submit(sound, rate, options, self._timeout))

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._run(protocol.get_job(job_id, self._timeout))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is finished, failed ones too. Without a timeout as long as it takes."""
        return self._run(protocol.wait(job_id, timeout))

    def stream(self, job_id: str, timeout: float | None = None) -> Iterator[JobEvent]:
        """Its changes from the first on, each once, `result` last; lost connections are taken up again."""
        running = Running(protocol.stream(job_id, timeout))
        line = _Line()
        try:
            while running.step is not None:
                if isinstance(running.step, Emit):
                    yield running.step.event
                    running.reply(None)
                else:
                    self._carry_out(running, line)
        finally:
            line.close()

    def result(self, job_id: str) -> Result:
        """The result with its arrays as numpy float16."""
        return self._run(protocol.result(job_id, self._timeout))

    def cancel(self, job_id: str) -> None:
        """Cancel what waits or runs; forget what has finished."""
        self._run(protocol.cancel(job_id, self._timeout))

    def models(self) -> ModelList:
        """What is served, and the default."""
        return self._run(protocol.models(self._timeout))

    def ready(self) -> Ready:
        """Whether the service would answer now."""
        return self._run(protocol.ready(self._timeout))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        running = Running(flow)
        while running.step is not None:
            self._carry_out(running, _Line())
        return running.value

    def _carry_out(self, running: Running[Any], line: "_Line") -> None:
        try:
            match running.step:
                case Send(call):
                    reply: Any = self._http.send(self._http.build_request(**request_parts(call)))
                case Open(call):
                    line.close()
                    reply = self._http.send(self._http.build_request(**request_parts(call)), stream=True)
                    line.open(reply)
                    if not reply.is_success:
                        reply.read()
                case More():
                    reply = next(line.chunks, b"")
                case Pause(seconds):
                    reply = None
                    time.sleep(seconds)
                case Load(sound, rate):
                    reply = load(sound, rate)
                case step:
                    raise AssertionError(step)
        except httpx.TransportError as error:
            running.fail(error)
        else:
            running.reply(reply)


class _Line:
    """The connection that an event stream is read from."""

    def __init__(self) -> None:
        self._response: httpx.Response | None = None
        self.chunks: Iterator[bytes]

    def open(self, response: httpx.Response) -> None:
        self._response, self.chunks = response, response.iter_bytes()

    def close(self) -> None:
        if self._response is not None:
            self._response.close()


class AsyncClient:
    """The service, awaitable, on asyncio or trio. As `Client` in everything else."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        headers: dict[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url, self._timeout = service_url(url), timeout
        self._http = httpx.AsyncClient(transport=transport, **http_settings(self.url, key, headers))

    async def classify(self, sound: Sound, rate: int | None = None, **options: Unpack[Options]) -> Job:
        return await self._run(protocol.classify(sound, rate, options, self._timeout))

    async def submit(self, sound: Sound, rate: int | None = None, **options: Unpack[Options]) -> Job:
        return await self._run(protocol.submit(sound, rate, options, self._timeout))

    async def job(self, job_id: str) -> Job:
        return await self._run(protocol.get_job(job_id, self._timeout))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        return await self._run(protocol.wait(job_id, timeout))

    async def stream(self, job_id: str, timeout: float | None = None) -> AsyncIterator[JobEvent]:
        running = Running(protocol.stream(job_id, timeout))
        line = _AsyncLine()
        try:
            while running.step is not None:
                if isinstance(running.step, Emit):
                    yield running.step.event
                    running.reply(None)
                else:
                    await self._carry_out(running, line)
        finally:
            await line.close()

    async def result(self, job_id: str) -> Result:
        return await self._run(protocol.result(job_id, self._timeout))

    async def cancel(self, job_id: str) -> None:
        await self._run(protocol.cancel(job_id, self._timeout))

    async def models(self) -> ModelList:
        return await self._run(protocol.models(self._timeout))

    async def ready(self) -> Ready:
        return await self._run(protocol.ready(self._timeout))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        running = Running(flow)
        while running.step is not None:
            await self._carry_out(running, _AsyncLine())
        return running.value

    async def _carry_out(self, running: Running[Any], line: "_AsyncLine") -> None:
        try:
            match running.step:
                case Send(call):
                    reply: Any = await self._http.send(self._http.build_request(**request_parts(call)))
                case Open(call):
                    await line.close()
                    reply = await self._http.send(self._http.build_request(**request_parts(call)), stream=True)
                    line.open(reply)
                    if not reply.is_success:
                        await reply.aread()
                case More():
                    reply = await anext(line.chunks, b"")
                case Pause(seconds):
                    reply = None
                    await anyio.sleep(seconds)
                case Load(sound, rate):
                    reply = await anyio.to_thread.run_sync(load, sound, rate)
                case step:
                    raise AssertionError(step)
        except httpx.TransportError as error:
            running.fail(error)
        else:
            running.reply(reply)


class _AsyncLine:
    def __init__(self) -> None:
        self._response: httpx.Response | None = None
        self.chunks: AsyncIterator[bytes]

    def open(self, response: httpx.Response) -> None:
        self._response, self.chunks = response, response.aiter_bytes()

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()
