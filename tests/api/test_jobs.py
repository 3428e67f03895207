"""Submitting, reading, waiting for and cancelling jobs."""

import base64
import threading
import time
from collections.abc import Callable

import httpx2
import msgpack
import numpy as np
import pytest

from api.rejections import TTL_SECONDS as REJECTION_SECONDS
from otoscope.errors import InferenceFailed
from otoscope.results import unpack_result
from otoscope.types import Job, ResultJSON
from tests.api.conftest import LAYERS, FakeWorker, wav

Start = Callable[..., httpx2.Client]


def submit(http: httpx2.Client, **options: str) -> dict[str, object]:
    answer = http.post("/v1/jobs", files={"file": ("tone.wav", wav())}, data=options)
    assert answer.status_code == 202, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_submission_answers_202_with_the_job(http: httpx2.Client, worker: FakeWorker) -> None:
    """202, Location, Retry-After and the job itself, before a worker has claimed it."""
    answer = http.post("/v1/jobs", files={"file": ("tone.wav", wav())})
    job = Job.model_validate(answer.json())
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job.id}"
    assert answer.headers["retry-after"] == "1"
    assert (job.status, job.model, job.queue_position) == ("queued", "tiny", 1)
    assert job.audio.model_dump() == {
        "name": "tone.wav", "bytes": len(wav()), "container": "WAV", "codec": "PCM 16 bit", "sample_rate": 8_000,
        "channels": 1, "duration": 1.5, "url": None,
    }  # fmt: skip


def test_three_forms_carry_the_same_bytes_and_options(http: httpx2.Client, worker: FakeWorker) -> None:
    """Form field, base64 in JSON and raw body are equivalent."""
    encoded = base64.b64encode(wav()).decode()
    answers = [
        http.post("/v1/jobs", files={"file": ("a.wav", wav())}, data={"top_k": "2", "include": "cam,windows"}),
        http.post("/v1/jobs", json={"audio_data": encoded, "top_k": 2, "include": ["cam", "windows"]}),
        http.post(
            "/v1/jobs", content=wav(), headers={"content-type": "audio/wav"},
            params={"top_k": 2, "include": ["cam", "windows"]},
        ),
    ]  # fmt: skip
    works = [worker.start(answer.json()["id"]) for answer in answers]
    assert all(work.audio == wav() for work in works)
    assert all(work.options == works[0].options for work in works)
    assert works[0].options.top_k == 2


def test_layer_must_be_one_of_the_model(
    http: httpx2.Client, worker: FakeWorker, redis_keys: Callable[[], set[bytes]]
) -> None:
    """A known layer is passed to the worker; an unknown one is refused with a list of known ones."""
    assert worker.start(str(submit(http, layer="layer1.block1")["id"])).options.layer == "layer1.block1"
    before = redis_keys()
    answer = http.post("/v1/jobs", files={"file": wav()}, data={"layer": "layer9", "model": "tiny"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert all(word in answer.json()["detail"] for word in ("'layer9'", "tiny", *LAYERS))
    assert redis_keys() == before


@pytest.mark.parametrize("prefix", ["", "data:audio/wav;base64,"])
def test_base64_may_hold_line_breaks_and_a_data_url_prefix(
    http: httpx2.Client, worker: FakeWorker, prefix: str
) -> None:
    """As browsers and MIME encoders produce them."""
    text = prefix + base64.encodebytes(wav()).decode()
    answer = http.post("/v1/jobs", json={"audio_data": text})
    assert worker.start(answer.json()["id"]).audio == wav()


def test_a_class_that_the_model_lacks_is_refused_before_it_is_stored(http: httpx2.Client, worker: FakeWorker) -> None:
    """However long its name is: the options of a job are kept as long as its result."""
    assert worker.start(str(submit(http, cam_class="rain")["id"])).options.cam_class == "rain"
    sound = base64.b64encode(wav()).decode()
    answer = http.post("/v1/jobs", json={"audio_data": sound, "include": ["occlusion"], "cam_class": "x" * 2**20})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith("Model tiny has no class 'xxxx")
    assert worker._client.hget("otoscope:totals", "accepted") == b"1"


def test_poll_shows_every_state(http: httpx2.Client, worker: FakeWorker) -> None:
    """queued, running, succeeded with result and timings; each document fits its schema."""
    job_id = str(submit(http)["id"])
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
    worker.start(job_id)
    running = Job.model_validate(http.get(f"/v1/jobs/{job_id}").json())
    assert (running.status, running.queue_position, running.result) == ("running", None, None)
    worker.finish(job_id)
    job = Job.model_validate(http.get(f"/v1/jobs/{job_id}").json())
    assert job.status == "succeeded"
    assert job.result is not None
    assert [p.class_ for p in job.result.predictions] == ["dog", "rain", "bell"]
    assert job.timings.total is not None
    assert job.timings.forward == 0.03
    assert job.links["result"] == f"/v1/jobs/{job_id}/result"
    assert job.links["detections"] == f"/v1/jobs/{job_id}/detections"


def test_prefer_wait_answers_200_when_the_job_finishes_in_time(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """RFC 7240: the finished job in the response to its submission."""
    answer = http.post("/v1/jobs", files={"file": wav()}, headers={"Prefer": "respond-async, wait=10"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=10"
    assert answer.json()["result"]["predictions"][0] == {"class": "dog", "confidence": 0.7}


def test_prefer_wait_answers_202_after_the_timeout(http: httpx2.Client, worker: FakeWorker) -> None:
    """Without a worker the caller gets the queued job after the requested time."""
    began = time.monotonic()
    answer = http.post("/v1/jobs", files={"file": wav()}, headers={"Prefer": "wait=0.3"})
    assert answer.status_code == 202
    assert time.monotonic() - began >= 0.3
    assert answer.json()["status"] == "queued"


def test_get_with_wait_returns_at_the_next_change(http: httpx2.Client, worker: FakeWorker) -> None:
    """A long poll ends when the status changes, before the job is finished and before the timeout."""
    job_id = str(submit(http)["id"])
    timer = threading.Timer(0.3, worker.start, [job_id])
    timer.start()
    answer = http.get(f"/v1/jobs/{job_id}", params={"wait": 15})
    timer.join()
    assert answer.json()["status"] == "running"


def test_waiting_is_capped_by_the_server(start_gateway: Start, worker: FakeWorker) -> None:
    """A caller cannot wait longer than the server's limit."""
    http = start_gateway(max_wait=0.2)
    job_id = str(submit(http)["id"])
    began = time.monotonic()
    assert http.get(f"/v1/jobs/{job_id}", params={"wait": 3_600}).json()["status"] == "queued"
    assert time.monotonic() - began < 10


def test_result_in_three_representations(http: httpx2.Client, worker: FakeWorker) -> None:
    """JSON, MessagePack and NPZ, chosen by Accept, hold the same numbers."""
    job_id = str(submit(http, include="maps,spectrogram,waveform,embedding,windows,cam")["id"])
    worker.finish(job_id)
    url = f"/v1/jobs/{job_id}/result"
    plain = ResultJSON.model_validate(http.get(url).json())
    packed = http.get(url, headers={"Accept": "application/msgpack"})
    zipped = http.get(url, headers={"Accept": "application/x-npz;q=0.9, text/html;q=0.1"})
    assert packed.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(packed.content)["predictions"][0]["class"] == "dog"
    result = unpack_result(packed.content)
    with np.load(__import__("io").BytesIO(zipped.content)) as arrays:
        assert set(arrays.files) == {
            "meta", "spectrogram", "embedding", "cam", "waveform", "maps/stem", "maps/layer1", "maps/layer1.block1",
        }  # fmt: skip
        np.testing.assert_array_equal(arrays["maps/stem"], result.maps["stem"])
    assert plain.maps is not None
    assert list(plain.maps) == ["stem", "layer1.block1", "layer1"]
    np.testing.assert_allclose(plain.maps["stem"].values, result.maps["stem"], rtol=1e-3)
    assert plain.spectrogram is not None
    assert plain.spectrogram.shape == [4, 6]
    assert plain.embedding is not None
    assert plain.embedding.values == [0.5, 0.3333]
    assert plain.waveform is not None
    assert (plain.waveform.min, plain.waveform.max) == ([-0.5, -0.25], [0.5, 0.75])
    assert plain.windows is not None
    assert len(plain.windows) == 2
    assert plain.cam is not None


def test_only_requested_parts_are_in_the_result(http: httpx2.Client, worker: FakeWorker) -> None:
    """The result of a job without `include` has none of them."""
    job_id = str(submit(http)["id"])
    worker.finish(job_id)
    result = http.get(f"/v1/jobs/{job_id}/result").json()
    assert not {"maps", "spectrogram", "waveform", "embedding", "windows", "cam"} & set(result)


def test_result_before_the_end_is_a_409(http: httpx2.Client, worker: FakeWorker) -> None:
    """The detail has the status of the job."""
    answer = http.get(f"/v1/jobs/{submit(http)['id']}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "result_not_ready")
    assert "queued" in answer.json()["detail"]


def test_unacceptable_representation(http: httpx2.Client, worker: FakeWorker) -> None:
    """406 lists the available media types."""
    job_id = str(submit(http)["id"])
    worker.finish(job_id)
    answer = http.get(f"/v1/jobs/{job_id}/result", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    assert "application/x-npz" in answer.json()["detail"]


def test_failed_job_has_code_and_detail(http: httpx2.Client, worker: FakeWorker) -> None:
    """A job that failed in the worker is answered with 200 and its error inside."""
    job_id = str(submit(http)["id"])
    worker.fail(job_id, InferenceFailed("numbers that are not finite"))
    job = http.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "inference_failed", "title": "The model failed on this sound", "detail": "numbers that are not finite",
    }  # fmt: skip


def test_delete_cancels_then_deletes(http: httpx2.Client, worker: FakeWorker) -> None:
    """A queued job is cancelled and can still be read; a second DELETE deletes it."""
    url = f"/v1/jobs/{submit(http)['id']}"
    assert http.delete(url).status_code == 204
    assert http.get(url).json()["status"] == "cancelled"
    assert http.delete(url).status_code == 204
    assert http.get(url).status_code == 404
    assert http.delete(url).json()["code"] == "job_not_found"


def test_expired_job_is_410_and_unknown_is_404(start_gateway: Start, worker: FakeWorker) -> None:
    """An id that never existed is distinguished from one whose result has expired."""
    http = start_gateway()
    job_id = str(submit(http)["id"])
    worker.finish(job_id)
    worker._client.delete(f"otoscope:job:{job_id}")  # as its expiry does
    for path in ("", "/result", "/events"):
        assert http.get(f"/v1/jobs/{job_id}{path}").json()["code"] == "job_expired"
        assert http.get(f"/v1/jobs/{'0' * 32}{path}").json()["code"] == "job_not_found"
    assert http.delete(f"/v1/jobs/{job_id}").status_code == 410


def test_idempotency_key_returns_the_first_job(http: httpx2.Client, worker: FakeWorker) -> None:
    """A repeated request returns the same job; a different request with the same key is refused."""
    headers = {"Idempotency-Key": "k1"}
    first = http.post("/v1/jobs", files={"file": wav()}, headers=headers).json()["id"]
    again = http.post("/v1/jobs", files={"file": wav()}, headers=headers).json()["id"]
    other = http.post("/v1/jobs", files={"file": wav(0.5)}, headers=headers)
    assert first == again
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


def test_full_queue_is_429_with_retry_after(start_gateway: Start, worker: FakeWorker) -> None:
    """Beyond the limit of unfinished jobs submissions are refused, until one has finished."""
    http = start_gateway(queue_limit=2, caller_share=1.0)
    ids = [str(submit(http)["id"]) for _ in range(2)]
    answer = http.post("/v1/jobs", files={"file": wav()})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    worker.finish(ids[0])
    time.sleep(REJECTION_SECONDS)  # for so long the rejection is repeated
    submit(http)


def test_a_recent_rejection_is_repeated_without_reading_the_upload(
    start_gateway: Start, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an idempotency key the request is processed, and an accepted submission ends the rejection."""
    monkeypatch.setattr("api.rejections.TTL_SECONDS", 30)
    http = start_gateway(queue_limit=1, caller_share=1.0)
    first = http.post("/v1/jobs", files={"file": wav()}, headers={"Idempotency-Key": "a"}).json()["id"]
    refused = http.post("/v1/jobs", files={"file": wav()})
    for path in ("/v1/jobs", "/evaluate"):
        again = http.post(path, content=b"no sound")
        assert (again.status_code, again.json()["detail"]) == (429, refused.json()["detail"])
        assert again.headers["retry-after"] == refused.headers["retry-after"]
    repeated = http.post("/v1/jobs", files={"file": wav()}, headers={"Idempotency-Key": "a"})
    assert repeated.json()["id"] == first
    worker.finish(first)
    assert http.post("/v1/jobs", content=b"no sound").status_code == 415
    submit(http)


def test_without_a_worker_the_model_is_unknown(http: httpx2.Client) -> None:
    """503 with Retry-After, until a worker has announced a model."""
    answer = http.post("/v1/jobs", files={"file": wav()})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "retry-after" in answer.headers


@pytest.mark.slow
def test_deadline_without_a_worker_fails_the_job(start_gateway: Start, worker: FakeWorker) -> None:
    """The gateway fails a job that no worker has claimed before its deadline."""
    http = start_gateway(job_deadline=0.1)
    job_id = str(submit(http)["id"])
    job = http.get(f"/v1/jobs/{job_id}", params={"wait": 15}).json()
    assert (job["status"], job["error"]["code"]) == ("failed", "deadline_exceeded")
