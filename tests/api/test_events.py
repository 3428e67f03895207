"""The event stream: every change once, in order, `result` last, resumable."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from sse_starlette import ServerSentEvent

from api.http.sse import FROM_START, job_events
from api.notifications import Notifications
from api.rendering.json_arrays import PIECE_BYTES
from otoscope.errors import InferenceFailed
from otoscope.types import Progress, Timings
from shared.config.settings import Settings
from shared.jobs import ShardedJobStore
from shared.jobs.records import JobRecord
from shared.jobs.servers import Servers
from shared.redis_client.connection import connect_async
from shared.results import pack_result
from tests.api.conftest import FakeWorker, wav
from tests.api.test_json_arrays import long
from tests.api.test_outages import errors, slow_reader
from tests.support.process_tree import until

Event = tuple[str, str, dict[str, object]]  # (id or empty, event, data)


def submit(http: httpx2.Client) -> str:
    return str(http.post("/v1/jobs", files={"file": wav()}).json()["id"])


def follow(http: httpx2.Client, job_id: str, last: str | None = None, **query: str) -> Iterator[Event]:
    """Events as they come, until the stream ends."""
    headers = {"Last-Event-ID": last} if last else {}
    fields: dict[str, str] = {}
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, params=query) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
                continue
            if "event" in fields:
                yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


def read(http: httpx2.Client, job_id: str, last: str | None = None, **query: str) -> list[Event]:
    return list(follow(http, job_id, last, **query))


def states(events: list[Event]) -> list[tuple[str, object]]:
    return [(event, data["status"]) for _, event, data in events]


EVERY_STATE = [("status", "queued"), ("status", "running"), ("status", "succeeded"), ("result", "succeeded")]


def test_stream_follows_a_job_to_its_result(http: httpx2.Client, worker: FakeWorker) -> None:
    """Opened before the job was claimed, the stream ends by itself with the result."""
    job_id = submit(http)
    timers = [threading.Timer(0.2, worker.start, [job_id]), threading.Timer(0.4, worker.finish, [job_id])]
    for timer in timers:
        timer.start()
    events = read(http, job_id)
    assert states(events)[0] == EVERY_STATE[0]
    assert states(events)[-2:] == EVERY_STATE[-2:]
    result = events[-1][2]["result"]
    assert isinstance(result, dict)
    assert result["predictions"][0]["class"] == "dog"


def test_stream_of_a_finished_job_replays_every_event(http: httpx2.Client, worker: FakeWorker) -> None:
    """It is read from its beginning."""
    job_id = submit(http)
    worker.finish(job_id)
    assert states(read(http, job_id)) == EVERY_STATE


def test_last_event_id_resumes(http: httpx2.Client, worker: FakeWorker) -> None:
    """After a reconnection only later events are sent; after the last one 204, so that an EventSource stops."""
    job_id = submit(http)
    worker.finish(job_id)
    events = read(http, job_id)
    for seen in range(3):
        assert states(read(http, job_id, last=events[seen][0])) == EVERY_STATE[seen + 1 :]
    answer = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": events[3][0]})
    assert (answer.status_code, answer.content) == (204, b"")


def test_replayed_events_show_the_job_as_it_was(http: httpx2.Client, worker: FakeWorker) -> None:
    """Without the times and timings that were not known at that status."""
    job_id = submit(http)
    worker.finish(job_id)
    queued, running, succeeded, _ = (job for _, _, job in read(http, job_id))
    known = [{name for name, value in job["timings"].items() if value is not None} for job in (queued, running)]  # type: ignore[attr-defined]
    assert known == [set(), {"queue"}]
    assert (queued["started_at"], running["finished_at"]) == (None, None)
    assert running["started_at"] is not None
    assert succeeded["timings"]["total"] > 0  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["finish", "cancel"])
def test_a_changed_queue_position_is_sent(http: httpx2.Client, worker: FakeWorker, leave: str) -> None:
    """A job behind one that is finished or cancelled moves up, in a status event without an id."""
    first, second, third = (submit(http) for _ in range(3))
    events = follow(http, third)
    assert next(events)[2]["queue_position"] == 3
    for ahead, place in ((first, 2), (second, 1)):
        if leave == "finish":
            worker.finish(ahead)
        else:
            http.delete(f"/v1/jobs/{ahead}")
        number, event, job = next(events)
        assert (number, event, job["status"], job["queue_position"]) == ("", "status", "queued", place)
    worker.finish(third)
    assert states(list(events)) == EVERY_STATE[1:]


def test_progress_is_sent(http: httpx2.Client, worker: FakeWorker) -> None:
    """In a status event without an id, each time that it changes, and again after a reconnection; also in the job."""
    job_id = submit(http)
    work = worker.start(job_id)
    events = follow(http, job_id)
    assert [next(events)[2]["progress"] for _ in range(2)] == [None, None]
    for done in (8, 16):
        worker.store.report_progress(job_id, "w1", Progress(done=done, of=20))
        number, event, job = next(events)
        assert (number, event, job["status"]) == ("", "status", "running")
        assert job["progress"] == {"done": done, "of": 20}
    assert http.get(f"/v1/jobs/{job_id}").json()["progress"] == {"done": 16, "of": 20}
    again = follow(http, job_id)
    assert [next(again)[2]["progress"] for _ in range(2)] == [None, {"done": 16, "of": 20}]
    worker.succeed(job_id, work.options)
    rest = list(events)
    assert states(rest) == EVERY_STATE[2:]
    assert {job["progress"] for _, _, job in rest} == {None}  # type: ignore[arg-type]


def test_the_queue_position_is_sent_again_after_a_reconnection(http: httpx2.Client, worker: FakeWorker) -> None:
    """The current position, as the first event; the changes in between are not replayed."""
    first, second = submit(http), submit(http)
    events = follow(http, second)
    last = next(events)[0]
    worker.finish(first)
    again = follow(http, second, last)
    assert next(again)[2]["queue_position"] == 1


def test_the_result_can_be_left_out(http: httpx2.Client, worker: FakeWorker) -> None:
    """`include_result=false` ends with the job and a link to its result, to be fetched in another representation."""
    job_id = submit(http)
    worker.finish(job_id)
    events = read(http, job_id, include_result="false")
    assert states(events) == EVERY_STATE
    job = events[-1][2]
    assert job["result"] is None
    assert job["links"]["result"] == f"/v1/jobs/{job_id}/result"  # type: ignore[index]
    assert http.get(f"/v1/jobs/{job_id}/events", params={"include_result": "maybe"}).status_code == 422


@pytest.mark.slow
def test_a_large_result_comes_in_pieces(http: httpx2.Client, worker: FakeWorker, settings: Settings) -> None:
    """To join and encode tens of megabytes would block the event loop."""
    job_id = submit(http)
    worker.start(job_id)
    worker.store.succeed(job_id, pack_result(long()), Timings())

    async def received() -> list[ServerSentEvent | bytes]:
        client = connect_async(settings)
        store = ShardedJobStore(Servers([client], settings), settings)

        @asynccontextmanager
        async def load(job: JobRecord) -> AsyncIterator[JobRecord]:
            yield await store.with_result(job)

        try:
            events = job_events(store, Notifications(store), job_id, FROM_START, 15.0, load)
            return [piece async for piece in events]
        finally:
            await client.aclose()

    pieces = asyncio.run(received())
    assert all(isinstance(piece, bytes) and len(piece) < 3 * PIECE_BYTES for piece in pieces)
    assert len(pieces) > 50
    events = read(http, job_id)
    assert states(events) == EVERY_STATE
    assert events[-1][2]["result"]["full_spectrogram"]["shape"] == [128, 30_001]  # type: ignore[index]


def test_failed_and_cancelled_jobs_end_their_stream(http: httpx2.Client, worker: FakeWorker) -> None:
    """Every stream ends with `result`, whatever the outcome."""
    failed, cancelled = submit(http), submit(http)
    worker.fail(failed, InferenceFailed("broken"))
    http.delete(f"/v1/jobs/{cancelled}")
    last = read(http, failed)[-1]
    assert last[1] == "result"
    error = last[2]["error"]
    assert isinstance(error, dict)
    assert error["code"] == "inference_failed"
    assert states(read(http, cancelled))[-1] == ("result", "cancelled")


def test_nothing_is_lost_between_reading_and_subscribing(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """Jobs that finish at any moment while their stream is opened: the result arrives each time."""
    for _ in range(60):
        assert states(read(http, submit(http)))[-1] == EVERY_STATE[-1]


def test_an_idle_stream_sends_comments(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> None:
    """So that proxies keep the connection open."""
    http = start_gateway(keepalive_seconds=0.1)
    job_id = submit(http)
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith(":"):
                break
        else:
            pytest.fail("no comment was sent")


@pytest.mark.parametrize("last", ["latest", "0", "9" * 20 + "-0", "0-" + "9" * 20])
def test_bad_last_event_id_is_refused(http: httpx2.Client, worker: FakeWorker, last: str) -> None:
    """An invalid id is refused and not passed to Redis."""
    answer = http.get(f"/v1/jobs/{submit(http)}/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_an_open_stream_does_not_delay_the_shutdown(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """A gateway with a connected client stops within its grace period (the fixture asserts that)."""
    http = start_gateway()
    job_id = submit(http)
    opened = threading.Event()

    def listen() -> None:
        try:
            with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
                for _ in answer.iter_lines():
                    opened.set()
        except httpx2.HTTPError:
            pass

    threading.Thread(target=listen, daemon=True).start()
    assert opened.wait(10)


def test_many_streams_of_one_job(http: httpx2.Client, worker: FakeWorker) -> None:
    """All of them receive the last event; none takes an event from another."""
    job_id = submit(http)
    ends: list[tuple[str, object]] = []
    threads = [threading.Thread(target=lambda: ends.append(states(read(http, job_id))[-1])) for _ in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    worker.finish(job_id)
    for thread in threads:
        thread.join(20)
    assert ends == [EVERY_STATE[-1]] * 20


def large(http: httpx2.Client, worker: FakeWorker) -> str:
    """The id of a job with a result of 25 MB as JSON."""
    job_id = submit(http)
    worker.start(job_id)
    worker.store.succeed(job_id, pack_result(long()), Timings())
    return job_id


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_client_that_pauses_gets_everything(
    http: httpx2.Client, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to the limit for all responses (`OTOSCOPE_UPLOAD_SECONDS`)."""
    with slow_reader(http, f"/v1/jobs/{large(http, worker)}/events") as body:
        text = next(body)
        time.sleep(31)
        text += b"".join(body)
    assert text.count(b"event: result") == 1
    assert text.endswith(b"\r\n\r\n")
    assert not errors(caplog)


@pytest.mark.slow
def test_a_client_that_never_reads_is_disconnected(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a traceback in the log, which any client could cause otherwise."""
    http = start_gateway(upload_seconds=1)
    with slow_reader(http, f"/v1/jobs/{large(http, worker)}/events") as body:
        next(body)
        until(lambda: "otoscope_api_event_streams 1.0" in http.get("/metrics").text)
        until(lambda: "otoscope_api_event_streams 0.0" in http.get("/metrics").text)
        with pytest.raises(httpx2.HTTPError):
            list(body)
    assert not errors(caplog)
