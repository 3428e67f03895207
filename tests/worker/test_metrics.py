"""What a worker counts of its answers, its failures and its cost, on real jobs."""

from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from otoscope.results import CONTRACT_VERSION
from tests.support.sounds import chirp, encode
from tests.support.worker_harness import LONG, Bench
from worker.decode.pool import DecoderPool
from worker.telemetry.gpu import register_gpu_metrics


def sample(bench: Bench, name: str, **labels: str) -> float | None:
    return bench.metrics.registry.get_sample_value(name, labels)


def test_answers_are_counted_by_their_first_class(bench: Bench) -> None:
    """With its confidence and the time since the job was accepted; the others of the model stand at zero."""
    classes = bench.registry.get("tiny").card.classes
    bench.metrics.serves("tiny", classes)
    result = bench.result(top_k=2)
    first, confidence = result.predictions[0]
    counts = {name: sample(bench, "otoscope_worker_predictions_total", model="tiny", **{"class": name})
              for name in classes}  # fmt: skip
    assert counts == {name: float(name == first) for name in classes}
    assert sample(bench, "otoscope_worker_confidence_ratio_sum", model="tiny") == pytest.approx(confidence)
    assert sample(bench, "otoscope_worker_job_seconds_count") == 1
    assert (sample(bench, "otoscope_worker_job_seconds_sum") or 0) > 0


def test_failures_are_counted_by_code(bench: Bench) -> None:
    """One that the caller asked for is no answer of any class."""
    bench.classifier.run(bench.submit(LONG, window=9))
    assert sample(bench, "otoscope_worker_failures_total", code="invalid_request") == 1
    assert sample(bench, "otoscope_worker_failures_total", code="internal_error") == 0
    assert sample(bench, "otoscope_worker_job_seconds_count") == 0


def test_a_job_that_fails_after_it_was_cancelled_is_no_failure(bench: Bench) -> None:
    """Here its deadline passes between the first look and the second, and nobody waits for it any more."""
    job_id = bench.submit(LONG, include=("cam",))
    thread = bench.run_held(job_id)
    bench.stores.run(bench.stores.gateway.cancel(job_id))
    bench.classifier.held[0].deadline = 0.0
    bench.free.set()
    thread.join(20)
    assert bench.count("cancelled") == 1
    assert sample(bench, "otoscope_worker_failures_total", code="deadline_exceeded") == 0
    assert sample(bench, "otoscope_worker_job_seconds_count") == 0


def test_jobs_of_a_dead_worker_are_counted_as_delivered_again(bench: Bench) -> None:
    job_id = bench.submit()
    bench.stores.start(job_id, "dead")
    assert sample(bench, "otoscope_worker_redeliveries_total") == 0
    bench.classifier.run(job_id)
    assert sample(bench, "otoscope_worker_redeliveries_total") == 1
    assert bench.count("succeeded") == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_decode_processes_cost_cpu_that_is_told(bench: Bench) -> None:
    """While they live and after they have ended, and never less than before."""
    name = "otoscope_worker_decoder_cpu_seconds_total"
    pool = DecoderPool(1, 30.0, 60.0)
    bench.metrics.watch_decoders(lambda: pool.pids)
    flac = encode(chirp(20.0, 48_000, 2), 48_000, "FLAC", "PCM_16")
    try:
        pool.decode(flac, 16_000)
        begun = sample(bench, name) or 0.0
        for _ in range(5):
            pool.decode(flac, 16_000)
        living = sample(bench, name) or 0.0
        assert living > begun
    finally:
        pool.close()
    assert (sample(bench, name) or 0.0) >= living


def test_a_process_tells_of_itself(bench: Bench) -> None:
    text = generate_latest(bench.metrics.registry).decode()
    assert f'otoscope_build_info{{contract="{CONTRACT_VERSION}",version="' in text
    if Path("/proc/self/stat").exists():
        for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
            assert (sample(bench, f"process_{name}") or 0) > 0, name


def test_a_lost_gpu_does_not_take_the_other_metrics_with_it() -> None:
    """Reading from a device that is not there raises; what is told then is NaN."""
    registry = CollectorRegistry()
    register_gpu_metrics(torch.device("cuda:63"), registry)
    text = generate_latest(registry).decode()
    assert "otoscope_worker_gpu_memory_total_bytes NaN" in text
    assert "otoscope_worker_gpu_busy_ratio" not in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_tells_its_memory() -> None:
    registry = CollectorRegistry()
    register_gpu_metrics(torch.device("cuda"), registry)
    held = torch.zeros(2**20, device="cuda")
    assert (registry.get_sample_value("otoscope_worker_gpu_memory_bytes") or 0) >= held.nbytes
    free = registry.get_sample_value("otoscope_worker_gpu_memory_free_bytes") or 0
    assert 0 < free < (registry.get_sample_value("otoscope_worker_gpu_memory_total_bytes") or 0)
