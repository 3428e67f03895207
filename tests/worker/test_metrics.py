"""The metrics of a worker after real jobs: results, failures and cost."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from otoscope.results import CONTRACT_VERSION, WARNINGS
from otoscope.types import Verdict
from tests.support.sounds import chirp, encode, noise
from tests.support.worker_harness import LONG, RATE, WorkerHarness
from worker.decode.pool import DecoderPool
from worker.telemetry.gpu import register_gpu_metrics


def sample(harness: WorkerHarness, name: str, **labels: str) -> float | None:
    return harness.metrics.registry.get_sample_value(name, labels)


def test_results_are_counted_by_their_first_class(harness: WorkerHarness) -> None:
    """With its confidence and the time since the job was accepted; the other classes of the model are zero."""
    classes = harness.registry.get("tiny").card.classes
    harness.metrics.model_served("tiny", classes)
    result = harness.result(top_k=2)
    first, confidence = result.predictions[0]
    counts = {name: sample(harness, "otoscope_worker_predictions_total", model="tiny", **{"class": name})
              for name in classes}  # fmt: skip
    assert counts == {name: float(name == first) for name in classes}
    assert sample(harness, "otoscope_worker_confidence_ratio_sum", model="tiny") == pytest.approx(confidence)
    assert sample(harness, "otoscope_worker_job_seconds_count") == 1
    assert (sample(harness, "otoscope_worker_job_seconds_sum") or 0) > 0


def test_verdicts_and_warnings_are_counted(harness: WorkerHarness) -> None:
    """Every verdict and every code has a series from the start; a result may have several warnings."""
    quiet = (chirp(1.0, RATE) + noise(1.0, RATE)) * 0.018 + 0.2
    for sound in (quiet, quiet * 0):
        harness.result(encode(sound, RATE, "WAV", "FLOAT"))
    verdicts = {name: sample(harness, "otoscope_worker_verdicts_total", verdict=name) for name in get_args(Verdict)}
    assert verdicts == {"named": 1, "unsure": 0, "unknown": 0, "silent": 1}
    codes = {code: sample(harness, "otoscope_worker_warnings_total", code=code) for code in WARNINGS}
    assert codes == {code: float(code in ("quiet", "dc_offset", "silent")) for code in WARNINGS}


def test_failures_are_counted_by_code(harness: WorkerHarness) -> None:
    """A failed job is not counted as a result of any class."""
    harness.runner.run([harness.submit(LONG, window=9)])
    assert sample(harness, "otoscope_worker_failures_total", code="invalid_request", fault="caller") == 1
    assert sample(harness, "otoscope_worker_failures_total", code="internal_error", fault="service") == 0
    assert sample(harness, "otoscope_worker_job_seconds_count") == 0


def test_a_job_that_fails_after_it_was_cancelled_is_no_failure(harness: WorkerHarness) -> None:
    """Here its deadline passes between the first pass and the second one, after it was cancelled."""
    job_id = harness.submit(LONG, include=("cam",))
    thread = harness.run_blocked(job_id)
    harness.stores.run(harness.stores.gateway.cancel(job_id))
    harness.runner.in_flight[0].deadline = 0.0
    harness.free.set()
    thread.join(20)
    assert harness.count("cancelled") == 1
    assert sample(harness, "otoscope_worker_failures_total", code="deadline_exceeded", fault="service") == 0
    assert sample(harness, "otoscope_worker_job_seconds_count") == 0


def test_jobs_of_a_dead_worker_are_counted_as_redelivered(harness: WorkerHarness) -> None:
    job_id = harness.submit()
    harness.stores.claim(job_id, "dead")
    assert sample(harness, "otoscope_worker_redeliveries_total") == 0
    harness.runner.run([job_id])
    assert sample(harness, "otoscope_worker_redeliveries_total") == 1
    assert harness.count("succeeded") == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_cpu_time_of_decode_processes_is_counted(harness: WorkerHarness) -> None:
    """While they run and after they have ended; it never decreases."""
    name = "otoscope_worker_decoder_cpu_seconds_total"
    pool = DecoderPool(1, 30.0, 60.0)
    harness.metrics.track_decoder_cpu(lambda: pool.pids)
    flac = encode(chirp(20.0, 48_000, 2), 48_000, "FLAC", "PCM_16")
    try:
        pool.decode(flac, 16_000)
        begun = sample(harness, name) or 0.0
        for _ in range(5):
            pool.decode(flac, 16_000)
        running = sample(harness, name) or 0.0
        assert running > begun
    finally:
        pool.close()
    assert (sample(harness, name) or 0.0) >= running


def test_process_metrics_are_registered(harness: WorkerHarness) -> None:
    text = generate_latest(harness.metrics.registry).decode()
    assert f'otoscope_build_info{{contract="{CONTRACT_VERSION}",version="' in text
    if Path("/proc/self/stat").exists():
        for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
            assert (sample(harness, f"process_{name}") or 0) > 0, name


def test_a_lost_gpu_does_not_take_the_other_metrics_with_it() -> None:
    """Reading from a device that does not exist raises; the gauge is NaN then."""
    registry = CollectorRegistry()
    register_gpu_metrics(torch.device("cuda:63"), registry)
    text = generate_latest(registry).decode()
    assert "otoscope_worker_gpu_memory_total_bytes NaN" in text
    assert "otoscope_worker_gpu_busy_ratio" not in text


@pytest.mark.usefixtures("cuda")
def test_gpu_memory_is_measured() -> None:
    registry = CollectorRegistry()
    register_gpu_metrics(torch.device("cuda"), registry)
    held = torch.zeros(2**20, device="cuda")
    assert (registry.get_sample_value("otoscope_worker_gpu_memory_bytes") or 0) >= held.nbytes
    free = registry.get_sample_value("otoscope_worker_gpu_memory_free_bytes") or 0
    assert 0 < free < (registry.get_sample_value("otoscope_worker_gpu_memory_total_bytes") or 0)
