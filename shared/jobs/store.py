"""The worker's half of the store: start, finish, announce."""

import json
from typing import Any, cast

import redis
from pydantic import ValidationError

from otoscope.errors import ContractMismatch, OtoscopeError
from otoscope.results import CONTRACT_VERSION, understood
from otoscope.types import JobOptions, ModelCard, Timings
from shared import contract
from shared.config.settings import Settings
from shared.jobs import scripts
from shared.jobs.records import Announcement, Refused, Work, parse
from shared.redis_client.connection import translated


class JobStore:
    """Every method raises StoreUnavailable."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._start = client.register_script(scripts.START)
        self._finish = client.register_script(scripts.FINISH)
        self._release = client.register_script(scripts.RELEASE)
        self._announce = client.register_script(scripts.ANNOUNCE)

    def start(self, job_id: str, worker: str, *, solo: bool = False) -> Work | Refused:
        """Take a delivered job. One that is refused as `suspect` is to be started `solo`, with no other suspect.

        Raises ContractMismatch for one that a newer gateway wrote, which is given back.
        """
        with translated():
            args = [job_id, worker, "solo" if solo else "", self._settings.max_attempts, scripts.ticket()]
            reply = self._start(keys=scripts.keys(job_id), args=args)
        outcome, *rest = cast("list[Any]", reply)
        if outcome != b"run":
            return Refused(outcome.decode(), *(trace.decode() for trace in rest))
        model, described, waited, left, body, attempt, trace, version = rest
        try:
            options = _options(described, int(version))
        except ContractMismatch:
            self.release(job_id, worker)
            raise
        if isinstance(body, int):  # the size of a large one
            with translated():
                body = self._redis.get(contract.audio_key(job_id))
            if body is None:
                return Refused("finished")  # just now, by somebody else
        return Work(job_id, model.decode(), options, float(waited), float(left), body, attempt, trace.decode())

    def release(self, job_id: str, worker: str) -> None:
        """Give back a job that was started and not finished, as if it had never been delivered."""
        with translated():
            self._release(keys=scripts.keys(job_id), args=[job_id, worker, scripts.lists_ttl(self._settings)])

    def succeed(self, job_id: str, packed: bytes, timings: Timings) -> bool:
        """Store a result; False where the job was cancelled or finished by somebody else."""
        return self._end(scripts.finish_args(self._settings, job_id, "succeeded", packed=packed, timings=timings))

    def fail(self, job_id: str, error: OtoscopeError, timings: Timings | None = None) -> bool:
        """Store a failure; False where the job was cancelled or finished by somebody else."""
        return self._end(scripts.finish_args(self._settings, job_id, "failed", error=error, timings=timings))

    def _end(self, args: list[Any]) -> bool:
        with translated():
            return cast(bytes, self._finish(keys=scripts.keys(args[0]), args=args)) == b"stored"

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
        told = [text for name, card in cards.items() for text in (name, card.model_dump_json())]
        with translated():
            self._announce(
                keys=[contract.worker_key(said.id), contract.WORKERS, contract.MODELS, contract.MODELS_TOLD],
                args=[said.id, json.dumps(said.__dict__), seconds, contract.LISTS_TTL, *told],
            )

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


def _options(described: bytes, version: int) -> JobOptions:
    """What a gateway of that version wrote. Raises ContractMismatch where only a newer worker can read it."""
    if not understood(version):
        raise ContractMismatch(f"It is of contract {version}; known here is {CONTRACT_VERSION}.")
    try:
        return parse(JobOptions, described)
    except ValidationError as error:
        raise ContractMismatch(f"It asks for what is not known here: {described.decode()}") from error
