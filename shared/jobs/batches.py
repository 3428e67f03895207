"""The records of batches. A batch is a list of names and job ids; the state is that of its jobs."""

import json
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio

from otoscope.errors import BatchNotFound, IdempotencyConflict
from otoscope.types import ErrorInfo
from shared import contract
from shared.config.settings import Settings
from shared.jobs.script_args import job_ttl, script
from shared.redis_client.connection import map_redis_errors


@dataclass(frozen=True)
class MemberRecord:
    name: str
    job_id: str  # empty where the sound was refused
    error: ErrorInfo | None = None  # of a sound that was refused


@dataclass(frozen=True)
class BatchRecord:
    id: str
    caller: str
    created_at: float  # seconds since 1970, on the gateway's clock
    members: tuple[MemberRecord, ...]
    model: str | None = None  # of all its jobs; None: as requested, in a record of an earlier version


@dataclass(frozen=True)
class MemberState:
    status: str  # of the job; `missing` where there is none, `expired` where there was one
    error: ErrorInfo | None = None


class BatchStore:
    """Every method raises StoreUnavailable where Redis cannot be reached or cannot write."""

    def __init__(self, client: "redis.asyncio.Redis", settings: Settings) -> None:
        self._redis, self._settings = client, settings
        self._create = client.register_script(script("create_batch"))

    async def create(self, record: BatchRecord, digest: str, seconds: float | None) -> BatchRecord:
        """Store a batch until its jobs have expired, of which the longest sound has so many seconds.

        Returns the record of an earlier request with the same id and digest. Raises IdempotencyConflict.
        """
        members = [[member.name, member.job_id, _dump(member.error)] for member in record.members]
        tree = {"caller": record.caller, "created_at": record.created_at, "members": members, "model": record.model}
        with map_redis_errors():
            outcome, *stored = await self._create(
                keys=[contract.batch_key(record.id)], args=[json.dumps(tree), digest, job_ttl(self._settings, seconds)]
            )
        if outcome == b"conflict":
            raise IdempotencyConflict("This Idempotency-Key was used with another request; use a new key.")
        return _parse(record.id, stored[0]) if stored else record

    async def get(self, batch_id: str) -> BatchRecord:
        """Raises BatchNotFound."""
        with map_redis_errors():
            text = await cast(Any, self._redis.hget(contract.batch_key(batch_id), "record"))
        if text is None:
            raise BatchNotFound(f"There is no batch {batch_id}, or it has expired.")
        return _parse(batch_id, text)

    async def states(self, record: BatchRecord) -> list[MemberState]:
        """The state of each member, in their order."""
        ids = [member.job_id for member in record.members if member.job_id]
        with map_redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hmget(contract.job_key(job_id), "status", "error")
                    pipe.exists(contract.tombstone_key(job_id))
                replies = iter(await pipe.execute())
        states = []
        for member in record.members:
            if not member.job_id:
                states.append(MemberState("failed", member.error))
                continue
            (status, error), existed = next(replies), next(replies)
            missing = "expired" if existed else "missing"
            states.append(MemberState(status.decode() if status else missing, _load(json.loads(error or b"null"))))
        return states

    async def delete(self, batch_id: str) -> None:
        """Delete the record; the jobs stay."""
        with map_redis_errors():
            await self._redis.delete(contract.batch_key(batch_id))


def _dump(error: ErrorInfo | None) -> dict[str, str] | None:
    return error.model_dump() if error else None


def _load(error: dict[str, str] | None) -> ErrorInfo | None:
    if error is None:
        return None
    return ErrorInfo(code=error["code"], title=error.get("title", ""), detail=error["detail"])


def _parse(batch_id: str, text: bytes) -> BatchRecord:
    tree = json.loads(text)
    members = tuple(MemberRecord(name, job_id, _load(error)) for name, job_id, error in tree["members"])
    return BatchRecord(batch_id, tree["caller"], tree["created_at"], members, tree.get("model"))
