"""The gateway's half of the store: submit, read, cancel, subscribe to changes."""

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import redis.asyncio
from pydantic import ValidationError

from otoscope.errors import DeadlineExceeded, IdempotencyConflict, JobExpired, JobNotFound, QueueFull, StoreUnavailable
from otoscope.results import CONTRACT_VERSION
from otoscope.types import AudioInfo, JobOptions, ModelCard
from shared import contract
from shared.config.settings import Settings
from shared.jobs.records import (
    Event,
    JobRecord,
    NewJob,
    Persistence,
    QueueLoad,
    Submission,
    WorkerHeartbeat,
    parse,
    parse_heartbeat,
    parse_record,
)
from shared.jobs.script_args import (
    finish_args,
    index_ttl,
    job_deadline,
    job_keys,
    job_ttl,
    pack_args,
    read_keys,
    request_token,
    script,
)
from shared.redis_client.connection import certificate_expiry, map_redis_errors
from shared.ttl_cache import TTLCache

log = logging.getLogger(__name__)

_DIGEST_IN_THREAD = 256 * 1024  # bytes of an upload from which its digest is computed in a thread
_COUNTED = 1_000  # unfinished jobs whose durations are added up
_KEPT_SHARE = 0.5  # of the memory for uploads and results: sounds that are kept leave the rest to jobs that keep none
_OVERDUE_GRACE = 2.0  # seconds past its deadline in which the worker that runs a job may still report a better error


class AsyncJobStore:
    """Every method but `ping` raises StoreUnavailable where Redis cannot be reached or cannot write."""

    def __init__(self, client: "redis.asyncio.Redis", settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._scripts = {name: client.register_script(script(name)) for name in ("submit", "read", "finish", "cancel")}
        self._server = TTLCache(self._read_server, (0.0, Persistence()))
        self._sound = TTLCache(self._read_sound, 0.0)
        self._cards: dict[bytes, ModelCard | None] = {}  # by their JSON, which is long and seldom changes

    async def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        with map_redis_errors():
            return await self._scripts[name](keys=keys, args=args)

    async def ping(self) -> bool:
        try:
            with map_redis_errors():
                return bool(await cast(Any, self._redis.ping()))
        except StoreUnavailable:
            return False

    async def check_connection(self) -> None:
        """Raises StoreUnavailable where there is no connection to Redis: nothing has been sent then."""
        pool: Any = self._redis.connection_pool
        with map_redis_errors():
            await pool.release(await pool.get_connection())

    async def require_memory(self, options: JobOptions) -> float:
        """The share of Redis' memory limit up to which jobs with these options are accepted. Raises QueueFull above
        it."""
        most = self._settings.redis_memory_share * (_KEPT_SHARE if options.keep_sound else 1)
        share = await self.memory_share()
        if share > most:
            raise QueueFull(
                f"The queue's memory is {share:.0%} full; {_uploads(options)} are accepted again below {most:.0%}.",
                retry_after=5,
            )
        return most

    async def submit(self, job: NewJob, job_id: str | None = None) -> Submission:
        """Store a job with its upload and queue it. Raises QueueFull or IdempotencyConflict.

        `job_id` is given by a caller that follows the job from the beginning.
        """
        settings, options = self._settings, job.options
        most = await self.require_memory(options)
        job_id = job_id or contract.new_job_id()
        options_json = options.model_dump_json(exclude_defaults=True)  # older workers know fewer of them
        ttl = job_ttl(settings, job.audio.duration)
        more_keys, digest = [contract.QUEUE, contract.queue_key(job.caller)], ""
        if job.idempotency_key:
            owned = hashlib.sha256(f"{job.caller}\0{job.idempotency_key}".encode()).hexdigest()
            more_keys.append(contract.idempotency_key(owned))
            digest = await _digest(options_json.encode(), job.body)  # of what was requested: the default model changes
        arguments = pack_args(
            id=job_id,
            caller=job.caller,
            model=job.model,
            options=options_json,
            audio=job.audio.model_dump_json(),
            trace=job.trace,
            contract=CONTRACT_VERSION,
            deadline=job_deadline(settings, job.audio.duration) if job.deadline is None else job.deadline,
            ttl=ttl,
            tombstone_ttl=ttl + settings.tombstone_ttl,
            index_ttl=index_ttl(settings),
            queue_limit=settings.queue_limit,
            memory_share=most,
            result_bytes=job.result_bytes,
            keep_sound=options.keep_sound,
            caller_limit=math.ceil(settings.queue_limit * settings.caller_share),
            job_prefix=contract.job_key(""),
            digest=digest,
        )
        outcome, detail, *more = await self._run("submit", job_keys(job_id, *more_keys), [arguments, job.body])
        if outcome == b"full":
            raise QueueFull(
                f"{int(detail)} jobs are unfinished, and {settings.queue_limit} is the limit; try again later.",
                retry_after=await self._retry_after(),
            )
        if outcome == b"caller_full":
            raise QueueFull(
                f"{int(detail)} of your jobs are queued, which is the limit for one caller; try again later.",
                retry_after=await self._retry_after(),
            )
        if outcome == b"memory_full":
            raise QueueFull(
                f"The queue's memory would be {float(detail):.0%} full with this sound and the results of all accepted"
                f" jobs; {most:.0%} is the limit for {_uploads(options)}. Try again later, or request fewer parts.",
                retry_after=await self._retry_after(),
            )
        if outcome == b"conflict":
            raise IdempotencyConflict("This Idempotency-Key was used with another request; use a new key.")
        if outcome == b"exists":
            return Submission(await self.get(detail.decode(), with_result=True), created=False)
        created_at, rank = more
        position = None if rank is None else rank + 1
        record = JobRecord(
            job_id, "queued", job.model, job.audio, float(created_at), position=position, caller=job.caller,
            trace=job.trace, keeps_sound=options.keep_sound,
        )  # fmt: skip
        return Submission(record, created=True)

    async def _retry_after(self) -> int:
        """Seconds: a place becomes free in about the time that the oldest queued job has waited."""
        return max(1, min(60, round((await self.load()).oldest)))

    async def get(self, job_id: str, *, with_result: bool = False) -> JobRecord:
        """The job as it is now; with its result, or the size of a large one. Raises JobNotFound or JobExpired."""
        job, _ = await self._read(job_id, with_result)
        return job

    async def events_since(
        self, job_id: str, after: str, *, with_result: bool = False
    ) -> tuple[list[Event], JobRecord]:
        """The events of a job after the one with that id, `0-0` for all, and the job at the same moment. Never blocks.

        Raises JobNotFound or JobExpired.
        """
        job, entries = await self._read(job_id, with_result, after)
        return [Event(entry.decode(), kind.decode()) for entry, (_, kind) in entries], job

    async def _read(
        self, job_id: str, with_result: bool, after: str = ""
    ) -> tuple[JobRecord, list[tuple[bytes, list[bytes]]]]:
        found = await self._run("read", read_keys(job_id), [job_id, "1" if with_result else "", after])
        if found == 1:
            raise JobExpired(f"Job {job_id} has expired; results are kept for {self._settings.result_ttl} s.")
        if found == 0:
            raise JobNotFound(f"There is no job {job_id}.")
        stored, rank, packed, entries = found
        if isinstance(packed, int):
            return replace(parse_record(job_id, stored, rank), packed_size=packed), entries or []
        return parse_record(job_id, stored, rank, packed), entries or []

    async def result(self, job_id: str) -> bytes | None:
        """The packed result alone, or None where there is none."""
        with map_redis_errors():
            return cast("bytes | None", await self._redis.get(contract.result_key(job_id)))

    async def sound(self, job_id: str) -> bytes | None:
        """The upload of a job, or None where there is none any more."""
        with map_redis_errors():
            return cast("bytes | None", await self._redis.get(contract.audio_key(job_id)))

    async def with_result(self, job: JobRecord) -> JobRecord:
        """The job with its large result. Raises JobNotFound or JobExpired if it was deleted meanwhile."""
        packed = await self.result(job.id)
        if packed is None:
            await self.get(job.id)
            raise JobNotFound(f"The result of job {job.id} was deleted.")
        return replace(job, packed=packed, packed_size=0)

    async def positions(self) -> dict[str, int]:
        """The position of every queued job; 1 is next."""
        with map_redis_errors():
            queued = await self._redis.zrange(contract.QUEUED, 0, -1)
        return {job_id.decode(): position for position, job_id in enumerate(cast("list[bytes]", queued), 1)}

    async def cancel(self, job_id: str) -> str:
        """Cancel an unfinished job, delete a finished one: `cancelled` or `forgotten`. Raises JobNotFound or
        JobExpired."""
        arguments = pack_args(id=job_id, ttl=self._settings.result_ttl, request_token=request_token())
        outcome = (await self._run("cancel", job_keys(job_id), [arguments])).decode()
        if outcome == "missing":
            await self.get(job_id)  # raises: JobExpired where a tombstone is left
        return cast(str, outcome)

    async def subscribe(self, on_change: Callable[[str | None, str], None]) -> None:
        """Call `on_change` with the id and the new status of every job that changes, and with None and an empty status
        whenever changes may have been missed.

        Never returns.
        """
        with map_redis_errors():
            async with self._redis.pubsub() as channel:
                await channel.subscribe(contract.CHANGES)
                while True:
                    message = await channel.get_message(timeout=None)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":  # the first time, and after every reconnection of redis-py
                        on_change(None, "")
                    else:
                        job_id, _, status = message["data"].decode().partition(" ")
                        on_change(job_id, status)

    async def unfinished(self) -> int:
        """The number of unfinished jobs."""
        with map_redis_errors():
            return await self._redis.zcard(contract.UNFINISHED)

    async def load(self) -> QueueLoad:
        with map_redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard(contract.UNFINISHED)
                pipe.zcard(contract.QUEUED)
                pipe.zrange(contract.QUEUED, 0, 0, withscores=True)
                pipe.time()
                unfinished, queued, first, (seconds, micros) = await pipe.execute()
        oldest = seconds + micros / 1e6 - first[0][1] if first else 0.0
        share, persistence = await self._server.get()
        return QueueLoad(unfinished, queued, max(oldest, 0.0), share, await self._sound.get(), persistence)

    async def _read_sound(self) -> float:
        """Seconds of sound in the unfinished jobs; of more than _COUNTED jobs, an estimate from so many."""
        with map_redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard(contract.UNFINISHED)
                pipe.zrange(contract.UNFINISHED, 0, _COUNTED - 1)
                total, ids = await pipe.execute()
                for job_id in ids:
                    pipe.hget(contract.job_key(job_id.decode()), "audio")
                found = await pipe.execute() if ids else []
        seconds = sum(parse(AudioInfo, audio).duration or 0.0 for audio in found if audio)
        return float(seconds * total / len(ids)) if ids else 0.0

    async def totals(self) -> dict[str, int]:
        """How many jobs were accepted, and how many ended in each way: contract.COUNTERS."""
        with map_redis_errors():
            counts = await cast(Any, self._redis.hmget(contract.TOTALS, contract.COUNTERS))
        return {name: int(count or 0) for name, count in zip(contract.COUNTERS, counts, strict=True)}

    async def memory_share(self) -> float:
        """Used part of Redis' memory limit, 0 to 1, read at most once a second; 0 without a limit."""
        return (await self._server.get())[0]

    @property
    def certificate_expiry(self) -> float | None:
        """When Redis' certificate expires, in seconds since 1970; None without TLS."""
        return certificate_expiry(self._redis)

    async def persistence(self) -> Persistence:
        """Whether Redis can write its append-only file, read at most once a second."""
        return (await self._server.get())[1]

    async def _read_server(self) -> tuple[float, Persistence]:
        with map_redis_errors():
            info = await self._redis.info("memory", "persistence")
        limit = info.get("maxmemory", 0)
        share = float(info["used_memory"] / limit) if limit else 0.0
        statuses = (info.get(f"aof_last_{what}_status", "ok") == "ok" for what in ("write", "bgrewrite"))
        return share, Persistence(*statuses)

    async def workers(self) -> list[WorkerHeartbeat]:
        """The workers whose heartbeat has not expired and whose contract version this gateway understands."""
        with map_redis_errors():
            seconds, _ = await self._redis.time()
            latest = seconds + contract.LONGEST_HEARTBEAT
            ids = cast("list[bytes]", await self._redis.zrange(contract.WORKERS, f"({seconds}", latest, byscore=True))
            if not ids:
                return []
            heartbeats = await self._redis.mget([contract.worker_key(worker.decode()) for worker in ids])
        workers = [parse_heartbeat(text) for text in heartbeats if text]
        return [worker for worker in workers if abs(worker.contract - CONTRACT_VERSION) <= 1]

    async def cards(self) -> dict[str, ModelCard]:
        """Model cards by name, as last sent with a heartbeat; they outlive a restart of the workers. A card of a newer
        worker that cannot be read here is left out."""
        with map_redis_errors():
            stored = await cast(Any, self._redis.hgetall(contract.MODELS))
        known = self._cards
        self._cards = {text: known[text] if text in known else _parse_card(name, text) for name, text in stored.items()}
        return {name.decode(): card for name, text in stored.items() if (card := self._cards[text])}

    async def expire_overdue(self) -> list[str]:
        """Fail the jobs that are past their deadline, whether or not a worker runs them; returns their ids."""
        with map_redis_errors():
            seconds, micros = await self._redis.time()
            before = str(seconds + micros / 1e6 - _OVERDUE_GRACE)
            overdue = cast(
                "list[bytes]",
                await self._redis.zrange(contract.UNFINISHED, "-inf", before, byscore=True, offset=0, num=100),
            )
        expired: list[str] = []
        served = {model for worker in (await self.workers() if overdue else []) for model in worker.models}
        for job_id in (entry.decode() for entry in overdue):
            with map_redis_errors():
                status, model = await cast(Any, self._redis.hmget(contract.job_key(job_id), "status", "model"))
            detail = "The job was not finished before its deadline."
            if status == b"queued" and model and model.decode() not in served:
                detail = f"The job's deadline passed while no worker served its model {model.decode()!r}."
            error = DeadlineExceeded(detail)
            args = finish_args(self._settings, job_id, "failed", error=error)
            if await self._run("finish", job_keys(job_id), args) == b"stored":
                expired.append(job_id)
        return expired


def _uploads(options: JobOptions) -> str:
    return "sounds that are kept" if options.keep_sound else "uploads"


def _parse_card(name: bytes, text: bytes) -> ModelCard | None:
    try:
        return parse(ModelCard, text)
    except ValidationError as error:
        log.warning("the card of model %s cannot be read by this version", name.decode(), extra={"why": str(error)})
        return None


async def _digest(request: bytes, body: bytes) -> str:
    """SHA-256 of both, in hexadecimal digits."""

    def digest() -> str:
        hashed = hashlib.sha256(request)
        hashed.update(body)  # a second call: joining the two would copy the upload
        return hashed.hexdigest()

    return digest() if len(body) <= _DIGEST_IN_THREAD else await asyncio.to_thread(digest)
