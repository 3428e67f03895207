"""Background tasks survive their own exceptions."""

from collections.abc import Callable

import httpx2
import pytest

from shared.jobs import AsyncJobStore
from tests.api.conftest import FakeWorker, wav
from tests.support.process_tree import until


@pytest.mark.slow
@pytest.mark.parametrize("name", ["expire_overdue", "positions", "subscribe"])
def test_a_failed_background_task_restarts(
    start_gateway: Callable[..., httpx2.Client],
    worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """The exception is logged once, and the task does its work a little later."""
    right, calls = getattr(AsyncJobStore, name), []

    async def wrong(*args: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise ValueError("a bug")
        return await right(*args)

    monkeypatch.setattr(AsyncJobStore, name, wrong)
    http = start_gateway(**({"job_deadline": 1} if name == "expire_overdue" else {}))
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    if name == "expire_overdue":
        until(lambda: http.get(f"/v1/jobs/{job_id}").json()["status"] == "failed", 15)
    elif name == "subscribe":
        until(lambda: len(calls) == 2, 15)
    else:
        with http.stream("GET", f"/v1/jobs/{job_id}/events"):
            until(lambda: len(calls) > 1, 15)
    (traceback,) = [
        record.exc_text or "" for record in caplog.records if "a bug ended a background task" in record.message
    ]
    assert "ValueError: a bug" in traceback
