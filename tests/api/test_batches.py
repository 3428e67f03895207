"""/v1/batches: many sounds in one request, each a job of its own."""

import base64
import csv
import io
import json
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from api.middleware.rate_limit import RateLimiter
from otoscope.types import Batch
from shared.api_keys import Key, Scope
from tests.api.conftest import FakeWorker, wav

SOUND, OTHER = wav(0.2), wav(0.3)
ZIP = {"content-type": "application/zip"}


def archive(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, body in members:
            file.writestr(name, body)
    return buffer.getvalue()


def encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


MIXED = archive(
    ("cats/a.wav", SOUND), ("cats/", b""), ("__MACOSX/._a.wav", b"x"), ("b.wav", OTHER), ("c.txt", b"hello")
)
FORMS: dict[str, dict[str, Any]] = {
    "ZIP": {"content": MIXED, "headers": ZIP, "params": {"top_k": 1}},
    "ZIP in a form": {"files": {"file": ("a.zip", MIXED)}, "data": {"top_k": "1"}},
    "several files": {
        "files": [("file", ("cats/a.wav", SOUND)), ("file", ("b.wav", OTHER)), ("file", ("c.txt", b"hello"))],
        "data": {"top_k": "1"},
    },
    "JSON": {
        "json": {
            "sounds": [
                {"name": "cats/a.wav", "audio_data": encoded(SOUND)}, {"name": "b.wav", "audio_data": encoded(OTHER)},
                {"name": "c.txt", "audio_data": encoded(b"hello")},
            ],
            "top_k": 1, "model": None,
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_sound_becomes_a_job(http: httpx2.Client, worker: FakeWorker, form: str) -> None:
    """With the options of the batch; what is no sound fails alone, and its error is in the batch."""
    answer = http.post("/v1/batches", **FORMS[form])
    assert answer.status_code == 202, answer.text
    batch = Batch.model_validate(answer.json())
    assert answer.headers["location"] == batch.links["self"]
    assert [(each.name, each.status) for each in batch.members] == [
        ("cats/a.wav", "queued"), ("b.wav", "queued"), ("c.txt", "failed"),
    ]  # fmt: skip
    assert batch.members[2].error is not None
    assert batch.members[2].error.code == "not_audio"
    assert batch.counts == {"queued": 2, "failed": 1}
    work = worker.start(batch.members[1].id or "")
    assert (work.audio, work.options.top_k) == (OTHER, 1)
    assert http.get(f"/v1/jobs/{batch.members[0].id}").json()["audio"]["name"] == "cats/a.wav"


def test_results_as_lines_and_as_a_table(http: httpx2.Client, worker: FakeWorker) -> None:
    """One line for each sound, one row for each prediction, the refused sound with its error."""
    batch = http.post("/v1/batches", **FORMS["ZIP"]).json()
    worker.finish(batch["members"][0]["id"])
    answer = http.get(f"{batch['links']['results']}")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["status"] for line in lines] == ["succeeded", "queued", "failed"]
    assert lines[0]["result"]["predictions"][0]["class"] == "dog"
    assert lines[1]["result"] is None
    rows = list(csv.DictReader(io.StringIO(http.get(batch["links"]["results"] + "?format=csv").text)))
    assert [(row["file"], row["class"]) for row in rows] == [("cats/a.wav", "dog"), ("b.wav", ""), ("c.txt", "")]
    assert rows[2]["error"].startswith("not_audio: ")


def test_events_end_with_the_batch(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """Every event has the whole state, the last one is `finished`."""
    batch = http.post("/v1/batches", **FORMS["ZIP"]).json()
    text = http.get(batch["links"]["events"]).text
    events = [block.splitlines() for block in text.replace("\r\n", "\n").split("\n\n") if block]
    assert events[-1][0] == "event: finished"
    assert json.loads(events[-1][1].removeprefix("data: "))["counts"] == {"succeeded": 2, "failed": 1}


def test_cancel_and_delete(http: httpx2.Client, worker: FakeWorker) -> None:
    """Unfinished jobs are cancelled; a second request deletes the batch."""
    batch = http.post("/v1/batches", **FORMS["ZIP"]).json()
    worker.finish(batch["members"][0]["id"])
    assert http.delete(batch["links"]["self"]).status_code == 204
    state = http.get(batch["links"]["self"]).json()
    assert state["counts"] == {"succeeded": 1, "cancelled": 1, "failed": 1}
    assert state["finished"]
    assert http.delete(batch["links"]["self"]).status_code == 204
    missing = http.get(batch["links"]["self"])
    assert (missing.status_code, missing.json()["code"]) == (404, "batch_not_found")
    assert http.get(f"/v1/jobs/{batch['members'][0]['id']}").status_code == 404


def test_a_batch_that_is_deleted_twice_at_once(http: httpx2.Client, worker: FakeWorker) -> None:
    """Each request deletes what the other one has left: a job that is gone ends neither."""
    batch = http.post("/v1/batches", files=[("file", (f"{number}.wav", SOUND)) for number in range(40)]).json()
    for member in batch["members"]:
        worker.finish(member["id"])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(http.delete, [batch["links"]["self"]] * 4))
    codes = {answer.json()["code"] for answer in answers if answer.status_code != 204}
    assert codes <= {"batch_not_found"}
    assert http.get(batch["links"]["self"]).json()["code"] == "batch_not_found"


@pytest.mark.parametrize(
    "options", [{"layer": "nowhere"}, {"cam_class": "unicorn"}, {"cell": "nowhere:0:0:0"}], ids=str
)
def test_options_that_the_model_cannot_fulfil_are_refused_before_anything_is_stored(
    http: httpx2.Client, worker: FakeWorker, options: dict[str, str], redis_keys: Callable[[], set[bytes]]
) -> None:
    """The record of a batch without jobs would stay as long as their results."""
    before = redis_keys()
    answer = http.post("/v1/batches", files=[("file", SOUND), ("file", OTHER)], data=options)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert redis_keys() == before


def test_a_repeated_request_submits_what_is_missing(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """With the same Idempotency-Key: the same batch, no job twice; another body is a conflict."""
    http = start_gateway(queue_limit=4, caller_share=0.5)
    http.post("/v1/jobs", content=SOUND, headers={"content-type": "audio/wav"}).raise_for_status()
    key = {"Idempotency-Key": "evening"}
    first = http.post("/v1/batches", content=MIXED.replace(b"c.txt", b"c.wav"), headers=ZIP | key)
    assert first.status_code == 422  # three sounds, two places
    body = archive(("a.wav", SOUND), ("b.wav", OTHER))
    first = http.post("/v1/batches", content=body, headers=ZIP | key)
    assert first.json()["counts"] == {"queued": 1, "missing": 1}, first.text
    worker.finish(first.json()["members"][0]["id"])
    second = http.post("/v1/batches", content=body, headers=ZIP | key)
    assert second.json()["counts"] == {"succeeded": 1, "queued": 1}
    assert [each["id"] for each in second.json()["members"]] == [each["id"] for each in first.json()["members"]]
    other = http.post("/v1/batches", content=archive(("a.wav", SOUND)), headers=ZIP | key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


def test_a_batch_has_one_model(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """The default one of its first request, also where a repeated one comes after the default has changed."""
    http = start_gateway(queue_limit=4, caller_share=0.5, default_model="first,second")
    worker.announce("second", "third")
    http.post("/v1/jobs", content=SOUND, headers={"content-type": "audio/wav"}).raise_for_status()
    key = {"Idempotency-Key": "morning"}
    body = archive(("a.wav", SOUND), ("b.wav", OTHER))
    before = http.post("/v1/batches", content=body, headers=ZIP | key).json()
    assert before["counts"] == {"queued": 1, "missing": 1}
    worker.finish(before["members"][0]["id"])
    worker.announce("first", "second", "third")
    while http.get("/v1/models").json()["default"] != "first":
        time.sleep(0.1)
    after = http.post("/v1/batches", content=body, headers=ZIP | key).json()
    assert after["counts"] == {"succeeded": 1, "queued": 1}
    assert {http.get(f"/v1/jobs/{each['id']}").json()["model"] for each in after["members"]} == {"second"}


def encrypted() -> bytes:
    body = bytearray(archive(("a.wav", SOUND), method=zipfile.ZIP_STORED))
    body[6] |= 1
    body[body.find(b"PK\x01\x02") + 8] |= 1
    return bytes(body)


def link() -> bytes:
    entry = zipfile.ZipInfo("a.wav")
    entry.external_attr = 0o120777 << 16
    return archive((entry, b"/etc/passwd"))


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "a bomb": (
        {"content": archive(*((f"{n}.wav", bytes(1_000_000)) for n in range(9))), "headers": ZIP}, 413,
        "payload_too_large",
    ),
    "one large member": ({"content": archive(("a.wav", bytes(2_000_000))), "headers": ZIP}, 413, "payload_too_large"),
    "nested": (
        {"content": archive(("a.wav", archive(("b.wav", SOUND)))), "headers": ZIP}, 422, "invalid_request",
    ),
    "gzip inside": ({"content": archive(("a.wav", b"\x1f\x8b" + bytes(99))), "headers": ZIP}, 422, "invalid_request"),
    "a path upwards": ({"content": archive(("../a.wav", SOUND)), "headers": ZIP}, 422, "invalid_request"),
    "an absolute path": ({"content": archive(("/etc/a.wav", SOUND)), "headers": ZIP}, 422, "invalid_request"),
    "a drive": ({"content": archive(("C:\\a.wav", SOUND)), "headers": ZIP}, 422, "invalid_request"),
    "control characters": ({"content": archive(("a\x1b[2J.wav", SOUND)), "headers": ZIP}, 422, "invalid_request"),
    "too many": (
        {"content": archive(*((f"{n}.wav", b"") for n in range(257))), "headers": ZIP}, 422, "invalid_request",
    ),
    "a directory of entries": (
        {"content": b"PK\x03\x04" + b"PK\x01\x02" * 9_999, "headers": ZIP}, 422, "invalid_request",
    ),
    "encrypted": ({"content": encrypted(), "headers": ZIP}, 422, "invalid_request"),
    "a link": ({"content": link(), "headers": ZIP}, 422, "invalid_request"),
    "bzip2": ({"content": archive(("a", SOUND), method=zipfile.ZIP_BZIP2), "headers": ZIP}, 422, "invalid_request"),
    "cut off": ({"content": MIXED[:-30], "headers": ZIP}, 422, "invalid_request"),
    "empty": ({"content": archive(), "headers": ZIP}, 422, "invalid_request"),
    "no archive": ({"content": SOUND, "headers": ZIP}, 422, "invalid_request"),
    "an address and a sound": (
        {"json": {"sounds": [{"audio_url": "https://a.example/b", "audio_data": ""}]}}, 422, "invalid_request",
    ),
    "neither": ({"json": {"sounds": [{"name": "a.wav"}]}}, 422, "invalid_request"),
    "a name upwards in JSON": (
        {"json": {"sounds": [{"name": "../a", "audio_data": ""}]}}, 422, "invalid_request",
    ),
    "no list": ({"json": {"sounds": "a.wav"}}, 422, "invalid_request"),
    "an unknown model": ({"content": MIXED, "headers": ZIP, "params": {"model": "nope"}}, 404, "model_not_found"),
    "a page": ({"content": b"<html>", "headers": {"content-type": "text/html"}}, 415, "unsupported_media_type"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_batch_is_refused_as_a_whole(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, redis_keys: Callable[[], set[bytes]], name: str
) -> None:
    """With a 4xx, and nothing is stored."""
    http = start_gateway(max_upload_bytes=1_000_000)
    arguments, status, code = REFUSED[name]
    before = redis_keys()
    answer = http.post("/v1/batches", **arguments)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert redis_keys() == before


def test_a_damaged_member_fails_alone(http: httpx2.Client, worker: FakeWorker) -> None:
    """Its checksum is wrong; the other sounds are classified."""
    body = bytearray(archive(("a.wav", SOUND), ("b.wav", OTHER), method=zipfile.ZIP_STORED))
    body[200] ^= 0xFF
    batch = http.post("/v1/batches", content=bytes(body), headers=ZIP).json()
    assert [each["status"] for each in batch["members"]] == ["failed", "queued"]
    assert "CRC" in batch["members"][0]["error"]["detail"]


def test_the_sounds_of_a_batch_count_towards_the_rate_limit() -> None:
    """The batch itself is accepted; the next submission waits for the whole of it."""
    now = 0.0
    limiter, key = (
        RateLimiter(lambda: now),
        Key(
            id="0" * 8,
            name="n",
            sha256="0" * 64,
            scopes=frozenset(Scope),
            rate_per_minute=60,
            created_at=datetime.now(UTC),
        ),
    )
    assert limiter.acquire(key) == 0
    limiter.charge(key, 119)
    assert limiter.acquire(key) == 61
