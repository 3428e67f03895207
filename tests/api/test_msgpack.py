"""A job as MessagePack: the same document as in JSON, with the result as it is stored."""

from collections.abc import Callable

import httpx2
import msgpack
import pytest

from api.rendering.json_arrays import PIECE_BYTES
from otoscope.errors import InferenceFailed
from otoscope.results import unpack_result
from shared.contract import result_key
from tests.api.conftest import FakeWorker, wav

MSGPACK = {"Accept": "application/msgpack"}


def stored(worker: FakeWorker, job_id: str) -> bytes:
    packed = worker._client.get(result_key(job_id))
    assert isinstance(packed, bytes)
    return packed


def test_the_response_to_a_submission(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """With `Prefer: wait`: everything in one response, without unpacking an array."""
    answer = http.post(
        "/v1/jobs",
        files={"file": wav()},
        data={"include": "maps,spectrogram"},
        headers={**MSGPACK, "Prefer": "wait=20"},
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/msgpack")
    job = msgpack.unpackb(answer.content)
    packed = stored(busy_worker, job["id"])
    assert answer.content.endswith(packed)
    assert job.pop("result") == msgpack.unpackb(packed)
    assert list(unpack_result(packed).maps) == ["stem", "layer1.block1", "layer1"]
    plain = http.get(f"/v1/jobs/{job['id']}").json()
    del plain["result"]
    assert job == plain


def test_jobs_of_every_status(http: httpx2.Client, worker: FakeWorker) -> None:
    """Queued, failed and succeeded, with a null result where there is none."""
    queued = http.post("/v1/jobs", files={"file": wav()}, headers=MSGPACK)
    assert queued.status_code == 202
    job = msgpack.unpackb(queued.content)
    assert (job["status"], job["queue_position"], job["result"]) == ("queued", 1, None)
    failed = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    worker.fail(failed, InferenceFailed("broken"))
    worker.finish(job["id"])
    for job_id, status in ((job["id"], "succeeded"), (failed, "failed")):
        url = f"/v1/jobs/{job_id}"
        answer, plain = http.get(url, headers=MSGPACK), http.get(url).json()
        packed_job = msgpack.unpackb(answer.content)
        assert packed_job["status"] == status
        assert packed_job.keys() == plain.keys()
        assert {**packed_job, "result": None} == {**plain, "result": None}
        assert answer.headers["vary"] == "Accept"


def test_a_large_result_is_sent_completely(http: httpx2.Client, worker: FakeWorker) -> None:
    """In several pieces."""
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    worker.finish(job_id)
    large = msgpack.packb({**msgpack.unpackb(stored(worker, job_id)), "more": bytes(3 * PIECE_BYTES)})
    worker._client.set(result_key(job_id), large)
    answer = http.get(f"/v1/jobs/{job_id}", headers=MSGPACK)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.content.endswith(large)
    assert len(msgpack.unpackb(answer.content)["result"]["more"]) == 3 * PIECE_BYTES


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/msgpack;q=0.5, application/json;q=0.4", "application/msgpack"),
        ("application/msgpack;q=0.4, application/json", "application/json"),
        ("application/x-npz, application/msgpack;q=0.1", "application/msgpack"),
        ("application/x-npz, */*;q=0.1", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_accept_selects_the_representation(http: httpx2.Client, worker: FakeWorker, accept: str, kind: str) -> None:
    """The one with the highest q-value; JSON where the choice is left."""
    answer = http.post("/v1/jobs", files={"file": wav()}, headers={"Accept": accept})
    assert answer.headers["content-type"] == kind
    assert http.get(answer.headers["location"], headers={"Accept": accept}).headers["content-type"] == kind


@pytest.mark.parametrize("accept", ["application/x-npz", "text/html", "application/json;q=0"])
def test_not_acceptable_is_found_before_anything_is_stored(
    http: httpx2.Client, worker: FakeWorker, redis_keys: Callable[[], set[bytes]], accept: str
) -> None:
    """406 lists the media types; there is no NPZ of a job, since a job may have no arrays."""
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    before = redis_keys()
    for answer in (
        http.post("/v1/jobs", files={"file": wav()}, headers={"Accept": accept}),
        http.get(f"/v1/jobs/{job_id}", headers={"Accept": accept}),
    ):
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (406, "not_acceptable")
        assert problem["detail"].endswith("available are application/json, application/msgpack.")
    assert redis_keys() == before
