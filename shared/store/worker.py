"""The worker's half of the store: start, finish, announce."""

import json
from typing import Any, cast

import redis

from shared import contract, scripts
from shared.connection import translated
from shared.errors import OtoscopeError
from shared.records import Announcement, Refused, Work
from shared.schemas import JobOptions, ModelCard, Timings
from shared.settings import Settings


class JobStore:
    """Every method raises StoreUnavailable."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._start = client.register_script(scripts.START)
        self._finish = client.register_script(scripts.FINISH)

    def start(self, job_id: str, worker: str) -> Work | Refused:
        """Take a delivered job."""
        with translated():
            reply = self._start(keys=scripts.keys(job_id), args=[job_id, worker, self._settings.max_attempts])
        outcome, *rest = cast("list[Any]", reply)
        if outcome != b"run":
            return Refused(outcome.decode())
        model, options, waited, left, body = rest
        if isinstance(body, int):  # the size of a large one
            with translated():
                body = self._redis.get(contract.audio_key(job_id))
            if body is None:
                return Refused("finished")  # just now, by somebody else
        return Work(job_id, model.decode(), JobOptions.model_validate_json(options), float(waited), float(left), body)

    def succeed(self, job_id: str, packed: bytes, timings: Timings) -> bool:
        """Store a result; False where the job was cancelled or finished by somebody else."""
        return self._end(job_id, "succeeded", packed=packed, timings=timings.model_dump_json())

    def fail(self, job_id: str, error: OtoscopeError, timings: Timings | None = None) -> bool:
        """Store a failure; False where the job was cancelled or finished by somebody else."""
        measured = timings.model_dump_json() if timings else ""
        return self._end(job_id, "failed", failure=scripts.failure(error), timings=measured)

    def _end(self, job_id: str, status: str, **values: str | bytes) -> bool:
        with translated():
            args = scripts.finish_args(self._settings, job_id, status, **values)
            return cast(bytes, self._finish(keys=scripts.keys(job_id), args=args)) == b"stored"

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
