"""The calls of /v1/batches: many sounds in few requests, whose jobs are followed with one stream of events."""

import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from otoscope.audio import AudioInput, printable
from otoscope.calls import Options, call_timeout, exchange, form_fields, limits, quoted_id
from otoscope.errors import BY_CODE, InvalidRequest, NotAudio, OtoscopeError, PayloadTooLarge
from otoscope.events import EventStream
from otoscope.responses import parse_model, parse_response
from otoscope.sansio import Flow, LoadAudio, Request, SendRequest
from otoscope.types import MAX_BATCH, Batch, BatchResult

NamedSound = tuple[str, bytes]

_MOST_BYTES = 8 * 2**20  # of one request of `classify_many`, or what the service accepts: results come in such steps


@dataclass(frozen=True)
class Classified:
    """What became of one sound of many: its result, or its error."""

    name: str
    member: BatchResult | None = None
    error: OtoscopeError | OSError | TypeError | ValueError | None = None


def submit(sounds: Sequence[NamedSound], options: Options, timeout: float) -> Flow[Batch]:
    """POST /v1/batches. All sounds together may be as large as one upload. Raises InvalidRequest if there are none."""
    if not sounds:
        raise InvalidRequest("There are no sounds.")
    key = options.get("idempotency_key") or uuid.uuid4().hex
    files = [("file", sound) for sound in sounds]
    request = Request(
        "POST",
        "/v1/batches",
        headers={"Idempotency-Key": key},
        data=form_fields(options),
        files=files,
        read_timeout=60.0,
    )
    response = yield from exchange(SendRequest(request), time.monotonic() + call_timeout(options, timeout))
    return parse_response(Batch, response)


def wait(batch_id: str, timeout: float | None, *, reached: bool = False) -> Flow[Batch]:
    """The batch once no job of it is queued or running; raises WaitTimeout. Reconnects when the stream breaks, and from
    the beginning where the service was `reached` before."""
    events = EventStream(_path(batch_id), f"batch {batch_id}", timeout, reached=reached)
    while True:
        event = yield from events.next()
        if event is not None and event.event == "finished":
            return parse_model(Batch, event.data)


def results(batch_id: str, timeout: float) -> Flow[list[BatchResult]]:
    """GET /v1/batches/{id}/results: of every sound the result, as far as it is finished."""
    request = Request("GET", f"{_path(batch_id)}/results", headers={"Accept": "application/x-ndjson"})
    response = yield from exchange(SendRequest(request), time.monotonic() + timeout)
    return [parse_model(BatchResult, line) for line in response.text.splitlines() if line]


def classify_many(
    sounds: Iterable[AudioInput], rate: int | None, options: Options, timeout: float
) -> Flow[list[Classified]]:
    """What became of each sound, in their order; a bad one fails alone. Raises what concerns all of them.

    Each request has up to 256 sounds; `timeout` is for one of them.
    """
    if isinstance(sounds, str | os.PathLike | bytes | bytearray | memoryview):
        raise TypeError("classify_many takes several sounds, such as a list of paths; classify takes one")
    accepted = (yield from limits(timeout)).max_upload_bytes
    most = min(_MOST_BYTES, accepted)
    found: list[Classified | None] = []
    waiting: list[tuple[int, NamedSound]] = []
    for index, sound in enumerate(sounds):
        found.append(None)
        try:
            name, body = yield LoadAudio(sound, rate)
        except (OSError, TypeError, ValueError) as error:
            found[index] = Classified(_name_of(sound), error=error)
            continue
        if refusal := refusal_of(body, accepted):
            found[index] = Classified(name, error=refusal)
            continue
        if waiting and (len(waiting) == MAX_BATCH or sum(len(each[1][1]) for each in waiting) + len(body) > most):
            yield from _finish(waiting, found, options, timeout)
        waiting.append((index, (name, body)))
    if waiting:
        yield from _finish(waiting, found, options, timeout)
    return [each for each in found if each is not None]


def _finish(
    waiting: list[tuple[int, NamedSound]], found: list[Classified | None], options: Options, timeout: float
) -> Flow[None]:
    """Classify the sounds that wait, and empty the list."""
    classified = yield from classify_group([sound for _, sound in waiting], options, timeout)
    for (index, _), each in zip(waiting, classified, strict=True):
        found[index] = each
    waiting.clear()


def classify_group(sounds: Sequence[NamedSound], options: Options, timeout: float) -> Flow[list[Classified]]:
    """What became of each of up to 256 sounds. Their jobs have deadlines, so that no other one is needed.

    Raises the error of the first request. That of a repeated one is the error of the sounds that are still missing.
    """
    named = [(safe_name(name), body) for name, body in sounds]
    keyed: Options = {**options, "idempotency_key": uuid.uuid4().hex}
    batch, refused = (yield from _submit_and_wait(named, keyed, timeout)), None
    for _ in sounds[1:]:
        if "missing" not in batch.counts:
            break
        try:  # a repeated request submits those for which the queue had no place
            batch = yield from _submit_and_wait(named, keyed, timeout)
        except OtoscopeError as error:
            refused = error
            break
    members = yield from results(batch.id, timeout)
    if len(members) != len(sounds):
        raise OtoscopeError(f"The batch has {len(members)} sounds; {len(sounds)} were sent.")
    return [_classified(name, member, refused) for (name, _), member in zip(sounds, members, strict=True)]


def _submit_and_wait(sounds: Sequence[NamedSound], options: Options, timeout: float) -> Flow[Batch]:
    batch = yield from submit(sounds, options, timeout)
    return batch if batch.finished else (yield from wait(batch.id, None, reached=True))


def refusal_of(body: bytes, accepted: int) -> OtoscopeError | None:
    """Why a sound cannot be part of a batch, which the service would refuse as a whole."""
    if len(body) > accepted:
        return PayloadTooLarge(f"The sound has {len(body):,} bytes; the service accepts {accepted:,}.")
    return NotAudio("The file is a ZIP archive, and no sound.") if body.startswith(b"PK") else None


def safe_name(name: str) -> str:
    """A file name that the service accepts: what it takes for a way out of a directory is replaced."""
    kept = "".join(char if char.isprintable() and char not in '/\\:"' else "_" for char in name)
    return kept.strip(". ")[-200:] or "sound"


def _classified(name: str, member: BatchResult, refused: OtoscopeError | None) -> Classified:
    """`refused` is the error of a sound that is missing."""
    if member.result is not None:
        return Classified(name, member)
    if member.error is not None:
        return Classified(name, member, BY_CODE.get(member.error.code, OtoscopeError)(member.error.detail))
    if refused is not None and member.status == "missing":
        return Classified(name, member, refused)
    return Classified(name, member, OtoscopeError(f"The sound has the status {member.status!r} and no result."))


def _name_of(sound: AudioInput) -> str:
    return printable(str(sound)) if isinstance(sound, str) else getattr(sound, "name", None) or "sound"


def _path(batch_id: str) -> str:
    return f"/v1/batches/{quoted_id(batch_id)}"
