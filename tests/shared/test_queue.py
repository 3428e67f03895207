"""Messages written by the gateway, and real Celery workers that take them."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Reject

from otoscope.types import JobOptions
from shared.config.settings import Settings
from shared.contract import CLASSIFY, QUEUE
from shared.jobs.queue import Messages, make_celery
from tests.shared.conftest import AUDIO, Stores
from worker.queue.transport import Transport

Send = Callable[[str], None]


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with contextlib.closing(make_celery(settings)) as app:
        yield app


def sender(how: str, app: Celery, stores: Stores) -> Send:
    """Puts the message of a job into the queue: written by us, or sent by Celery."""
    messages = Messages(app)
    if how == "celery":
        return lambda job_id: app.send_task(CLASSIFY, args=[job_id], task_id=job_id)
    return lambda job_id: stores.raw.lpush(QUEUE, messages.of(job_id))


def test_a_message_is_what_celery_sends(app: Celery, stores: Stores) -> None:
    """To the last field, but for the tag by which it is acknowledged, which has to be another for every message."""
    told: list[dict[str, Any]] = []
    for how in ("celery", "ours"):
        sender(how, app, stores)("a" * 32)
        told.append(json.loads(stores.raw.lpop(QUEUE) or ""))  # type: ignore[arg-type]
    tags = [message["properties"].pop("delivery_tag") for message in told]
    assert told[0] == told[1]
    assert tags[1] == "a" * 32


@pytest.mark.parametrize("how", ["celery", "ours"])
@pytest.mark.filterwarnings("default")  # of Celery's own, in threads of its own
def test_a_worker_cannot_tell_who_wrote_a_message(app: Celery, stores: Stores, how: str) -> None:
    """Task, ids and arguments arrive, what is rejected comes once more, and what is done is acknowledged."""
    seen: list[tuple[Any, ...]] = []

    @app.task(name=CLASSIFY, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def classify(self: Any, job_id: str) -> None:
        asked, again = self.request, self.request.delivery_info.get("redelivered")
        seen.append((job_id, asked.id, asked.root_id, asked.correlation_id, asked.argsrepr, again))
        if len(seen) == 1:
            raise Reject("once more", requeue=True)

    send, job_ids = sender(how, app, stores), ["a" * 32, "b" * 32]
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        for number, job_id in enumerate(job_ids, 2):
            send(job_id)
            deadline = time.monotonic() + 20
            while len(seen) < number or stores.raw.exists("unacked", "unacked_index", QUEUE):
                assert time.monotonic() < deadline, seen
                time.sleep(0.01)
    first, second = ((job_id, job_id, job_id, job_id, f"['{job_id}']") for job_id in job_ids)
    assert seen == [(*first, False), (*first, True), (*second, False)]


def test_job_and_message_are_stored_together(stores: Stores) -> None:
    """One message a job, for the job, in the order of their submission; none for what was refused."""
    job_ids = [stores.submit(token=token) for token in ("a", "b", "a")]
    assert job_ids[2] == job_ids[0]
    assert stores.messages() == job_ids[:2]


def test_a_submission_that_is_sent_twice_is_made_once(stores: Stores) -> None:
    """Its first answer was lost on the way, and the job has been finished meanwhile: it stays so, with one message."""

    def submit() -> bool:
        made = stores.run(stores.gateway.submit("tiny", JobOptions(), AUDIO, b"sound", job_id="a" * 32))
        assert made.id == "a" * 32
        return made.created

    assert submit()
    stores.start("a" * 32)
    stores.succeed("a" * 32)
    assert submit(), "for whom the first answer was lost, it is new"
    assert stores.status("a" * 32) == "succeeded"
    assert stores.messages() == ["a" * 32]
    assert stores.kinds("a" * 32) == ["queued", "running", "succeeded", "result"]


@pytest.mark.parametrize("database", ["", "?db=0", "?db=3"])
def test_worker_and_gateway_use_the_same_database(settings: Settings, database: str) -> None:
    """Whichever the address names: the store writes the message, and kombu reads it."""
    own = settings.model_copy(update={"redis_url": settings.redis_url + database})
    with contextlib.ExitStack() as stack:
        stores = Stores(own, stack)
        job_id = stores.submit()
        app = stack.enter_context(contextlib.closing(make_celery(own)))
        connection = stack.enter_context(app.connection_for_read())
        connection.transport_cls = Transport
        with connection.SimpleQueue(app.amqp.queues[QUEUE]) as queue:
            message = queue.get(timeout=5)
            message.ack()
    assert message.headers["id"] == job_id


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://me:secret@queue:6379/3", "redis://queue:6379/3"),
        ("rediss://:secret@queue/1?db=3&ssl_check_hostname=false", "redis://queue:6379/3"),
        ("unix:///run/a%20b.sock?db=3", "redis+socket:///run/a%20b.sock?virtual_host=3"),
        ("sentinel://:secret@[::1],b:1/queue?db=3&sentinel_password=secret", "redis://[::1]:26379/3"),
    ],
)
def test_what_kombu_and_logs_are_told_of_the_address_holds_no_secret(settings: Settings, url: str, told: str) -> None:
    """It says where Redis is, as kombu would; our transport goes by the address itself."""
    app = make_celery(settings.model_copy(update={"redis_url": url}))
    assert app.conf.broker_url == told
    assert "secret" not in app.bugreport()
