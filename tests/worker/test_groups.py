"""Jobs that were delivered together and run together: what one of them does or suffers does not change the others."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from otoscope.results import unpack_result
from tests.support.sounds import chirp, encode
from tests.support.worker_harness import LONG, SHORT, WorkerHarness
from worker.decode.pool import DecoderPool
from worker.inference.batcher import BatcherStopped
from worker.pipeline import classify
from worker.pipeline.groups import Groups

OGG = encode(chirp(1.0, 16_000), 16_000, "OGG", "VORBIS")


def run(harness: WorkerHarness, *ids: str) -> list[BaseException | None]:
    """Run these jobs as the queue does, each in a thread of its own; what each raises."""
    harness.runner.expect(ids, [])
    with ThreadPoolExecutor(len(ids)) as pool:
        futures = [pool.submit(harness.runner.run, job_id) for job_id in ids]
        return [future.exception(30) for future in futures]


def statuses(harness: WorkerHarness, ids: list[str]) -> list[str]:
    return [harness.job(job_id).status for job_id in ids]


def test_they_share_a_batch_and_have_the_results_of_jobs_alone(harness: WorkerHarness) -> None:
    """All windows are submitted before the first is waited for; timings and metrics are those of any job."""
    alone = [harness.result(sound) for sound in (SHORT, OGG, LONG)]
    before = harness.count("succeeded")
    ids = [harness.submit(sound) for sound in (SHORT, OGG, LONG)]
    assert run(harness, *ids) == [None] * 3
    for job_id, expected in zip(ids, alone, strict=True):
        packed = harness.stores.run(harness.stores.gateway.result(job_id))
        assert packed is not None
        result = unpack_result(packed)
        assert [name for name, _ in result.predictions] == [name for name, _ in expected.predictions]
        assert [p for _, p in result.predictions] == pytest.approx([p for _, p in expected.predictions], abs=2e-2)
        assert harness.job(job_id).timings.forward is not None
    assert harness.count("succeeded") == before + 3
    assert harness.runner.in_flight == []


def test_a_bad_file_fails_alone(harness: WorkerHarness) -> None:
    """Also one that kills its decode process would."""
    ids = [harness.submit(sound) for sound in (SHORT, OGG[:200] + bytes(2_000), SHORT)]
    assert run(harness, *ids) == [None] * 3
    assert statuses(harness, ids) == ["succeeded", "failed", "succeeded"]


def test_a_cancelled_one_is_left_out(harness: WorkerHarness) -> None:
    """Before the others have ended."""
    harness.free.clear()
    ids = [harness.submit() for _ in range(3)]
    harness.runner.expect(ids, [])
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(harness.runner.run, job_id) for job_id in ids]
        assert harness.entered.acquire(timeout=20)
        assert harness.stores.run(harness.stores.gateway.cancel(ids[1])) == "cancelled"
        harness.runner.abort_cancelled()
        harness.free.set()
        assert [future.exception(30) for future in futures] == [None] * 3
    assert statuses(harness, ids) == ["succeeded", "cancelled", "succeeded"]


def test_those_that_were_not_run_are_requeued(harness: WorkerHarness) -> None:
    """Each by the thread of its own task, as a job alone; and with no attempt counted."""
    harness.batcher.stop(drain=False, timeout=20)
    ids = [harness.submit() for _ in range(3)]
    raised = run(harness, *ids)
    assert [type(error) for error in raised] == [BatcherStopped] * 3
    assert statuses(harness, ids) == ["queued"] * 3
    assert [harness.stores.raw.hget(f"otoscope:job:{job_id}", "attempts") for job_id in ids] == [b"0"] * 3


def test_the_others_do_not_wait_for_one_whose_decoding_takes_long(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in their own threads meanwhile; its decode process goes on."""
    decoder = DecoderPool(1, 30.0, 60.0)
    monkeypatch.setattr(harness.classifier, "_decoder", decoder)
    monkeypatch.setattr(classify, "_TOGETHER_SECONDS", 0.3)
    ids = [harness.submit(sound) for sound in (OGG, SHORT, SHORT)]
    pid = decoder.pids[0]
    harness.runner.expect(ids, [])
    try:
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(harness.runner.run, job_id) for job_id in ids]
            assert [future.exception(30) for future in futures[1:]] == [None] * 2
            assert statuses(harness, ids) == ["running", "succeeded", "succeeded"]
            os.kill(pid, signal.SIGCONT)
            assert futures[0].exception(30) is None
        assert decoder.pids == [pid]
    finally:
        decoder.close()
    assert statuses(harness, ids) == ["succeeded"] * 3


def test_a_job_that_is_delivered_again_runs_alone() -> None:
    """Also one that was expected in a group before its connection was lost; and a group is led once."""
    groups = Groups(lanes=1)
    groups.expect(["a", "b", "c"], [])
    groups.expect(["d"], ["b"])
    assert [groups.take(job_id) for job_id in ("b", "d")] == [None, None]
    first, last = groups.take("a"), groups.take("c")
    assert first is not None
    assert first is last
    assert groups.take("a") is None
    assert [first.lead(), first.lead()] == [True, False]


def test_idle_lanes_share_a_delivery() -> None:
    """Each gets a part of it; while groups run, the next ones are larger."""
    groups = Groups(lanes=2)
    groups.expect([*"abcdef"], [])
    assert {frozenset(group.rest) for job_id in "abcdef" if (group := groups.take(job_id))} == {
        frozenset("ace"), frozenset("bdf"),
    }  # fmt: skip
    groups.began()
    groups.expect([*"abcd"], [])
    group = groups.take("a")
    assert group is not None
    assert set(group.rest) == set("abcd")
