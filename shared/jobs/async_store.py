"""The gateway's half of the store: submit, read, cancel, watch."""

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Callable
from typing import Any, cast

import redis.asyncio
from pydantic import ValidationError

from otoscope.errors import DeadlineExceeded, IdempotencyConflict, JobExpired, JobNotFound, QueueFull, StoreUnavailable
from otoscope.results import CONTRACT_VERSION
from otoscope.types import AudioInfo, JobOptions, ModelCard
from shared import contract
from shared.config.settings import Settings
from shared.jobs import scripts
from shared.jobs.queue import Messages, make_celery
from shared.jobs.records import (
    Announcement,
    Event,
    JobRecord,
    QueueLoad,
    Submission,
    parse,
    parse_announcement,
    parse_record,
)
from shared.redis_client.connection import translated
from shared.ttl_cache import Recent

log = logging.getLogger(__name__)

_LONG = 256 * 1024  # bytes of an upload past which a digest is worth a thread


class AsyncJobStore:
    """Every method but `ping` raises StoreUnavailable."""

    def __init__(self, client: "redis.asyncio.Redis", settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._messages = Messages(make_celery(settings))
        names = ("SUBMIT", "READ", "FINISH", "CANCEL")
        self._scripts = {name: client.register_script(getattr(scripts, name)) for name in names}
        self._memory = Recent(self._read_memory, 0.0)
        self._cards: dict[bytes, ModelCard | None] = {}  # by their text, which is long and seldom another

    async def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        with translated():
            return await self._scripts[name](keys=keys, args=args)

    async def ping(self) -> bool:
        try:
            with translated():
                return bool(await cast(Any, self._redis.ping()))
        except StoreUnavailable:
            return False

    async def submit(
        self,
        model: str,
        options: JobOptions,
        audio: AudioInfo,
        body: bytes,
        idempotency: str | None = None,
        job_id: str | None = None,
        *,
        caller: str = "",
        trace: str = "",
    ) -> Submission:
        """Store a job and its upload and send its message; `job_id` is for who wants to follow it from the beginning.
        `trace` is kept for the worker to go on from.

        Callers take turns, whoever has how much waiting. An Idempotency-Key is the caller's own. Raises QueueFull or
        IdempotencyConflict.
        """
        settings = self._settings
        share = await self.memory_share()
        if share > settings.redis_memory_share:
            raise QueueFull(
                f"The queue's memory is {share:.0%} full; uploads are accepted again below"
                f" {settings.redis_memory_share:.0%}.",
                retry_after=5,
            )
        job_id = job_id or contract.new_job_id()
        asked = options.model_dump_json()
        ttl = scripts.job_ttl(settings)
        token: list[str] = []
        digest = ""
        if idempotency:
            token.append(contract.idempotency_key(hashlib.sha256(f"{caller}\0{idempotency}".encode()).hexdigest()))
            digest = await _digest(json.dumps([model, asked]).encode(), body)
        outcome, detail, *more = await self._run(
            "SUBMIT",
            scripts.keys(job_id, contract.QUEUE, contract.line_key(caller), *token),
            [
                job_id,
                body,
                self._messages.of(job_id),
                caller,
                model,
                asked,
                audio.model_dump_json(),
                settings.job_deadline,
                ttl,
                ttl + settings.tombstone_ttl,
                settings.queue_limit,
                math.ceil(settings.queue_limit * settings.caller_share),
                scripts.lists_ttl(settings),
                digest,
                contract.job_key(""),
                CONTRACT_VERSION,
                trace,
            ],
        )
        if outcome == b"full":
            raise QueueFull(
                f"{int(detail)} jobs are unfinished, and {settings.queue_limit} is the limit; try again later.",
                retry_after=await self._retry_after(),
            )
        if outcome == b"share":
            raise QueueFull(
                f"{int(detail)} of your jobs wait, and there is no room for more of one caller's; try again later.",
                retry_after=await self._retry_after(),
            )
        if outcome == b"conflict":
            raise IdempotencyConflict("This Idempotency-Key was used with another request; use a new key.")
        if outcome == b"exists":
            return Submission(await self.get(detail.decode(), with_result=True), created=False)
        created_at, rank = more
        place = None if rank is None else rank + 1
        job = JobRecord(job_id, "queued", model, audio, float(created_at), position=place, caller=caller, trace=trace)
        return Submission(job, created=True)

    async def _retry_after(self) -> int:
        """Seconds: as long as the oldest waiting job has waited is about what a place takes to come free."""
        return max(1, min(60, round((await self.load()).oldest)))

    async def get(self, job_id: str, *, with_result: bool = False) -> JobRecord:
        """The job as it is now. Raises JobNotFound or JobExpired."""
        job, _ = await self._read(job_id, with_result)
        return job

    async def follow(self, job_id: str, after: str, *, with_result: bool = False) -> tuple[list[Event], JobRecord]:
        """What happened to a job after the event with that id, `0-0` for all, and the job as it is then. Never waits.

        Raises JobNotFound or JobExpired.
        """
        job, entries = await self._read(job_id, with_result, after)
        return [Event(entry.decode(), kind.decode()) for entry, (_, kind) in entries], job

    async def _read(
        self, job_id: str, with_result: bool, after: str = ""
    ) -> tuple[JobRecord, list[tuple[bytes, list[bytes]]]]:
        found = await self._run("READ", scripts.read_keys(job_id), [job_id, int(with_result) or "", after])
        if found == 1:
            raise JobExpired(f"Job {job_id} has expired; results are kept for {self._settings.result_ttl} s.")
        if found == 0:
            raise JobNotFound(f"There is no job {job_id}.")
        stored, rank, packed, entries = found
        if isinstance(packed, int):  # the size of a large one
            packed = await self.result(job_id)
        return parse_record(job_id, stored, rank, packed), entries or []

    async def result(self, job_id: str) -> bytes | None:
        """The packed result alone, or None where there is none."""
        with translated():
            return cast("bytes | None", await self._redis.get(contract.result_key(job_id)))

    async def places(self) -> dict[str, int]:
        """The place in the queue of every job that waits in it; 1 is next."""
        with translated():
            waiting = await self._redis.zrange(contract.WAITING, 0, -1)
        return {job_id.decode(): place for place, job_id in enumerate(cast("list[bytes]", waiting), 1)}

    async def cancel(self, job_id: str) -> str:
        """`cancelled` what was unfinished, `forgotten` what was finished. Raises JobNotFound or JobExpired."""
        args = [job_id, self._settings.result_ttl, scripts.ticket()]
        outcome = (await self._run("CANCEL", scripts.keys(job_id), args)).decode()
        if outcome == "gone":
            await self.get(job_id)  # tells an expired job from one that never was
        return cast(str, outcome)

    async def watch(self, on_change: Callable[[str | None, str], None]) -> None:
        """Call `on_change` with the id of every job that changes and what became of it, and with None whenever some
        may have been missed.

        Never returns.
        """
        with translated():
            async with self._redis.pubsub() as channel:
                await channel.subscribe(contract.CHANGES)
                while True:
                    message = await channel.get_message(timeout=None)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":  # at first, and whenever redis-py has had to connect again
                        on_change(None, "")
                    else:
                        job_id, _, status = message["data"].decode().partition(" ")
                        on_change(job_id, status)

    async def load(self) -> QueueLoad:
        with translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard(contract.OPEN)
                pipe.zcard(contract.WAITING)
                pipe.zrange(contract.WAITING, 0, 0, withscores=True)
                pipe.time()
                opened, waiting, first, (seconds, micros) = await pipe.execute()
        oldest = seconds + micros / 1e6 - first[0][1] if first else 0.0
        return QueueLoad(opened, waiting, max(oldest, 0.0), await self.memory_share())

    async def totals(self) -> dict[str, int]:
        """How many jobs were accepted, and how many ended in each way: contract.COUNTED."""
        with translated():
            counts = await cast(Any, self._redis.hmget(contract.TOTALS, contract.COUNTED))
        return {name: int(count or 0) for name, count in zip(contract.COUNTED, counts, strict=True)}

    async def memory_share(self) -> float:
        """Share of Redis' memory limit that is used, read at most once a second."""
        return await self._memory.get()

    async def _read_memory(self) -> float:
        with translated():
            info = await self._redis.info("memory")
        limit = info.get("maxmemory", 0)
        return float(info["used_memory"] / limit) if limit else 0.0

    async def workers(self) -> list[Announcement]:
        """The workers that vouch for themselves now, and that can read what is written here."""
        with translated():
            seconds, _ = await self._redis.time()
            ids = cast("list[bytes]", await self._redis.zrange(contract.WORKERS, f"({seconds}", "+inf", byscore=True))
            if not ids:
                return []
            said = await self._redis.mget([contract.worker_key(worker.decode()) for worker in ids])
        workers = [parse_announcement(text) for text in said if text]
        return [worker for worker in workers if abs(worker.contract - CONTRACT_VERSION) <= 1]

    async def cards(self) -> dict[str, ModelCard]:
        """Model cards by name, as last announced; they outlive a restart of the workers. What a newer worker may have
        told in a way that is not known here is left out."""
        with translated():
            stored = await cast(Any, self._redis.hgetall(contract.MODELS))
        known = self._cards
        self._cards = {text: known[text] if text in known else _card(name, text) for name, text in stored.items()}
        return {name.decode(): card for name, text in stored.items() if (card := self._cards[text])}

    async def reap(self) -> list[str]:
        """Fail the jobs that are past their deadline, whoever should have finished them; returns which."""
        grace = 2.0  # the worker that holds such a job fails it with better words
        with translated():
            seconds, micros = await self._redis.time()
            before = str(seconds + micros / 1e6 - grace)
            late = cast(
                "list[bytes]",
                await self._redis.zrange(contract.OPEN, "-inf", before, byscore=True, offset=0, num=100),
            )
        reaped: list[str] = []
        for job_id in (entry.decode() for entry in late):
            error = DeadlineExceeded(f"The job was not finished within {self._settings.job_deadline:g} s.")
            args = scripts.finish_args(self._settings, job_id, "failed", error=error)
            if await self._run("FINISH", scripts.keys(job_id), args) == b"stored":
                reaped.append(job_id)
        return reaped


def _card(name: bytes, text: bytes) -> ModelCard | None:
    try:
        return parse(ModelCard, text)
    except ValidationError as error:
        log.warning("the card of model %s cannot be read here", name.decode(), extra={"why": str(error)})
        return None


async def _digest(described: bytes, body: bytes) -> str:
    def digest() -> str:
        request = hashlib.sha256(described)
        request.update(body)  # by itself: joining the two would copy the upload
        return request.hexdigest()

    return digest() if len(body) <= _LONG else await asyncio.to_thread(digest)
