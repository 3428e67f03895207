"""`python -m worker` as a process: its start, its queue, its end by SIGTERM and by SIGKILL."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from otoscope.errors import DecoderDied
from otoscope.results import unpack_result
from shared.contract import QUEUE, UNACKED
from tests.conftest import free_port, write_tiny_model
from tests.support.process_tree import children, gone, stop, until
from tests.support.sounds import chirp, encode, flac_of_silence
from tests.support.worker_processes import READY, VISIBILITY, WorkerProcesses
from worker.app import EXIT_DEVICE_LOST, EXIT_STOP_HUNG

LOUD = encode(chirp(1.0, 16_000) * 1.99, 16_000, "WAV", "PCM_16")  # triggers the faults of tests.support.faulty_worker


@pytest.fixture
def no_models() -> Iterator[WorkerProcesses]:
    with tempfile.TemporaryDirectory(prefix="oto") as name, ExitStack() as stack:
        yield WorkerProcesses(Path(name), stack)


@pytest.fixture
def workers(no_models: WorkerProcesses) -> WorkerProcesses:
    """With the tiny model."""
    write_tiny_model(no_models.models / "tiny")
    return no_models


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "no model at all"),
        ({"batch_size": "0"}, "OTOSCOPE_BATCH_SIZE: must be greater"),
        ({"redis_url": "http://somewhere"}, "must begin with redis://"),
        ({"metrics_port": "taken"}, "in use"),
    ],
    ids=["no models", "bad setting", "bad url", "port taken"],
)
def test_a_worker_that_cannot_start_exits_with_the_reason(
    no_models: WorkerProcesses, changed: dict[str, str], reason: str
) -> None:
    """Status 1, the reason on the last line, no traceback, no heartbeat."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if "metrics_port" in changed:
            changed = {"metrics_port": str(other.getsockname()[1])}
        process = no_models.start(**changed)
        assert process.wait(READY) == 1
    log = no_models.log(process)
    assert log.splitlines()[-1].startswith("otoscope worker: ")
    assert reason in log.splitlines()[-1]
    assert "Traceback" not in log
    assert not no_models.registered(process)


def _metrics(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines: list[str] = answer.read().decode().splitlines()
        return lines


METRICS = (
    'otoscope_worker_jobs_total{outcome="succeeded"} 5.0',
    'otoscope_worker_jobs_total{outcome="failed"} 0.0',
    'otoscope_worker_stage_seconds_count{stage="store"} 5.0',
    'otoscope_worker_model_ready{model="tiny"} 1.0',
    "otoscope_worker_batch_size_sum 5.0",
    "otoscope_worker_jobs_in_progress 0.0",
    "otoscope_worker_decoder_crashes_total 0.0",
    "otoscope_worker_audio_seconds_total 5.0",
)
"""What Prometheus scrapes after five jobs, under documented names."""


def test_a_worker_runs_jobs_reloads_models_and_drains(workers: WorkerProcesses) -> None:
    """From start to end: ready, jobs, metrics, a model added and removed, SIGTERM with a job in flight."""
    with tempfile.TemporaryDirectory(prefix="oto") as elsewhere:
        port = free_port()
        worker = workers.start_ready(metrics_port=str(port))
        assert workers.stores.run(workers.stores.gateway.cards())["tiny"].sample_rate == 16_000

        jobs = [workers.submit() for _ in range(5)]
        assert [workers.finished(job_id) for job_id in jobs] == ["succeeded"] * 5
        packed = workers.stores.run(workers.stores.gateway.result(jobs[0]))
        assert packed is not None
        assert len(unpack_result(packed).predictions) == 5

        until(lambda: not set(METRICS) - set(_metrics(port)))  # a job is counted just after it is stored
        assert not any("_created" in line for line in _metrics(port))

        new = Path(elsewhere) / "new"
        write_tiny_model(new, seed=1)
        subprocess.run(["cp", "-r", new, workers.models], check=True)
        until(lambda: "new" in workers.stores.run(workers.stores.gateway.cards()), 15)
        assert workers.finished(workers.submit(model="new")) == "succeeded"
        (workers.models / "new").rename(Path(elsewhere) / "gone")
        until(lambda: "new" not in workers.stores.run(workers.stores.gateway.cards()), 15)
        waiting = workers.submit(model="new")
        assert workers.finished(workers.submit()) == "succeeded"
        assert workers.stores.status(waiting) == "queued", "it waits for a worker that serves its model"
        workers.stores.run(workers.stores.gateway.cancel(waiting))
        assert workers.registered(worker)

        (decoder,) = children(worker.pid)
        job_id, _ = workers.submit_blocked(worker)
        worker.terminate()
        time.sleep(0.5)
        assert worker.poll() is None, "it waits for the job in flight"
        os.kill(decoder, signal.SIGCONT)
        assert worker.wait(20) == 0, workers.log(worker)
        assert workers.stores.status(job_id) == "succeeded"
        assert gone(decoder)
        assert not workers.registered(worker)
        assert "Traceback" not in workers.log(worker)
        assert workers.stores.raw.exists(UNACKED, QUEUE) == 0, "no message is left"


@pytest.mark.slow
def test_workers_with_different_models_lose_no_job(workers: WorkerProcesses) -> None:
    """Each job is run by a worker that serves its model, also while a model is added and removed."""
    write_tiny_model(workers.models / "other", seed=1)
    workers.start_ready(models="tiny", default_model="tiny")
    second = workers.start_ready(models="other", default_model="other")
    jobs = [workers.submit(model=model) for _ in range(30) for model in ("tiny", "other")]
    second.terminate()
    second.wait(60)
    jobs += [workers.submit(model="other") for _ in range(10)]
    workers.start_ready(models="other", default_model="other")
    assert {workers.finished(job_id) for job_id in jobs} == {"succeeded"}


def test_a_file_that_kills_its_decode_process_costs_one_job(workers: WorkerProcesses) -> None:
    """A real file: 120 KB of FLAC that take a dozen seconds to decode. The limit is three seconds, enough for a decode
    process to start on a busy machine. Files in other decode processes and the worker process are not disturbed, and a
    new decode process replaces the killed one."""
    bomb = flac_of_silence(1_200, 192_000, 8)
    worker = workers.start_ready(decode_processes="2", decode_seconds="3", max_seconds="1200")
    before = set(children(worker.pid))
    killer = workers.submit(bomb)
    beside = [workers.submit() for _ in range(8)]
    assert workers.finished(killer) == "failed"
    error = workers.stores.run(workers.stores.gateway.get(killer)).error
    assert isinstance(error, DecoderDied), error
    assert [workers.finished(job_id) for job_id in beside] == ["succeeded"] * 8
    assert workers.finished(workers.submit()) == "succeeded"
    assert worker.poll() is None
    assert workers.registered(worker)
    after = set(children(worker.pid))
    assert (len(after), len(after & before)) == (2, 1)


def test_the_jobs_of_a_killed_worker_are_finished_by_another_one(workers: WorkerProcesses) -> None:
    """SIGKILL of a worker costs a job some seconds, not its result."""
    victim = workers.start_ready()
    job_id, decoder = workers.submit_blocked(victim)
    survivor = workers.start_ready()
    victim.kill()
    victim.wait()
    os.kill(decoder, signal.SIGKILL)
    assert workers.finished(job_id, 6 * VISIBILITY) == "succeeded"
    assert workers.field(job_id, "worker").endswith(f"-{survivor.pid}")
    assert workers.field(job_id, "attempts") == "2"
    until(lambda: not workers.registered(victim), 15)


@pytest.mark.long
def test_a_job_longer_than_the_visibility_timeout_runs_once(workers: WorkerProcesses) -> None:
    """Its lease is renewed as long as its worker runs, also after SIGTERM, so that it is not delivered again."""
    holder = workers.start_ready()
    job_id, decoder = workers.submit_blocked(holder)
    other = workers.start_ready()
    time.sleep(VISIBILITY + 2)
    assert workers.field(job_id, "attempts") == "1", "while it works"
    holder.terminate()
    time.sleep(VISIBILITY + 2)
    assert workers.field(job_id, "attempts") == "1", "while it drains"
    os.kill(decoder, signal.SIGCONT)
    assert workers.finished(job_id) == "succeeded"
    assert workers.field(job_id, "worker").endswith(f"-{holder.pid}")
    assert holder.wait(20) == 0
    assert workers.finished(workers.submit()) == "succeeded"
    assert other.poll() is None


@pytest.mark.parametrize(
    ("fault", "status"),
    [("kill", -signal.SIGKILL), pytest.param("spoil", EXIT_DEVICE_LOST, marks=pytest.mark.long)],
)
def test_a_job_that_kills_three_workers_is_poison(
    workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch, fault: str, status: int
) -> None:
    """Each worker is replaced by another one; the jobs that were in flight beside the poison succeed."""
    monkeypatch.setenv("FAULT", fault)
    killer, *others = workers.submit(LOUD), workers.submit(), workers.submit()
    for death in range(3):
        worker = workers.start("tests.support.faulty_worker")
        assert worker.wait(READY) == status, workers.log(worker)
        assert workers.stores.status(killer) == "running", f"death {death}"
        assert "illegal memory access" in workers.log(worker) or fault == "kill"
    workers.start_ready("tests.support.faulty_worker")
    assert workers.finished(killer) == "failed"
    error = workers.stores.run(workers.stores.gateway.get(killer)).error
    assert error is not None
    assert error.code == "poison"
    assert [workers.finished(job_id) for job_id in others] == ["succeeded"] * 2


@pytest.mark.usefixtures("cuda")
def test_a_lost_cuda_context_ends_the_worker(workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs that were in flight, and the one that lost it, are finished by the next worker."""
    monkeypatch.setenv("FAULT", "assert")
    jobs = [workers.submit(LOUD), workers.submit(), workers.submit()]
    worker = workers.start("tests.support.faulty_worker", device="cuda")
    assert worker.wait(READY) == EXIT_DEVICE_LOST, workers.log(worker)
    assert "the device is lost" in workers.log(worker)
    workers.start_ready(device="cuda")
    assert [workers.finished(job_id, 6 * VISIBILITY) for job_id in jobs] == ["succeeded"] * 3


def test_a_batch_too_large_for_the_device_is_halved(workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of device memory costs time, but no job and no process."""
    monkeypatch.setenv("FAULT", "full")
    jobs = [workers.submit() for _ in range(12)]  # before there is a worker, which then fills its batches
    worker = workers.start_ready("tests.support.faulty_worker", batch_size="8", batch_window="0.1")
    assert [workers.finished(job_id) for job_id in jobs] == ["succeeded"] * 12
    assert worker.poll() is None
    assert "exceeds the device's memory" in workers.log(worker)


def test_the_jobs_of_a_frozen_worker_are_finished_once(workers: WorkerProcesses) -> None:
    """Stopped past the visibility timeout, with a job in flight and while it waits for more: each has one result."""
    frozen = workers.start_ready()
    job_id, decoder = workers.submit_blocked(frozen)
    stop(frozen.pid)
    later = workers.submit()  # must not be lost in the connection of the frozen worker
    other = workers.start_ready()
    assert workers.finished(later) == "succeeded"
    assert workers.finished(job_id, 6 * VISIBILITY) == "succeeded"
    assert workers.field(job_id, "worker").endswith(f"-{other.pid}")
    os.kill(decoder, signal.SIGCONT)
    os.kill(frozen.pid, signal.SIGCONT)
    time.sleep(2)
    assert workers.stores.kinds(job_id) == ["queued", "running", "running", "succeeded", "result"]
    assert workers.finished(workers.submit()) == "succeeded"
    assert frozen.poll() is None


def test_a_stopping_worker_requeues_jobs_that_take_too_long(
    workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are in the network, in a decode process or wait for one: a supervisor does not wait forever, and its
    SIGKILL would quarantine them. The next worker finishes them."""
    monkeypatch.setenv("FAULT", "slow")
    worker = workers.start_ready("tests.support.faulty_worker")
    decoded, _ = workers.submit_blocked(worker)
    plain = encode(chirp(30.0, 16_000), 16_000, "WAV", "PCM_16")  # needs no decode process; 59 windows, two a batch
    jobs = [decoded, workers.submit(), workers.submit(plain)]
    until(lambda: all(workers.stores.status(job_id) == "running" for job_id in jobs))
    began = time.monotonic()
    worker.terminate()
    assert worker.wait(30) == 0, workers.log(worker)
    assert time.monotonic() - began < 10
    assert [(workers.stores.status(job_id), workers.field(job_id, "attempts")) for job_id in jobs] == [
        ("queued", "0")
    ] * 3
    workers.start_ready()
    assert [workers.finished(job_id) for job_id in jobs] == ["succeeded"] * 3


def test_a_job_cancelled_while_no_worker_ran_is_not_run(workers: WorkerProcesses) -> None:
    """Celery loses its revoked tasks when its workers end; a cancellation is stored in the job's record."""
    cancelled, kept = workers.submit(), workers.submit()
    workers.stores.run(workers.stores.gateway.cancel(cancelled))
    workers.start_ready()
    assert workers.finished(kept) == "succeeded"
    assert workers.stores.kinds(cancelled) == ["queued", "cancelled", "result"]


def test_a_worker_stops_while_redis_is_unreachable(workers: WorkerProcesses) -> None:
    """Soon after SIGTERM, although it cannot deregister, since a supervisor does not wait forever."""
    worker = workers.start_ready()
    assert workers.finished(workers.submit()) == "succeeded"
    workers.stop_redis()
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0, workers.log(worker)
    assert time.monotonic() - began < 15


@pytest.mark.long
def test_an_outage_of_redis_is_logged_once(workers: WorkerProcesses) -> None:
    """Its begin and its end, and not each attempt to connect. A worker takes jobs soon after it."""
    worker = workers.start_ready()
    assert workers.finished(workers.submit()) == "succeeded"
    workers.stop_redis()
    time.sleep(12)
    workers.start_redis()
    began = time.monotonic()
    assert workers.finished(workers.submit()) == "succeeded"
    assert time.monotonic() - began < 6, "Celery's own next attempt is 8 s later"
    until(lambda: "heartbeat succeeds again" in workers.log(worker))
    log = workers.log(worker)
    for line in (
        "cannot connect to Redis: ",
        "connected to Redis again",
        "heartbeat fails: ",
        "heartbeat succeeds again",
    ):
        assert log.count(line) == 1, log
    assert "Cannot connect" not in log, "a message of Celery for each attempt"


@pytest.mark.long
def test_a_worker_stops_while_redis_hangs(workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a job in flight, which it can neither finish nor release; another worker gets the job."""
    monkeypatch.setenv("FAULT", "slow-store")
    worker = workers.start_ready("tests.support.faulty_worker")
    job_id, decoder = workers.submit_blocked(worker)
    os.kill(workers.server.pid, signal.SIGSTOP)
    try:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == EXIT_STOP_HUNG, workers.log(worker)
    finally:
        os.kill(workers.server.pid, signal.SIGCONT)
    with suppress(ProcessLookupError):
        os.kill(decoder, signal.SIGKILL)
    workers.start_ready()
    assert workers.finished(job_id) == "succeeded"


@pytest.mark.long
def test_a_worker_that_is_stopped_while_it_starts_ends_cleanly(workers: WorkerProcesses) -> None:
    """At any moment before it runs jobs: exit status 0, and it is deregistered."""
    for pause in (0.0, 0.3):
        worker = workers.start_ready()
        time.sleep(pause)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, workers.log(worker)
        assert not workers.registered(worker)
        assert "Traceback" not in workers.log(worker)


@pytest.mark.parametrize("fault", ["stop-import", pytest.param("stop-model", marks=pytest.mark.long)])
def test_a_worker_stops_between_the_steps_of_its_start(
    workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Not in the middle of one, where Python may replace or lose the exception; and before it loads the next model."""
    shutil.copytree(workers.models / "tiny", workers.models / "tiny-too")
    monkeypatch.setenv("FAULT", fault)
    worker = workers.start("tests.support.faulty_worker")
    assert worker.wait(60) == 0, workers.log(worker)
    assert "Traceback" not in workers.log(worker)
    assert workers.log(worker).count("serving model") == (1 if fault == "stop-model" else 2)
    assert not workers.registered(worker)
