"""Job ids from the gateway, and real Celery workers that run them."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Reject
from kombu import Connection
from kombu.transport import _transport_cache
from kombu.transport import redis as kombu_redis

from otoscope.types import JobOptions
from shared.config.settings import Settings
from shared.contract import CLASSIFY, QUEUE, UNACKED
from shared.jobs.records import NewJob
from tests.shared.conftest import AUDIO, Stores
from worker.queue import transport
from worker.queue.celery_app import make_celery
from worker.queue.message import TaskMessage

KOMBU_UNACKED = ("unacked", "unacked_index")
"""Where kombu's own transport keeps what it has delivered."""

Send = Callable[[str], object]


@pytest.fixture
def stores(settings: Settings) -> Iterator[Stores]:
    with contextlib.ExitStack() as stack:
        yield Stores(settings, stack)


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Restored: `start_worker` sets its level and its handlers, and other tests read its warnings."""
    level, handlers = logging.root.level, logging.root.handlers[:]
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with contextlib.closing(make_celery(settings)) as app:
        yield app


@pytest.fixture
def kombu_app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The same application on kombu's own Redis transport, which Celery can send messages with."""
    with contextlib.closing(make_celery(settings)) as app:
        for scheme in ("redis", "rediss"):
            monkeypatch.setitem(_transport_cache, scheme, kombu_redis.Transport)
        app.steps["consumer"].clear()  # without the lease, which belongs to our transport
        options = dict(app.conf.broker_transport_options)
        del options["redis_url"], options["message_for"]
        app.conf.broker_transport_options = options
        yield app


def test_a_message_is_what_celery_sends(kombu_app: Celery, stores: Stores) -> None:
    """In every field but the delivery tag, which is the job's id here and random there."""
    kombu_app.send_task(CLASSIFY, args=["a" * 32], task_id="a" * 32)
    sent: dict[str, Any] = json.loads(stores.raw.lpop(QUEUE) or "")  # type: ignore[arg-type]
    made = TaskMessage(kombu_app).for_jobs("a" * 32)
    tags = [message["properties"].pop("delivery_tag") for message in (sent, made)]
    assert sent == made
    assert tags[1] == "a" * 32


@pytest.mark.slow
@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize("how", ["kombu_app", "app"])
@pytest.mark.filterwarnings("default")  # of Celery's own, in threads of its own
def test_a_task_is_the_same_whether_celery_sent_it_or_an_id_was_queued(
    request: pytest.FixtureRequest, stores: Stores, how: str
) -> None:
    """Task, ids and arguments arrive, a rejected job is delivered again, and a finished one is acknowledged."""
    app: Celery = request.getfixturevalue(how)
    seen: list[tuple[Any, ...]] = []

    @app.task(name=CLASSIFY, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def classify(self: Any, job_id: str) -> None:
        task, redelivered = self.request, self.request.delivery_info.get("redelivered")
        seen.append((job_id, task.id, task.root_id, task.correlation_id, task.argsrepr, redelivered))
        if len(seen) == 1:
            raise Reject("once more", requeue=True)

    sends: dict[str, Send] = {
        "kombu_app": lambda job_id: app.send_task(CLASSIFY, args=[job_id], task_id=job_id),
        "app": lambda job_id: stores.run(_submit(stores, job_id)),
    }
    job_ids = ["a" * 32, "b" * 32]
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        for number, job_id in enumerate(job_ids, 2):
            sends[how](job_id)
            deadline = time.monotonic() + 20
            while len(seen) < number or stores.raw.exists(*KOMBU_UNACKED, UNACKED, QUEUE):
                assert time.monotonic() < deadline, seen
                time.sleep(0.01)
    first, second = ((job_id, job_id, job_id, job_id, f"['{job_id}']") for job_id in job_ids)
    assert seen == [(*first, False), (*first, True), (*second, False)]


@pytest.mark.parametrize("database", ["", "?db=0", "?db=3"])
def test_worker_and_gateway_use_the_same_database(settings: Settings, database: str) -> None:
    """Whichever the URL names: the store queues the job, and kombu delivers it."""
    own = settings.model_copy(update={"redis_url": settings.redis_url + database})
    with contextlib.ExitStack() as stack:
        stores = Stores(own, stack)
        job_id = stores.submit()
        app = stack.enter_context(contextlib.closing(make_celery(own)))
        connection = stack.enter_context(app.connection_for_read())
        with connection.SimpleQueue(app.amqp.queues[QUEUE]) as queue:
            message = queue.get(timeout=5)
            message.ack()
    assert message.headers["id"] == job_id


def test_nothing_is_sent_through_celery(app: Celery) -> None:
    """A job is queued with its record in one step; an attempt to send it alone is refused."""
    with pytest.raises(NotImplementedError, match="submit queues jobs"):
        app.send_task(CLASSIFY, args=["a" * 32], task_id="a" * 32, retry=False)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@queue:6379/3", "redis://queue:6379/3"),
        ("rediss://:secret@queue/1?db=3&ssl_check_hostname=false", "redis://queue:6379/3"),
        ("unix:///run/a%20b.sock?db=3", "redis+socket:///run/a%20b.sock?virtual_host=3"),
        ("sentinel://:secret@[::1],b:1/queue?db=3&sentinel_password=secret", "redis://[::1]:26379/3"),
    ],
)
def test_the_broker_url_that_kombu_logs_holds_no_secret(settings: Settings, url: str, shown: str) -> None:
    """It names the server in kombu's spelling, and selects our transport, which connects by the whole URL."""
    app = make_celery(settings.model_copy(update={"redis_url": url}))
    assert app.conf.broker_url == shown
    assert "secret" not in app.bugreport()
    assert Connection(shown).get_transport_cls() is transport.Transport


async def _submit(stores: Stores, job_id: str) -> None:
    await stores.gateway.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound"), job_id)
