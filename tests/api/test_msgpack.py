"""A job as MessagePack: the document that JSON has, with the result as it is stored."""

from collections.abc import Callable

import httpx2
import msgpack
import pytest

from api.rendering.json_arrays import PIECE_BYTES
from otoscope.errors import InferenceFailed
from otoscope.results import unpack_result
from shared.contract import result_key
from tests.api.conftest import StandInWorker, wav

MSGPACK = {"Accept": "application/msgpack"}


def stored(worker: StandInWorker, job_id: str) -> bytes:
    packed = worker._client.get(result_key(job_id))
    assert isinstance(packed, bytes)
    return packed


def test_the_answer_to_a_submission(http: httpx2.Client, busy_worker: StandInWorker) -> None:
    """With `Prefer: wait`: everything in one exchange, and not one array unpacked on the way."""
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


def test_jobs_in_every_state(http: httpx2.Client, worker: StandInWorker) -> None:
    """Waiting, running, failed and finished ones are read as well, without a result where there is none."""
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
        told = msgpack.unpackb(answer.content)
        assert told["status"] == status
        assert told.keys() == plain.keys()
        assert {**told, "result": None} == {**plain, "result": None}
        assert answer.headers["vary"] == "Accept"


def test_a_large_result_is_sent_whole(http: httpx2.Client, worker: StandInWorker) -> None:
    """However many pieces it takes."""
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
def test_which_is_sent_says_accept(http: httpx2.Client, worker: StandInWorker, accept: str, kind: str) -> None:
    """The best of what there is; JSON where the choice is left."""
    answer = http.post("/v1/jobs", files={"file": wav()}, headers={"Accept": accept})
    assert answer.headers["content-type"] == kind
    assert http.get(answer.headers["location"], headers={"Accept": accept}).headers["content-type"] == kind


@pytest.mark.parametrize("accept", ["application/x-npz", "text/html", "application/json;q=0"])
def test_what_cannot_be_sent_is_said_before_anything_is_stored(
    http: httpx2.Client, worker: StandInWorker, redis_keys: Callable[[], set[bytes]], accept: str
) -> None:
    """406 with what there is; an NPZ holds arrays, which a job may not have."""
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
