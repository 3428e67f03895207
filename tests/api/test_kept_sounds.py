"""`keep_sound`: the sound of a job can be read as long as its result, and no longer."""

import base64
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import redis

from otoscope.errors import AudioCorrupt
from shared import contract
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, wav
from tests.api.test_auth import SecuredGateway
from tests.support.sounds import chirp, encode

KEEP = {"keep_sound": "true"}


@pytest.fixture
def sharing(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> httpx2.Client:
    """A client of a gateway that keeps sounds."""
    return start_gateway(share_sounds=True)


def submit(http: httpx2.Client, sound: bytes = wav(), name: str = "dog.wav", **options: str) -> str:
    answer = http.post("/v1/jobs", files={"file": (name, sound)}, data=options)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def audio_of(http: httpx2.Client, job_id: str) -> httpx2.Response:
    return http.get(f"/v1/jobs/{job_id}/audio")


def test_a_kept_sound_is_returned_as_it_was_submitted(sharing: httpx2.Client, worker: FakeWorker) -> None:
    """In every form of a submission and in every state of the job; for a browser a file to save, of the kind that was
    recognised, also by its name: a program or a page with some frames of MP3 in it would be saved as one."""
    sound = encode(chirp(0.5, 8_000), 8_000, "FLAC", "PCM_16")
    encoded = base64.b64encode(sound).decode()
    answers = [
        sharing.post("/v1/jobs", files={"file": ("a dog.html", sound, "text/html")}, data=KEEP),
        sharing.post("/v1/jobs", json={"audio_data": encoded, "keep_sound": True}),
        sharing.post("/v1/jobs", content=sound, params=KEEP, headers={"Content-Type": "audio/wav"}),
    ]
    for answer, name in zip(answers, ("a dog.html.flac", "sound.flac", "sound.flac"), strict=True):
        job_id = answer.json()["id"]
        for change in (lambda _: None, worker.start, worker.succeed):
            change(job_id)
            found = sharing.get(sharing.get(f"/v1/jobs/{job_id}").json()["links"]["audio"])
            assert (found.status_code, found.content) == (200, sound)
        assert found.headers["content-type"] == "audio/flac"
        assert found.headers["content-disposition"].startswith(f'attachment; filename="{name}"; ')
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-security-policy"].startswith("default-src 'none'")
        assert found.headers["cache-control"] == "private, no-store"
        assert sharing.head(f"/v1/jobs/{job_id}/audio").headers["content-length"] == str(len(sound))


def test_a_sound_in_a_container_of_a_newer_version_is_a_file_of_bytes(
    sharing: httpx2.Client, worker: FakeWorker, settings: Settings
) -> None:
    """Gateways are replaced one at a time."""
    job_id = submit(sharing, **KEEP)
    with redis.Redis.from_url(settings.redis_url) as raw:
        stored = raw.hget(contract.job_key(job_id), "audio") or b""
        raw.hset(contract.job_key(job_id), "audio", stored.replace(b'"WAV"', b'"WXYZ"'))  # type: ignore[union-attr]
    found = audio_of(sharing, job_id)
    assert (found.status_code, found.content) == (200, wav())
    assert found.headers["content-type"] == "application/octet-stream"
    assert 'filename="dog.wav.bin"' in found.headers["content-disposition"]


def test_other_sounds_are_deleted_when_their_jobs_end(
    sharing: httpx2.Client, worker: FakeWorker, settings: Settings
) -> None:
    """Those that were not to be kept, and those of jobs that failed, were cancelled or are deleted."""
    plain, failed, cancelled, deleted = submit(sharing), *(submit(sharing, **KEEP) for _ in range(3))
    assert audio_of(sharing, plain).json()["code"] == "part_not_found"
    worker.finish(plain)
    worker.fail(failed, AudioCorrupt("no"))
    worker.finish(deleted)
    for job_id in (cancelled, deleted):
        assert sharing.delete(f"/v1/jobs/{job_id}").status_code == 204
    statuses = {job_id: audio_of(sharing, job_id).json()["code"] for job_id in (plain, failed, cancelled, deleted)}
    assert statuses == dict.fromkeys((plain, failed, cancelled), "part_not_found") | {deleted: "job_not_found"}
    for job_id in (plain, failed, cancelled):
        assert "audio" not in sharing.get(f"/v1/jobs/{job_id}").json()["links"]
    with redis.Redis.from_url(settings.redis_url) as raw:
        assert raw.exists(*map(contract.audio_key, statuses)) == 0


def test_a_kept_sound_expires_with_its_result(start_gateway: Callable[..., httpx2.Client], settings: Settings) -> None:
    """At the same time, however long the job has waited."""
    changed = {"share_sounds": True, "result_ttl": 10}
    http, worker = start_gateway(**changed), FakeWorker(settings.model_copy(update=changed))
    worker.announce()
    job_id = submit(http, **KEEP)
    with redis.Redis.from_url(settings.redis_url) as raw:
        assert raw.ttl(contract.audio_key(job_id)) > 100  # deadline and result_ttl
        worker.finish(job_id)
        lives = [raw.pttl(key(job_id)) for key in (contract.audio_key, contract.result_key, contract.job_key)]
        assert all(9_000 < life <= 10_000 for life in lives), lives  # type: ignore[operator]
        for key in (contract.audio_key, contract.result_key, contract.job_key):
            raw.pexpire(key(job_id), 1)
    time.sleep(0.05)
    assert audio_of(http, job_id).json()["code"] == "job_expired"
    worker.close()


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches"])
def test_a_service_that_keeps_no_sounds_refuses(http: httpx2.Client, worker: FakeWorker, path: str) -> None:
    """By default, at once and without a job; `/v1/limits` says so."""
    answer = http.post(path, files=[("file", wav()), ("file", wav())][: 1 + path.endswith("es")], data=KEEP)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "keeps no sounds" in answer.json()["detail"]
    assert http.get("/v1/limits").json()["share_sounds"] is False
    assert http.post(path, files=[("file", wav())], data={"keep_sound": "false"}).status_code == 202


def test_a_sound_by_address_is_not_kept(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """The gateway never has it."""
    http = start_gateway(share_sounds=True, sound_sources="https://media.example.org")
    answer = http.post("/v1/jobs", json={"audio_url": "https://media.example.org/dog.wav", "keep_sound": True})
    assert answer.status_code == 422
    assert "is not kept" in answer.json()["detail"]


def test_the_sounds_of_a_batch_are_kept(sharing: httpx2.Client, worker: FakeWorker) -> None:
    """Each with its own job."""
    sounds, buffer = {"a.wav": wav(0.5), "b.wav": wav(0.7)}, io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, sound in sounds.items():
            archive.writestr(name, sound)
    headers = {"Content-Type": "application/zip"}
    batch = sharing.post("/v1/batches", params=KEEP, content=buffer.getvalue(), headers=headers).json()
    for member in batch["members"]:
        worker.finish(member["id"])
        assert audio_of(sharing, member["id"]).content == sounds[member["name"]]


def test_only_who_may_read_the_result_hears_the_sound(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, tmp_path: Path
) -> None:
    """The owner and an administrator."""
    secured = SecuredGateway(start_gateway, tmp_path / "keys")
    job_id = secured.submit("one", data=KEEP).json()["id"]
    worker.finish(job_id)
    path = f"/v1/jobs/{job_id}/audio"
    statuses = {name: secured.ask(name, "GET", path).status_code for name in ("one", "admin", "two", "submits", None)}
    assert statuses == {"one": 200, "admin": 200, "two": 404, "submits": 403, None: 401}


def test_a_repeated_request_that_keeps_the_sound_is_another_one(sharing: httpx2.Client, worker: FakeWorker) -> None:
    """Its answer would promise what the first one has not done."""
    headers = {"Idempotency-Key": "one"}
    first = sharing.post("/v1/jobs", files={"file": wav()}, headers=headers)
    again = sharing.post("/v1/jobs", files={"file": wav()}, data=KEEP, headers=headers)
    assert (first.status_code, again.json()["code"]) == (202, "idempotency_conflict")


def test_a_caller_whose_sound_cannot_be_kept_can_submit_it_without(
    sharing: httpx2.Client, worker: FakeWorker, settings: Settings
) -> None:
    """At once: that there is no memory for kept sounds says nothing about other jobs."""
    with redis.Redis.from_url(settings.redis_url) as raw:
        try:
            raw.config_set("maxmemory", int(raw.info("memory")["used_memory"] * 1.6))  # type: ignore[index]
            refused, accepted = (sharing.post("/v1/jobs", files={"file": wav()}, data=data) for data in (KEEP, {}))
        finally:
            raw.config_set("maxmemory", 0)
    assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
    assert accepted.status_code == 202, accepted.text
