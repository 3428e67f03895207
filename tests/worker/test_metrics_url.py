"""The metrics URL that a worker publishes with its heartbeat."""

import socket
import urllib.request
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
import torch

from worker.telemetry.metrics import WorkerMetrics, metrics_url


def test_the_url_has_the_address_that_the_server_listens_on() -> None:
    """IPv4 and IPv6."""
    assert metrics_url("127.0.0.1", 9100) == "http://127.0.0.1:9100/metrics"
    assert metrics_url("fd00::7", 9100) == "http://[fd00::7]:9100/metrics"


def test_listening_on_all_interfaces_gives_an_address_of_this_machine() -> None:
    """Not 0.0.0.0, which other machines cannot use; with port 0, the port that was assigned."""
    metrics = WorkerMetrics(torch.device("cpu"))
    close = metrics.serve(0, "0.0.0.0")
    try:
        if not metrics.url:
            pytest.skip(f"the name of this machine, {socket.gethostname()!r}, has no address")
        assert not ip_address(urlsplit(metrics.url).hostname or "").is_unspecified
        assert b"otoscope_worker_jobs_total" in urllib.request.urlopen(metrics.url, timeout=5).read()
    finally:
        close()


def test_a_host_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives an empty URL, without a delay."""
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    assert metrics_url("0.0.0.0", 9100) == ""
