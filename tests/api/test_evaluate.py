"""/evaluate, the API of earlier systems."""

import base64

import httpx2
import pytest

from otoscope.errors import AudioNotFinite, StoreUnavailable
from otoscope.types import EvaluateResponse
from shared.jobs import AsyncJobStore
from shared.jobs.records import JobRecord
from tests.api.conftest import FakeWorker, wav
from tests.support.process_tree import until

BODY = {"audio_data": base64.b64encode(wav()).decode()}


def test_a_client_of_earlier_systems_works_unchanged(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """Base64 in; predictions, visualization, input_spectrogram and waveform out."""
    answer = http.post("/evaluate", json=BODY)
    assert answer.status_code == 200
    said = EvaluateResponse.model_validate(answer.json())
    assert [(p.class_, p.confidence) for p in said.predictions] == [("dog", 0.7), ("rain", 0.2), ("bell", 0.1)]
    assert list(said.visualization) == ["stem", "layer1.block1", "layer1"]
    for shown in said.visualization.values():
        assert [len(shown.values), len(shown.values[0])] == shown.shape == [4, 6]
    assert said.input_spectrogram is not None
    assert said.input_spectrogram.shape == [4, 6]
    assert said.waveform.values == [-0.5, 0.5, -0.25, 0.75]
    assert (said.waveform.sample_rate, said.waveform.duration) == (44_100, 1.5)
    assert "input_spectogram" not in answer.json()


def test_older_spelling_on_request(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """`?spelling=old` adds the misspelt key."""
    said = http.post("/evaluate", params={"spelling": "old"}, json=BODY).json()
    assert said["input_spectogram"] == said["input_spectrogram"]


def test_unknown_keys_are_ignored(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """As earlier systems did: clients may send more than the API needs."""
    assert http.post("/evaluate", json={**BODY, "filename": "x.wav"}).status_code == 200


@pytest.mark.parametrize(("body", "status"), [({}, 422), ({"audio_data": "%%%"}, 400), ({"audio_data": "AAAA"}, 415)])
def test_bad_input_is_a_problem_not_a_500(
    http: httpx2.Client, worker: FakeWorker, body: dict[str, str], status: int
) -> None:
    """Earlier systems answered 500 to every bad file."""
    answer = http.post("/evaluate", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_outage_of_redis_while_a_client_waits_is_waited_for(
    http: httpx2.Client, busy_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on meanwhile; one that outlasts the wait is reported as such (test_service.py)."""
    read, failing = AsyncJobStore.get, iter([True])

    async def get(store: AsyncJobStore, job_id: str, *, with_result: bool = False) -> JobRecord:
        if next(failing, False):
            raise StoreUnavailable("The queue cannot be reached right now; try again.", retry_after=2)
        return await read(store, job_id, with_result=with_result)

    monkeypatch.setattr(AsyncJobStore, "get", get)
    answer = http.post("/evaluate", json=BODY)
    assert (answer.status_code, answer.json()["predictions"][0]["class"]) == (200, "dog")
    assert next(failing, None) is None


def test_failure_in_the_worker_has_the_status_of_its_code(http: httpx2.Client, worker: FakeWorker) -> None:
    """A file that fails while it is decoded."""
    import threading

    def fail() -> None:
        until(lambda: bool(worker._client.zcard("otoscope:queued")))
        (waiting,) = worker._client.zrange("otoscope:queued", 0, -1)  # type: ignore[misc]
        worker.fail(waiting.decode(), AudioNotFinite("NaN in the samples"))

    thread = threading.Thread(target=fail)
    thread.start()
    answer = http.post("/evaluate", json=BODY)
    thread.join()
    assert (answer.status_code, answer.json()["code"]) == (422, "audio_not_finite")
