"""The address of a worker's metrics, as it tells it to others."""

import socket
import urllib.request
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
import torch

from worker.telemetry.metrics import WorkerMetrics, metrics_url


def test_what_it_listens_on_is_its_address() -> None:
    """Of both families."""
    assert metrics_url("127.0.0.1", 9100) == "http://127.0.0.1:9100/metrics"
    assert metrics_url("fd00::7", 9100) == "http://[fd00::7]:9100/metrics"


def test_one_that_listens_everywhere_tells_an_address_of_this_machine() -> None:
    """Not one that means nothing to others; and the port that it was given where it asked for any."""
    metrics = WorkerMetrics(torch.device("cpu"))
    close = metrics.serve(0, "0.0.0.0")
    try:
        if not metrics.url:
            pytest.skip(f"the name of this machine, {socket.gethostname()!r}, stands for no address")
        assert not ip_address(urlsplit(metrics.url).hostname or "").is_unspecified
        assert b"otoscope_worker_jobs_total" in urllib.request.urlopen(metrics.url, timeout=5).read()
    finally:
        close()


def test_a_name_that_stands_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no address to tell, and nobody has to wait for one."""
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    assert metrics_url("0.0.0.0", 9100) == ""
