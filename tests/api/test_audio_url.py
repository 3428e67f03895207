"""`audio_url`: what the gateway accepts, stores and refuses. `tests/worker/test_fetch.py` fetches."""

import base64
from collections.abc import Callable

import httpx2
import pytest

from tests.api.conftest import FakeWorker, wav

URL = "https://media.example.org/sounds/dog.wav?token=1"


@pytest.fixture
def http(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> httpx2.Client:
    """A gateway that allows one source."""
    return start_gateway(sound_sources="https://media.example.org")


@pytest.mark.parametrize(
    "arguments",
    [
        {"json": {"audio_url": URL, "top_k": 2}},
        {"data": {"audio_url": URL, "top_k": "2"}},
        {"files": {"audio_url": (None, URL), "top_k": (None, "2")}},
    ],
    ids=["JSON", "urlencoded", "multipart"],
)
def test_a_sound_by_address_is_queued(http: httpx2.Client, worker: FakeWorker, arguments: dict[str, object]) -> None:
    """Its address takes the place of the file, in every form of a request."""
    job = http.post("/v1/jobs", **arguments).json()
    assert (job["audio"]["name"], job["audio"]["url"], job["audio"]["bytes"]) == ("dog.wav", URL, 0)
    claimed = worker.finish(job["id"])
    assert (claimed.url, claimed.audio, claimed.options.top_k) == (URL, URL.encode(), 2)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"audio_url": "https://other.example.org/dog.wav"}, "url_not_allowed"),
        ({"audio_url": "http://169.254.169.254/latest/meta-data"}, "url_not_allowed"),
        ({"audio_url": 7}, "invalid_request"),
        ({"audio_url": URL, "audio_data": base64.b64encode(wav()).decode()}, "invalid_request"),
    ],
)
def test_a_wrong_address_is_refused(http: httpx2.Client, body: dict[str, object], code: str) -> None:
    """Before anything is queued."""
    answer = http.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


def test_addresses_are_refused_by_default(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """The error names the setting."""
    answer = start_gateway().post("/v1/jobs", json={"audio_url": URL})
    assert answer.json()["code"] == "url_not_allowed"
    assert "OTOSCOPE_SOUND_SOURCES" in answer.json()["detail"]


def test_a_batch_has_sounds_by_address(http: httpx2.Client, worker: FakeWorker) -> None:
    """One that is not allowed fails alone."""
    sounds = [{"audio_url": URL}, {"name": "cat.wav", "audio_url": "https://evil.test/cat.wav"}]
    batch = http.post("/v1/batches", json={"sounds": sounds}).json()
    first, second = batch["members"]
    assert (first["status"], second["status"], second["error"]["code"]) == ("queued", "failed", "url_not_allowed")
    assert worker.finish(first["id"]).url == URL
