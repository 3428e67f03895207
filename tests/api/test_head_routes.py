"""HEAD for every GET route, and `Allow` on 405."""

from collections.abc import Callable

import httpx2
import pytest

from tests.api.conftest import FakeWorker, wav
from tests.api.test_service import sample

STREAMS = ("/v1/jobs/{job_id}/events", "/v1/batches/{batch_id}/events", "/v1/stream")


def test_head_is_get_without_its_body(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """On every route except those that stream; HEAD is not listed in OpenAPI."""
    http = start_gateway(share_sounds=True)
    job = {"include": "spectrogram,full_spectrogram,ltsa,cam,maps,detections,occlusion", "keep_sound": "true"}
    known = {"job_id": http.post("/v1/jobs", files={"file": wav()}, data=job).json()["id"], "layer": "layer1"}
    worker.finish(known["job_id"])
    known["batch_id"] = http.post("/v1/batches", files=[("file", wav(0.2))]).json()["id"]
    described = http.get("/openapi.json").json()["paths"]
    assert not any("head" in operations for operations in described.values())
    paths = [path for path, operations in described.items() if "get" in operations and path not in STREAMS]
    assert {"/health/live", "/metrics", "/v1/models/{name}", "/v1/jobs/{job_id}/maps/{layer}.png"} <= set(paths)
    for path in (*paths, "/", "/docs", "/openapi.json", "/static/colormaps.json"):
        address = path.format(**known, name="tiny", model="tiny")
        head, get = http.head(address), http.get(address)
        assert (head.status_code, head.content) == (get.status_code, b"") == (200, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]
    counted = http.get("/metrics").text
    assert sample(counted, 'otoscope_api_requests_total{method="HEAD",route="/v1/models/{name}",status="200"}') == 1
    assert http.head("/v1/models/none").status_code == 404
    assert http.head(f"/v1/jobs/{known['job_id']}/events").status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs/x", "DELETE, GET, HEAD"),
        ("GET", "/v1/jobs", "POST"),
        ("HEAD", "/evaluate", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/jobs/x/events", "GET"),
        ("PROPFIND", "/metrics", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/static/colormaps.json", "GET, HEAD"),
    ],
)
def test_405_lists_the_allowed_methods(http: httpx2.Client, method: str, path: str, allowed: str) -> None:
    """Over all routes of the path."""
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
