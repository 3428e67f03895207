"""The worker's half of the store: claim a job, finish it, send heartbeats."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import redis
from pydantic import ValidationError

from otoscope.errors import ContractMismatch, OtoscopeError, PayloadTooLarge
from otoscope.results import CONTRACT_VERSION, understood
from otoscope.types import AudioInfo, JobOptions, ModelCard, Progress, Timings
from shared import contract
from shared.config.settings import Settings
from shared.jobs.records import ClaimedJob, SkippedJob, WorkerHeartbeat, parse
from shared.jobs.script_args import finish_args, index_ttl, job_keys, pack_args, request_token, script
from shared.redis_client.connection import map_redis_errors
from shared.redis_client.quick import QuickCommands

T = TypeVar("T")


class JobStore:
    """Every method raises StoreUnavailable where Redis cannot be reached or cannot write."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._quick = QuickCommands(client)
        self._claim = client.register_script(script("claim"))
        self._finish = client.register_script(script("finish"))
        self._release = client.register_script(script("release"))
        self._progress = client.register_script(script("progress"))
        self._heartbeat = client.register_script(script("heartbeat"))

    def claim(self, job_id: str, worker: str, *, isolated: bool = False) -> ClaimedJob | SkippedJob:
        """Start a delivered job. One that is skipped as `quarantined` has to be claimed again with `isolated`, while no
        other isolated job runs.

        Raises ContractMismatch for a job of a newer gateway that cannot be read here; it has been released.
        """
        with map_redis_errors():
            reply = self._quick.run(self._claim, *self._claim_call(job_id, worker, isolated=isolated))
        return self._claimed(job_id, worker, reply)

    def claim_each(self, job_ids: Sequence[str], worker: str) -> list[ClaimedJob | SkippedJob | OtoscopeError]:
        """As `claim` of each, in one round trip; in place of a job what `claim` would raise."""
        replies = self._quick.run_each(self._claim, [self._claim_call(job_id, worker) for job_id in job_ids])
        return [
            _outcome_of(lambda: self._claimed(job_id, worker, _raised(reply)))  # noqa: B023
            for job_id, reply in zip(job_ids, replies, strict=True)
        ]

    def _claim_call(self, job_id: str, worker: str, *, isolated: bool = False) -> tuple[list[str], list[bytes]]:
        arguments = pack_args(
            id=job_id,
            worker=worker,
            isolated=isolated,
            max_attempts=self._settings.max_attempts,
            request_token=request_token(),
        )
        return job_keys(job_id), [arguments]

    def _claimed(self, job_id: str, worker: str, reply: Any) -> ClaimedJob | SkippedJob:
        """From the reply of `claim.lua`."""
        outcome, *rest = cast("list[Any]", reply)
        if outcome != b"run":
            return SkippedJob(outcome.decode(), *(trace.decode() for trace in rest))
        model, options_json, waited, left, audio, attempt, trace, version, info = rest
        try:
            options = _parse_options(options_json, int(version))
        except ContractMismatch:
            self.release(job_id, worker)
            raise
        if isinstance(audio, int):  # the size of a large upload
            with map_redis_errors():
                audio = self._quick.get(contract.audio_key(job_id))
            if audio is None:
                return SkippedJob("finished")  # since the script ran
        described = parse(AudioInfo, info)
        return ClaimedJob(
            job_id,
            model.decode(),
            options,
            float(waited),
            float(left),
            audio,
            attempt,
            trace.decode(),
            described.duration,
            described.url or "",
        )

    def report_progress(self, job_id: str, worker: str, progress: Progress) -> None:
        """Store how far a claimed job is. Nothing happens where another worker has it, or it has ended."""
        arguments = pack_args(id=job_id, worker=worker, progress=progress.model_dump_json())
        with map_redis_errors():
            self._progress(keys=job_keys(job_id), args=[arguments])

    def release(self, job_id: str, worker: str) -> None:
        """Return a claimed, unfinished job to its old place in the queue, as if it had never been delivered. Its
        message has to be rejected as well."""
        arguments = pack_args(id=job_id, worker=worker, index_ttl=index_ttl(self._settings))
        with map_redis_errors():
            self._release(keys=job_keys(job_id), args=[arguments])

    def succeed(self, job_id: str, packed: bytes, timings: Timings) -> bool:
        """Store a packed result; False where the job was cancelled or another worker has finished it.

        Raises PayloadTooLarge for one that is larger than was reserved for it, if there is no memory for the rest.
        """
        return self._end(job_id, finish_args(self._settings, job_id, "succeeded", result=packed, timings=timings))

    def succeed_each(self, results: Sequence[tuple[str, bytes, Timings]]) -> list[bool | OtoscopeError]:
        """As `succeed` of each (job id, packed result, timings), in one round trip; in place of the reply what
        `succeed` would raise."""
        calls = [
            (job_keys(job_id), finish_args(self._settings, job_id, "succeeded", result=packed, timings=timings))
            for job_id, packed, timings in results
        ]
        replies = self._quick.run_each(self._finish, calls)
        return [
            _outcome_of(lambda: _stored(_raised(reply), len(packed)))  # noqa: B023
            for (_, packed, _), reply in zip(results, replies, strict=True)
        ]

    def fail(self, job_id: str, error: OtoscopeError, timings: Timings | None = None) -> bool:
        """Store a failure; False where the job was cancelled or another worker has finished it."""
        return self._end(job_id, finish_args(self._settings, job_id, "failed", error=error, timings=timings))

    def _end(self, job_id: str, args: list[bytes]) -> bool:
        with map_redis_errors():
            return _stored(self._quick.run(self._finish, job_keys(job_id), args), len(args[1]))

    def no_longer_running(self, job_ids: list[str]) -> set[str]:
        """Which of these claimed jobs need not be finished: cancelled, finished by another worker, or expired."""
        if not job_ids:
            return set()
        with map_redis_errors():
            pipe = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.hget(contract.job_key(job_id), "status")
            return {job_id for job_id, status in zip(job_ids, pipe.execute(), strict=True) if status != b"running"}

    def heartbeat(self, heartbeat: WorkerHeartbeat, cards: dict[str, ModelCard], seconds: int) -> None:
        """Register this worker and the models it serves for that many seconds."""
        arguments = pack_args(
            id=heartbeat.id,
            heartbeat=json.dumps(heartbeat.__dict__),
            seconds=seconds,
            index_ttl=contract.INDEX_TTL,
            model_ttl=contract.MODEL_TTL,
            cards={name: card.model_dump_json() for name, card in cards.items()},
        )
        keys = [contract.worker_key(heartbeat.id), contract.WORKERS, contract.MODELS, contract.MODELS_SEEN]
        with map_redis_errors():
            self._heartbeat(keys=keys, args=[arguments])

    def deregister(self, worker_id: str) -> None:
        """Remove this worker from the registered ones."""
        with map_redis_errors():
            pipe = self._redis.pipeline()
            pipe.delete(contract.worker_key(worker_id))
            pipe.zrem(contract.WORKERS, worker_id)
            pipe.execute()

    def remove_models(self, names: list[str]) -> None:
        """Remove these models' cards. A worker that still serves one adds it again with its next heartbeat."""
        with map_redis_errors():
            self._redis.hdel(contract.MODELS, *names)


def _stored(reply: Any, size: int) -> bool:
    """From the reply of `finish.lua` to a result of so many bytes. Raises PayloadTooLarge."""
    if reply == b"too_large":
        raise PayloadTooLarge(
            f"The result has {size:,} bytes, more than expected from the header of the sound, and the memory of the"
            " queue is full; request fewer parts."
        )
    return bool(reply == b"stored")


def _raised(reply: Any) -> Any:
    """A reply; raises it where it is an exception."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _outcome_of(function: Callable[[], T]) -> T | OtoscopeError:
    """What it returns or raises."""
    try:
        with map_redis_errors():
            return function()
    except OtoscopeError as error:
        return error


def _parse_options(options_json: bytes, version: int) -> JobOptions:
    """Options as a gateway of that contract version wrote them. Raises ContractMismatch."""
    if not understood(version):
        raise ContractMismatch(f"The job has contract version {version}; this worker has version {CONTRACT_VERSION}.")
    try:
        return JobOptions.model_validate_json(options_json)
    except ValidationError as error:
        raise ContractMismatch(
            f"The job has options that this worker does not support: {options_json.decode()}"
        ) from error
