"""Seeded hostile requests: none causes a server error, and every accepted job finishes.

The short form of `bench/fuzz.py`, with a fake worker.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.api.conftest import FakeWorker
from tests.support.hostile_requests import hostile_request, outcome

COUNT = 500


def test_hostile_requests(start_gateway: Callable[..., httpx2.Client], busy_worker: FakeWorker) -> None:
    """Corrupt sounds, odd options, corrupt heads and forms, reads of existing and missing jobs."""
    http = start_gateway(max_wait=8, upload_seconds=0.5)
    address = http.base_url.host, http.base_url.port or 80
    jobs: list[str] = []
    wrong: list[tuple[int, str]] = []

    def one(number: int) -> str:
        kind, request = hostile_request(1, number, jobs)
        end, right, answer = outcome(address, request)
        if not right:
            wrong.append((number, end))
        if answer.headers.get("location", "").startswith("/v1/jobs/"):
            jobs.append(answer.headers["location"].rpartition("/")[2])
        return f"{kind}: {end}"

    with ThreadPoolExecutor(8) as threads:
        ends = Counter(threads.map(one, range(COUNT)))
    assert not wrong
    assert len(ends) > 25, ends  # of many kinds
    assert len(jobs) > COUNT / 6
    for job in jobs:
        answer = http.get(f"/v1/jobs/{job}?wait=5")
        assert answer.status_code == 404 or answer.json()["finished_at"], answer.text
