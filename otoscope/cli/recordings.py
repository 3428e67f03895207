"""`otoscope classify` of what is longer or larger than the service accepts: cut here, classified in parts, resumed."""

import asyncio
import hashlib
import json
import math
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from otoscope.calls import Options
from otoscope.client import AsyncClient
from otoscope.errors import (
    AudioCorrupt,
    AudioTooLong,
    AudioUnsupported,
    InvalidRequest,
    OtoscopeError,
    PayloadTooLarge,
    RouteNotFound,
)
from otoscope.parts import PartResult, Plan, join_results
from otoscope.recordings import Recording, open_recording, wav_seconds
from otoscope.types import JobOptions, Limits, ModelCard, ResultJSON

SMALL_BYTES = 1_000_000
"""A smaller file is sent without asking what the service accepts."""

_ALL_CLASSES = 1_000  # the largest `top_k`: the class that leads at last may be the tenth in a part
_MAX_PARALLEL = 4  # parts at once: each may be tens of megabytes


async def run_concurrently(work: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
    """Raises the first error, once the others are cancelled."""
    tasks = [asyncio.create_task(work()) for _ in range(times)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Cutter:
    """Classifies files in parts where they are too long or too large. Limits and models are requested once."""

    def __init__(self, client: AsyncClient, options: Options, parallel: int) -> None:
        self._client, self._options, self._parallel = client, options, min(parallel, _MAX_PARALLEL)
        self._lock = asyncio.Lock()
        self._limits: Limits | None = None
        self._card: ModelCard | None = None

    async def accepted_bytes(self) -> float:
        """Of one upload."""
        with suppress(RouteNotFound):  # an older service
            return (await self._service_limits()).max_upload_bytes
        return math.inf

    async def must_cut(self, path: Path) -> bool:
        """Whether the service would refuse the file, as far as its size and the header of a WAV file say."""
        size = path.stat().st_size
        if size <= SMALL_BYTES:
            return False
        try:
            limits = await self._service_limits()
        except RouteNotFound:  # an older service
            return False
        if size > limits.max_upload_bytes:
            return True
        with suppress(AudioCorrupt):  # the service has the better message
            return (wav_seconds(path) or 0.0) > limits.max_seconds
        return False

    async def classify(self, path: Path, progress: Callable[[int, int | None], None]) -> tuple[list[str], ResultJSON]:
        """The ids of the jobs, and the joined result. `progress` is called with the finished parts and with how many
        there are, if that is known.

        Parts that an interrupted run has finished are not sent again. Raises OtoscopeError or OSError.
        """
        wanted = _options_of_a_result(self._options)
        limits, card = await self._service_limits(), await self._model_card()
        try:
            recording = await asyncio.to_thread(open_recording, path)
        except AudioUnsupported as error:
            raise AudioUnsupported(
                f"It is longer or larger than the service accepts, and cannot be cut: {error}"
            ) from error
        try:
            plan = Plan.of(recording.rate, recording.frame_bytes, limits, card.window_seconds)
            options: Options = {**self._options, "top_k": _ALL_CLASSES}
            if "detections" in wanted.include:
                options["min_duration"] = 0.0  # a detection that the cut divides must not be left out
            done = _Done.of(path, [self._client.url, card.name, card.version, asdict(plan), _plain(options)])
            run = _Run(self._client, recording, plan, options, done, progress)
            frames = await run.classify(self._parallel)
        finally:
            recording.close()
        ordered = [PartResult(plan.start(n) / recording.rate, done.results[n]) for n in sorted(done.results)]
        if not ordered:
            raise AudioCorrupt("The recording has no samples.")
        joined = join_results(ordered, frames / recording.rate, recording.rate, wanted)
        done.remove()
        return [done.ids[number] for number in sorted(done.ids)], joined

    async def _service_limits(self) -> Limits:
        async with self._lock:
            self._limits = self._limits or await self._client.limits()
            return self._limits

    async def _model_card(self) -> ModelCard:
        """Raises InvalidRequest."""
        async with self._lock:
            if self._card is None:
                served = await self._client.models()
                name = self._options.get("model") or served.default
                cards = {card.name: card for card in served.models}
                if name not in cards:
                    raise InvalidRequest(f"The service has no model {name!r}; it has {', '.join(cards)}.")
                self._card = cards[name]
            return self._card


def is_too_long(error: Exception) -> bool:
    """Whether the service refused a file that can be cut."""
    return isinstance(error, AudioTooLong | PayloadTooLarge)


class _Run:
    """The parts of one recording: several in flight, read one after the other."""

    def __init__(
        self,
        client: AsyncClient,
        recording: Recording,
        plan: Plan,
        options: Options,
        done: "_Done",
        progress: Callable[[int, int | None], None],
    ) -> None:
        self._client, self._recording, self._plan, self._options = client, recording, plan, options
        self._done, self._progress = done, progress
        self._next, self._frames, self._ended = 0, 0, False
        self._reading = asyncio.Lock()
        self._total = None if recording.frames is None else plan.count(recording.frames)

    async def classify(self, parallel: int) -> int:
        """The length of the recording in frames, once all parts are done."""
        self._report()
        await run_concurrently(self._work, parallel)
        return self._frames if self._recording.frames is None else self._recording.frames

    async def _work(self) -> None:
        while (part := await self._read()) is not None:
            index, body = part
            job = await self._client.classify(body, **self._options)
            if job.result is None:
                raise OtoscopeError(f"The service returned no result for part {index + 1}.")
            await asyncio.to_thread(self._done.add, index, job.id, job.result)
            self._report()

    async def _read(self) -> tuple[int, bytes] | None:
        """The next part that is not done; None at the end."""
        async with self._reading:
            while not self._ended and self._next in self._done.results:
                self._next += 1
            index = self._next
            if self._ended or (self._total is not None and index >= self._total):
                return None
            start = self._plan.start(index)
            body, frames = await asyncio.to_thread(self._recording.part, start, self._plan.length)
            self._next += 1
            self._ended = frames < self._plan.length
            self._frames = max(self._frames, start + frames)
            if self._plan.is_rest(index, frames):
                self._ended = True
                return None
            return index, body

    def _report(self) -> None:
        self._progress(len(self._done.results), self._total)


class _Done:
    """The parts that are done, in a file of JSON lines in the user's cache directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ids: dict[int, str] = {}
        self.results: dict[int, ResultJSON] = {}
        with suppress(OSError):
            for line in path.read_text().splitlines():
                with suppress(ValueError, KeyError, TypeError):  # the last line of a killed run
                    known = json.loads(line)
                    self._take(known["part"], known["id"], ResultJSON.model_validate(known["result"]))

    @classmethod
    def of(cls, path: Path, request: list[Any]) -> "_Done":
        """What is known of exactly this file and this request: any change of them starts anew."""
        status = path.stat()
        key = [str(path.resolve()), status.st_size, status.st_mtime_ns, *request]
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return cls(_cache_directory() / f"{name}.jsonl")

    def add(self, index: int, job_id: str, result: ResultJSON) -> None:
        self._take(index, job_id, result)
        line = {"part": index, "id": job_id, "result": result.model_dump(mode="json", by_alias=True, exclude_none=True)}
        with suppress(OSError):  # then it cannot be resumed, but goes on
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._path.open("ab", buffering=0) as file:  # in one piece: several threads write
                file.write(json.dumps(line).encode() + b"\n")

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _take(self, index: int, job_id: str, result: ResultJSON) -> None:
        self.ids[index], self.results[index] = job_id, result


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "otoscope" / "parts"


def _options_of_a_result(options: Options) -> JobOptions:
    """The options that joining needs. Raises InvalidRequest for parts of a result that cannot be joined."""
    include = options.get("include") or ()
    names = [name for name in (include.split(",") if isinstance(include, str) else include) if name]
    if others := sorted(set(names) - {"detections"}):
        raise InvalidRequest(
            f"The recording is longer or larger than the service accepts and is cut into parts; {', '.join(others)}"
            " cannot be joined, detections can."
        )
    known = {name: value for name, value in _plain(options).items() if value is not None and name != "include"}
    return JobOptions.model_validate({**known, "include": names})


def _plain(options: Options) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("timeout", "idempotency_key")}
