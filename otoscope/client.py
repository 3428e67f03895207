"""`Client` and `AsyncClient`: the service from Python. Both carry out the flows of `otoscope.calls`.

with Client() as client:
    job = client.classify("dog.ogg")
    print(job.result.predictions[0])
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx2

from otoscope import batches, calls, events
from otoscope.audio import AudioInput, load
from otoscope.batches import Classified, NamedSound
from otoscope.calls import Options
from otoscope.connection import auth_header, http_client, request_arguments, service_url
from otoscope.exports import Format
from otoscope.live import Blocks, LiveAnswer, LiveCall, LiveOptions
from otoscope.responses import ResponseBody
from otoscope.results import Result
from otoscope.sansio import (
    EmitEvent,
    Flow,
    FlowRunner,
    JobEvent,
    LoadAudio,
    OpenStream,
    ReadChunk,
    Request,
    SendRequest,
    Sleep,
)
from otoscope.types import Batch, BatchResult, Detection, Job, Limits, ModelList, Ready

T = TypeVar("T")


class Client:
    """A blocking client. May be shared between threads.

    `key` is for a service that requires one; OTOSCOPE_KEY by default. `timeout` is in seconds, for a whole call:
    connecting, retries while the queue is full, waiting, and receiving the response, of at most
    `otoscope.responses.MAX_ANSWER_BYTES`. Every method that fails raises an error of `otoscope.errors`,
    ServiceUnreachable or WaitTimeout; also OSError for a file that cannot be read.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        headers: dict[str, str] | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url, self._timeout = service_url(url), timeout
        self._http = http_client(httpx2.Client, self.url, key, headers, transport)
        self._stream_headers = {**auth_header(key), **(headers or {})}

    def classify(self, sound: AudioInput, rate: int | None = None, **options: Unpack[Options]) -> Job:
        """The succeeded job of a path, bytes, samples with their rate, or a (samples, rate) pair."""
        return self._run(calls.classify(sound, rate, options, self._timeout))

    def classify_many(
        self, sounds: Iterable[AudioInput], rate: int | None = None, **options: Unpack[Options]
    ) -> list[Classified]:
        """What became of each sound, in their order: its result, or its error. A bad sound fails alone.

        The service queues as many as one request can hold at a time. `timeout` is for one request, not for the jobs.
        """
        return self._run(batches.classify_many(sounds, rate, options, self._timeout))

    def submit_batch(self, sounds: Sequence[NamedSound], **options: Unpack[Options]) -> Batch:
        """A batch as accepted, of pairs of name and bytes that together may be as large as one upload."""
        return self._run(batches.submit(sounds, options, self._timeout))

    def wait_batch(self, batch_id: str, timeout: float | None = None) -> Batch:
        """The batch once all its jobs are in a final state. No timeout by default."""
        return self._run(batches.wait(batch_id, timeout))

    def batch_results(self, batch_id: str) -> list[BatchResult]:
        """Of every sound of a batch the result, as far as it is finished."""
        return self._run(batches.results(batch_id, self._timeout))

    def submit(self, sound: AudioInput, rate: int | None = None, **options: Unpack[Options]) -> Job:
        """The job as accepted, without waiting for it."""
        return self._run(calls.submit(sound, rate, options, self._timeout))

    def job(self, job_id: str) -> Job:
        """The current state of a job."""
        return self._run(calls.get_job(job_id, self._timeout))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is in a final state, failed ones too. No timeout by default."""
        return self._run(calls.wait(job_id, timeout))

    def stream(self, job_id: str, timeout: float | None = None) -> Generator[JobEvent, None, None]:
        """The job's events from the first on, each once, `result` last; reconnects when the connection breaks."""
        runner = FlowRunner(events.stream(job_id, timeout))
        stream = _Stream()
        try:
            while runner.step is not None:
                if isinstance(runner.step, EmitEvent):
                    yield runner.step.event
                    runner.send(None)
                else:
                    self._carry_out(runner, stream)
        finally:
            stream.close()

    def stream_audio(
        self, blocks: Blocks, rate: int, **options: Unpack[LiveOptions]
    ) -> Generator[LiveAnswer, None, None]:
        """An answer for each window of a sound that is being recorded: `blocks` are its samples of one channel, bytes
        of 16-bit PCM or arrays, as they come; `rate` is in Hz. Needs the extra `live`.

        Reconnects when the connection breaks. Sound that comes much faster than it plays is refused; `classify` is for
        files. `timeout` does not apply.
        """
        call = LiveCall(self.url, self._stream_headers, blocks, rate, options)
        with anyio.from_thread.start_blocking_portal("asyncio") as portal:
            answers = call.answers()
            waiting: asyncio.Task[Any] | None = None

            async def following() -> LiveAnswer | None:
                nonlocal waiting
                waiting = asyncio.current_task()
                return await anext(answers, None)

            async def close() -> None:
                if waiting is not None and waiting.cancel():  # the caller was interrupted
                    await asyncio.wait([waiting])
                await answers.aclose()

            try:
                while (answer := portal.call(following)) is not None:
                    yield answer
            finally:
                portal.call(close)

    def result(self, job_id: str) -> Result:
        """The result with its arrays as numpy float16."""
        return self._run(calls.result(job_id, self._timeout))

    @overload
    def detections(self, job: Job | str, format: None = None) -> list[Detection]: ...
    @overload
    def detections(self, job: Job | str, format: Format) -> str: ...
    def detections(self, job: Job | str, format: Format | None = None) -> list[Detection] | str:
        """What `include=["detections"]` found: a list, or the text of a file in one of `otoscope.exports.FORMATS`."""
        return self._run(calls.detections(job, format, self._timeout))

    def audio(self, job_id: str) -> bytes:
        """The sound of a job that was submitted with `keep_sound=True`, as it was submitted."""
        return self._run(calls.audio(job_id, self._timeout))

    def cancel(self, job_id: str) -> None:
        """Cancel a queued or running job; delete a finished one."""
        self._run(calls.cancel(job_id, self._timeout))

    def models(self) -> ModelList:
        """The served models, and the default one."""
        return self._run(calls.models(self._timeout))

    def limits(self) -> Limits:
        """The limits of uploads."""
        return self._run(calls.limits(self._timeout))

    def ready(self) -> Ready:
        """Whether the service can take jobs now."""
        return self._run(calls.ready(self._timeout))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        runner, stream = FlowRunner(flow), _Stream()
        try:
            while runner.step is not None:
                self._carry_out(runner, stream)
        finally:
            stream.close()
        return runner.value

    def _carry_out(self, runner: FlowRunner[Any], stream: "_Stream") -> None:
        try:
            match runner.step:
                case SendRequest(request):
                    reply: Any = self._send(request)
                case OpenStream(request):
                    stream.close()
                    reply = self._http.send(self._http.build_request(**request_arguments(request)), stream=True)
                    stream.open(reply)
                    if not reply.is_success:
                        reply = self._read(reply, request)
                case ReadChunk():
                    reply = next(stream.chunks, b"")
                case Sleep(seconds):
                    reply = None
                    time.sleep(seconds)
                case LoadAudio(sound, rate):
                    reply = load(sound, rate)
                case step:
                    raise AssertionError(step)
        except (httpx2.TransportError, OSError, TypeError, ValueError) as error:  # also of a file
            runner.throw(error)
        else:
            runner.send(reply)

    def _send(self, request: Request) -> httpx2.Response:
        response = self._http.send(self._http.build_request(**request_arguments(request)), stream=True)
        with closing(response):
            return self._read(response, request)

    @staticmethod
    def _read(response: httpx2.Response, request: Request) -> httpx2.Response:
        body = ResponseBody(response, request.deadline)
        for chunk in response.iter_raw():
            body.add(chunk)
        return body.complete()


class _Stream:
    """The open response of an event stream."""

    def __init__(self) -> None:
        self._response: httpx2.Response | None = None
        self.chunks: Iterator[bytes]

    def open(self, response: httpx2.Response) -> None:
        ResponseBody(response)
        self._response, self.chunks = response, response.iter_raw()

    def close(self) -> None:
        if self._response is not None:
            self._response.close()


class AsyncClient:
    """`Client` for asyncio and trio: the same methods, awaitable."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        headers: dict[str, str] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url, self._timeout = service_url(url), timeout
        self._http = http_client(httpx2.AsyncClient, self.url, key, headers, transport)
        self._stream_headers = {**auth_header(key), **(headers or {})}

    async def classify(self, sound: AudioInput, rate: int | None = None, **options: Unpack[Options]) -> Job:
        return await self._run(calls.classify(sound, rate, options, self._timeout))

    async def classify_many(
        self, sounds: Iterable[AudioInput], rate: int | None = None, **options: Unpack[Options]
    ) -> list[Classified]:
        return await self._run(batches.classify_many(sounds, rate, options, self._timeout))

    async def submit_batch(self, sounds: Sequence[NamedSound], **options: Unpack[Options]) -> Batch:
        return await self._run(batches.submit(sounds, options, self._timeout))

    async def wait_batch(self, batch_id: str, timeout: float | None = None) -> Batch:
        return await self._run(batches.wait(batch_id, timeout))

    async def batch_results(self, batch_id: str) -> list[BatchResult]:
        return await self._run(batches.results(batch_id, self._timeout))

    async def submit(self, sound: AudioInput, rate: int | None = None, **options: Unpack[Options]) -> Job:
        return await self._run(calls.submit(sound, rate, options, self._timeout))

    async def job(self, job_id: str) -> Job:
        return await self._run(calls.get_job(job_id, self._timeout))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        return await self._run(calls.wait(job_id, timeout))

    async def stream(self, job_id: str, timeout: float | None = None) -> AsyncGenerator[JobEvent, None]:
        runner = FlowRunner(events.stream(job_id, timeout))
        stream = _AsyncStream()
        try:
            while runner.step is not None:
                if isinstance(runner.step, EmitEvent):
                    yield runner.step.event
                    runner.send(None)
                else:
                    await self._carry_out(runner, stream)
        finally:
            await stream.close()

    def stream_audio(
        self, blocks: Blocks, rate: int, **options: Unpack[LiveOptions]
    ) -> AsyncGenerator[LiveAnswer, None]:
        """Under asyncio only."""
        return LiveCall(self.url, self._stream_headers, blocks, rate, options).answers()

    async def result(self, job_id: str) -> Result:
        return await self._run(calls.result(job_id, self._timeout))

    @overload
    async def detections(self, job: Job | str, format: None = None) -> list[Detection]: ...
    @overload
    async def detections(self, job: Job | str, format: Format) -> str: ...
    async def detections(self, job: Job | str, format: Format | None = None) -> list[Detection] | str:
        return await self._run(calls.detections(job, format, self._timeout))

    async def audio(self, job_id: str) -> bytes:
        return await self._run(calls.audio(job_id, self._timeout))

    async def cancel(self, job_id: str) -> None:
        await self._run(calls.cancel(job_id, self._timeout))

    async def models(self) -> ModelList:
        return await self._run(calls.models(self._timeout))

    async def limits(self) -> Limits:
        return await self._run(calls.limits(self._timeout))

    async def ready(self) -> Ready:
        return await self._run(calls.ready(self._timeout))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        runner, stream = FlowRunner(flow), _AsyncStream()
        try:
            while runner.step is not None:
                await self._carry_out(runner, stream)
        finally:
            await stream.close()
        return runner.value

    async def _carry_out(self, runner: FlowRunner[Any], stream: "_AsyncStream") -> None:
        try:
            match runner.step:
                case SendRequest(request):
                    reply: Any = await self._send(request)
                case OpenStream(request):
                    await stream.close()
                    reply = await self._http.send(self._http.build_request(**request_arguments(request)), stream=True)
                    stream.open(reply)
                    if not reply.is_success:
                        reply = await self._read(reply, request)
                case ReadChunk():
                    reply = await anext(stream.chunks, b"")
                case Sleep(seconds):
                    reply = None
                    await anyio.sleep(seconds)
                case LoadAudio(sound, rate):
                    reply = await anyio.to_thread.run_sync(load, sound, rate)
                case step:
                    raise AssertionError(step)
        except (httpx2.TransportError, OSError, TypeError, ValueError) as error:  # also of a file
            runner.throw(error)
        else:
            runner.send(reply)

    async def _send(self, request: Request) -> httpx2.Response:
        response = await self._http.send(self._http.build_request(**request_arguments(request)), stream=True)
        async with aclosing(response):
            return await self._read(response, request)

    @staticmethod
    async def _read(response: httpx2.Response, request: Request) -> httpx2.Response:
        body = ResponseBody(response, request.deadline)
        async for chunk in response.aiter_raw():
            body.add(chunk)
        return body.complete()


class _AsyncStream:
    def __init__(self) -> None:
        self._response: httpx2.Response | None = None
        self.chunks: AsyncIterator[bytes]

    def open(self, response: httpx2.Response) -> None:
        ResponseBody(response)
        self._response, self.chunks = response, response.aiter_raw()

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()
