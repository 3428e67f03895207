"""The only code that talks to Redis about jobs: `AsyncJobStore` for the gateway, `JobStore` for the worker.

A job is a hash with a time to live, its upload, its packed result and a stream of its changes; two sorted sets hold
what waits and what is unfinished. All changes of state are the scripts of `shared.scripts`.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from typing import Any, cast

import redis
import redis.asyncio

from shared import contract, scripts
from shared.connection import translated
from shared.errors import (
    DeadlineExceeded,
    IdempotencyConflict,
    JobExpired,
    JobNotFound,
    OtoscopeError,
    QueueFull,
    StoreUnavailable,
)
from shared.records import (
    Announcement,
    Event,
    JobRecord,
    QueueLoad,
    Refused,
    Submission,
    Work,
    parse_record,
)
from shared.schemas import AudioInfo, JobOptions, ModelCard, Timings
from shared.settings import Settings

_LISTS = (contract.WAITING, contract.OPEN, contract.CHANGES)


def _keys(job_id: str, *more: str) -> list[str]:
    own = (contract.job_key, contract.audio_key, contract.result_key, contract.events_key, contract.gone_key)
    return [key(job_id) for key in own] + [*_LISTS, *more]


def _failure(error: OtoscopeError) -> str:
    return json.dumps({"code": error.code, "detail": error.detail})


def _finish_args(settings: Settings, job_id: str, status: str, **values: str | bytes) -> list[Any]:
    ttl = settings.result_ttl
    parts = [values.get(name, "") for name in ("packed", "failure", "timings")]
    return [job_id, status, *parts, ttl, ttl + settings.tombstone_ttl]


class AsyncJobStore:
    """The gateway's half: submit, read, cancel, watch."""

    def __init__(self, client: "redis.asyncio.Redis", settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._scripts = {
            name: client.register_script(getattr(scripts, name)) for name in ("SUBMIT", "FINISH", "CANCEL", "WITHDRAW")
        }
        self._memory: tuple[float, float] = (0.0, 0.0)  # (monotonic time of the reading, share)

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
        self, model: str, options: JobOptions, audio: AudioInfo, body: bytes, idempotency: str | None = None
    ) -> Submission:
        """Store a job and its upload. Raises QueueFull, IdempotencyConflict or StoreUnavailable."""
        settings = self._settings
        share = await self.memory_share()
        if share > settings.redis_memory_share:
            raise QueueFull(
                f"The queue's memory is {share:.0%} full; uploads are accepted again below"
                f" {settings.redis_memory_share:.0%}.",
                retry_after=5,
            )
        job_id = contract.new_job_id()
        described = options.model_dump_json()
        record = ["model", model, "options", described, "audio", audio.model_dump_json()]
        ttl = math.ceil(settings.job_deadline) + settings.result_ttl
        digest = ""
        if idempotency:
            request = hashlib.sha256(json.dumps([model, described]).encode())
            request.update(body)  # by itself: joining the two would copy the upload
            digest = request.hexdigest()
        outcome, detail = await self._run(
            "SUBMIT",
            _keys(job_id, _idempotency_key(idempotency)),
            [
                job_id,
                body,
                json.dumps(record),
                settings.job_deadline,
                ttl,
                ttl + settings.tombstone_ttl,
                settings.queue_limit,
                max(contract.LISTS_TTL, ttl),
                digest,
                contract.job_key(""),
            ],
        )
        if outcome == b"full":
            raise QueueFull(
                f"{int(detail)} jobs are unfinished, and {settings.queue_limit} is the limit; try again later.",
                retry_after=await self._retry_after(),
            )
        if outcome == b"conflict":
            raise IdempotencyConflict("This Idempotency-Key was used with another request; use a new key.")
        # One that was sent twice, since its first answer was lost on the way, finds itself.
        return Submission(detail.decode(), created=outcome == b"created" or detail.decode() == job_id)

    async def _retry_after(self) -> int:
        """Seconds: as long as the oldest waiting job has waited is about what a place takes to come free."""
        return max(1, min(60, round((await self.load()).oldest)))

    async def withdraw(self, job_id: str, idempotency: str | None) -> None:
        """Undo a submission whose message could not be sent."""
        await self._run("WITHDRAW", _keys(job_id, _idempotency_key(idempotency)), [job_id])

    async def get(self, job_id: str) -> JobRecord:
        """Raises JobNotFound, JobExpired or StoreUnavailable."""
        with translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(contract.job_key(job_id))
                pipe.zrank(contract.WAITING, job_id)
                pipe.exists(contract.gone_key(job_id))
                stored, rank, gone = await pipe.execute()
        if not stored:
            if gone:
                raise JobExpired(f"Job {job_id} has expired; results are kept for {self._settings.result_ttl} s.")
            raise JobNotFound(f"There is no job {job_id}.")
        return parse_record(job_id, stored, rank)

    async def places(self) -> dict[str, int]:
        """The place in the queue of every job that waits in it; 1 is next."""
        with translated():
            waiting = await self._redis.zrange(contract.WAITING, 0, -1)
        return {job_id.decode(): place for place, job_id in enumerate(cast("list[bytes]", waiting), 1)}

    async def result(self, job_id: str) -> bytes | None:
        """The packed result, or None where there is none."""
        with translated():
            return cast("bytes | None", await self._redis.get(contract.result_key(job_id)))

    async def cancel(self, job_id: str) -> str:
        """`cancelled` what was unfinished, `forgotten` what was finished. Raises JobNotFound or JobExpired."""
        outcome = (await self._run("CANCEL", _keys(job_id), [job_id, self._settings.result_ttl])).decode()
        if outcome == "gone":
            await self.get(job_id)  # tells an expired job from one that never was
        return cast(str, outcome)

    async def events(self, job_id: str, after: str) -> list[Event]:
        """What happened to a job after the event with that id; `0-0` for all. Never waits."""
        with translated():
            entries = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                await self._redis.xrange(contract.events_key(job_id), min=f"({after}", max="+"),
            )
        return [Event(entry.decode(), fields[b"kind"].decode()) for entry, fields in entries]

    async def watch(self, on_change: Callable[[str | None], None]) -> None:
        """Call `on_change` with the id of every job that changes, and with None whenever some may have been missed.

        Never returns; raises StoreUnavailable when the connection is lost.
        """
        with translated():
            async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(contract.CHANGES)
                on_change(None)
                while True:
                    message = await channel.get_message(timeout=None)
                    if message is not None:
                        on_change(message["data"].decode())

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

    async def memory_share(self) -> float:
        """Share of Redis' memory limit that is used, read at most once a second."""
        read_at, share = self._memory
        if time.monotonic() - read_at > 1.0:
            with translated():
                info = await self._redis.info("memory")
            limit = info.get("maxmemory", 0)
            share = info["used_memory"] / limit if limit else 0.0
            self._memory = (time.monotonic(), share)
        return share

    async def workers(self) -> list[Announcement]:
        """The workers that vouch for themselves now."""
        with translated():
            seconds, _ = await self._redis.time()
            ids = cast("list[bytes]", await self._redis.zrange(contract.WORKERS, f"({seconds}", "+inf", byscore=True))
            if not ids:
                return []
            said = await self._redis.mget([contract.worker_key(worker.decode()) for worker in ids])
        return [Announcement(**json.loads(text)) for text in said if text]

    async def cards(self) -> dict[str, ModelCard]:
        """Model cards by name, as last announced; they outlive a restart of the workers."""
        with translated():
            stored = await cast(Any, self._redis.hgetall(contract.MODELS))
        return {name.decode(): ModelCard.model_validate_json(card) for name, card in stored.items()}

    async def reap(self) -> int:
        """Fail the jobs that are past their deadline, whoever should have finished them; returns how many."""
        grace = 2.0  # the worker that holds such a job fails it with better words
        with translated():
            seconds, micros = await self._redis.time()
            before = str(seconds + micros / 1e6 - grace)
            late = cast(
                "list[bytes]",
                await self._redis.zrange(contract.OPEN, "-inf", before, byscore=True, offset=0, num=100),
            )
        reaped = 0
        for job_id in (entry.decode() for entry in late):
            error = DeadlineExceeded(f"The job was not finished within {self._settings.job_deadline:g} s.")
            args = _finish_args(self._settings, job_id, "failed", failure=_failure(error))
            reaped += await self._run("FINISH", _keys(job_id), args) == b"stored"
        return reaped


class JobStore:
    """The worker's half: start, finish, announce."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._start = client.register_script(scripts.START)
        self._finish = client.register_script(scripts.FINISH)

    def start(self, job_id: str, worker: str) -> Work | Refused:
        """Take a delivered job. Raises StoreUnavailable."""
        with translated():
            reply = self._start(keys=_keys(job_id), args=[job_id, worker, self._settings.max_attempts])
        outcome, *rest = cast("list[Any]", reply)
        if outcome != b"run":
            return Refused(outcome.decode())
        model, options, waited, left, body = rest
        return Work(job_id, model.decode(), JobOptions.model_validate_json(options), float(waited), float(left), body)

    def succeed(self, job_id: str, packed: bytes, timings: Timings) -> bool:
        """Store a result; False where the job was cancelled or finished by somebody else."""
        return self._end(job_id, "succeeded", packed=packed, timings=timings.model_dump_json())

    def fail(self, job_id: str, error: OtoscopeError, timings: Timings | None = None) -> bool:
        """Store a failure; False where the job was cancelled or finished by somebody else."""
        return self._end(
            job_id, "failed", failure=_failure(error), timings=timings.model_dump_json() if timings else ""
        )

    def _end(self, job_id: str, status: str, **values: str | bytes) -> bool:
        with translated():
            args = _finish_args(self._settings, job_id, status, **values)
            return cast(bytes, self._finish(keys=_keys(job_id), args=args)) == b"stored"

    def cancelled(self, job_ids: list[str]) -> set[str]:
        """Which of these nobody waits for any more: cancelled, finished elsewhere, or expired."""
        if not job_ids:
            return set()
        with translated():
            pipe = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.hget(contract.job_key(job_id), "status")
            return {job_id for job_id, status in zip(job_ids, pipe.execute(), strict=True) if status != b"running"}

    def announce(self, said: Announcement, cards: dict[str, ModelCard], seconds: int) -> None:
        """Vouch for this worker, and for the models it serves, for that many seconds."""
        with translated():
            now, _ = self._redis.time()
            pipe = self._redis.pipeline()
            pipe.set(contract.worker_key(said.id), json.dumps(said.__dict__), ex=seconds)
            pipe.zadd(contract.WORKERS, {said.id: now + seconds})
            pipe.zremrangebyscore(contract.WORKERS, "-inf", now)
            pipe.expire(contract.WORKERS, contract.LISTS_TTL)
            for name, card in cards.items():
                pipe.hset(contract.MODELS, name, card.model_dump_json())
            pipe.expire(contract.MODELS, contract.LISTS_TTL)
            pipe.execute()

    def retract(self, worker_id: str) -> None:
        """Stop vouching for this worker."""
        with translated():
            pipe = self._redis.pipeline()
            pipe.delete(contract.worker_key(worker_id))
            pipe.zrem(contract.WORKERS, worker_id)
            pipe.execute()

    def withdraw_models(self, names: list[str]) -> None:
        """List these models no more. Another worker that still serves one lists it again with its next announcement."""
        with translated():
            self._redis.hdel(contract.MODELS, *names)


def _idempotency_key(token: str | None) -> str:
    return contract.idempotency_key(hashlib.sha256(token.encode()).hexdigest()) if token else ""
