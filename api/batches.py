"""The use cases of batches: submit many sounds, read their states, follow them, cancel them."""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from api.http.archives import Member
from api.http.problems import error_info
from api.http.uploads import Upload, by_address, describe_audio
from api.middleware.auth import Caller
from api.notifications import RETRY_SECONDS, UNFINISHED
from api.service import Gateway
from api.threads import in_upload_thread
from otoscope.errors import (
    AudioError,
    BatchNotFound,
    Busy,
    InvalidBase64,
    InvalidRequest,
    JobExpired,
    JobNotFound,
    ModelNotFound,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    UrlNotAllowed,
)
from otoscope.types import AudioInfo, ErrorInfo, JobOptions
from shared.api_keys import Scope
from shared.audio.headers import limited_steps
from shared.contract import at_server, new_job_id
from shared.jobs.batches import BatchRecord, MemberRecord, MemberState
from shared.jobs.sharded_store import ShardedBatchStore

_MEMBERS_A_SECOND = 500  # in the events of one batch, at most
_MAX_STEPS = 5_000_000  # of the header readers, for all sounds of a batch: a few seconds
_TOO_MANY_UNITS = "The sounds of the batch have too many frames, blocks or tags; send several batches."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchState:
    record: BatchRecord
    states: list[MemberState]

    @property
    def finished(self) -> bool:
        """Whether no member is queued or running."""
        return not any(state.status in UNFINISHED for state in self.states)


@dataclass(frozen=True)
class _Checked:
    records: list[MemberRecord]
    digest: str  # of the options and all sounds
    longest: float | None  # seconds


@dataclass(frozen=True)
class _CheckedSound:
    audio: AudioInfo | ErrorInfo
    digest: bytes  # of its name and content


class Batches:
    """Every sound of a batch becomes a normal job of the caller, with its turn, its limits and its deadline."""

    def __init__(self, gateway: Gateway, store: ShardedBatchStore) -> None:
        self._gateway, self._store = gateway, store

    async def submit(
        self, members: list[Member], options: JobOptions, caller: Caller, idempotency_key: str | None
    ) -> BatchState:
        """Store the batch, then submit its jobs, all on one Redis server. A sound that cannot be read fails alone.

        A repeated request with the same Idempotency-Key submits what is missing. Raises QueueFull where the queue has
        no place for all of them, InvalidRequest where it never has, and what `Gateway.submit` does. Once a job was
        accepted, and unless the caller will repeat the request with its key, the batch is returned as far as it is
        known, since the caller would not learn its id.
        """
        gateway, settings = self._gateway, self._gateway.settings
        card = await gateway.catalogue.resolve(options.model)
        gateway.check_options(card, options)  # before anything is stored
        if len(members) > (places := math.ceil(settings.queue_limit * settings.caller_share)):
            raise InvalidRequest(f"The batch has {len(members)} sounds; the queue holds {places} of one caller.")
        if idempotency_key:
            digest = hashlib.sha256(f"batch\0{caller.name}\0{idempotency_key}".encode()).hexdigest()
            server = gateway.store.server_of_key(digest)
            batch_id = at_server(digest[:32], server)
        else:
            server = await gateway.store.server_with_places(card.name, options, len(members))
            batch_id = new_job_id(server)
        checked = await self._check(members, options, server)
        record = BatchRecord(batch_id, caller.name, time.time(), tuple(checked.records), card.name)
        record = await self._store.create(record, checked.digest, checked.longest)
        state = BatchState(record, await self._store.states(record))
        options = options.model_copy(update={"model": record.model or options.model})  # the default one may change
        accepted = 0
        for index, (member, stored) in enumerate(zip(members, record.members, strict=True)):
            if not stored.job_id or state.states[index].status != "missing":
                continue
            upload = await in_upload_thread(self._read, member, options)
            try:
                await gateway.submit(upload, caller, job_id=stored.job_id, exact=True)
            except (Busy, ModelNotFound) as error:
                if not accepted or (idempotency_key and not isinstance(error, QueueFull | ModelNotFound)):
                    raise
                break  # the rest is missing, and can be submitted by repeating the request
            state.states[index] = MemberState("queued")
            accepted += 1
            if accepted > 1:  # the request itself was counted as one
                caller.charge(1)
        log.info("batch", extra={"batch": record.id, "caller": caller.name, "jobs": accepted})
        try:
            return BatchState(record, await self._store.states(record))
        except StoreUnavailable:
            if idempotency_key:
                raise  # the request can be repeated
            return state

    async def _check(self, members: list[Member], options: JobOptions, server: int) -> _Checked:
        """Every sound is read here and once more when its job is submitted. The record, with the refused sounds and the
        digest of all of them, has to be stored before the first job, so that a repeated request finds it; keeping the
        sounds from here on would take the memory of eight uploads. Between two sounds, other uploads are checked."""
        records, digest, longest = [], hashlib.sha256(options.model_dump_json(exclude_defaults=True).encode()), None
        with limited_steps(_MAX_STEPS, _TOO_MANY_UNITS):
            for member in members:
                checked = await in_upload_thread(self._check_sound, member, options)
                if isinstance(checked.audio, ErrorInfo):
                    records.append(MemberRecord(member.name, "", checked.audio))
                else:
                    longest = max(longest or 0.0, checked.audio.duration or 0.0)
                    records.append(MemberRecord(member.name, new_job_id(server)))
                digest.update(checked.digest)
        return _Checked(records, digest.hexdigest(), longest)

    def _check_sound(self, member: Member, options: JobOptions) -> _CheckedSound:
        body = b""
        audio: AudioInfo | ErrorInfo
        try:
            body = member.read()
            audio = self._read(member, options, body).audio
        except (AudioError, InvalidBase64, InvalidRequest, PayloadTooLarge, UrlNotAllowed) as error:
            audio = error_info(error)
        return _CheckedSound(audio, hashlib.sha256(f"{member.name}\0".encode() + body).digest())

    def _read(self, member: Member, options: JobOptions, body: bytes | None = None) -> Upload:
        """A sound with what its header states; `body` is its content where that has been read."""
        settings = self._gateway.settings
        if member.url:
            return by_address(member.url, options, settings, member.name)
        body = member.read() if body is None else body
        return Upload(body, describe_audio(body, member.name, settings.audio_limits, options), options)

    async def get(self, batch_id: str, caller: Caller) -> BatchState:
        """A batch of the caller. Raises BatchNotFound or StoreUnavailable."""
        record = await self._store.get(batch_id)
        if Scope.ADMIN not in caller.scopes and record.caller != caller.name:
            raise BatchNotFound(f"There is no batch {batch_id}, or it has expired.")
        return BatchState(record, await self._store.states(record))

    async def changes(self, state: BatchState, keepalive: float) -> AsyncIterator[BatchState | None]:
        """The batch now and after changes, until it is finished; None after `keepalive` seconds without one, and while
        its server is unavailable. Changes in quick succession are one: each event has the whole batch."""
        ids = [member.job_id for member in state.record.members if member.job_id]
        with self._gateway.notifications.subscribe(*ids) as subscription:
            before: list[MemberState] | None = None
            while True:
                try:
                    state = BatchState(state.record, await self._store.states(state.record))
                except StoreUnavailable:
                    yield None
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if state.states != before:
                    yield state
                if state.finished:
                    return
                before = state.states
                await asyncio.sleep(len(ids) / _MEMBERS_A_SECOND)
                if not await subscription.wait(keepalive):
                    yield None

    async def cancel(self, batch_id: str, caller: Caller) -> None:
        """Cancel the unfinished jobs; of a finished batch, delete its jobs and its record."""
        state = await self.get(batch_id, caller)
        for member, known in zip(state.record.members, state.states, strict=True):
            exists = member.job_id and known.status not in ("missing", "expired")
            if exists and (state.finished or known.status in UNFINISHED):
                with suppress(JobNotFound, JobExpired):  # since the states were read
                    await self._gateway.store.cancel(member.job_id)
        if state.finished:
            await self._store.delete(batch_id)
