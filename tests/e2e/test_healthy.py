"""The command of the images' HEALTHCHECK, with a real gateway and a real worker."""

import subprocess
from urllib.parse import urlsplit

from tests.conftest import PYTHON, ROOT, free_port
from tests.e2e.conftest import Stack


def healthy(port: int | None, *arguments: str) -> bool:
    done = subprocess.run(
        [PYTHON, "-IS", "compose/healthy.py", str(port), *arguments], cwd=ROOT, capture_output=True, timeout=30
    )
    assert done.returncode in (0, 1)
    assert done.stderr == b""
    return done.returncode == 0


def test_gateway_and_worker_are_healthy(stack: Stack) -> None:
    assert healthy(urlsplit(stack.url).port, "/health/live")
    assert healthy(urlsplit(stack.worker_metrics).port, "/metrics", "otoscope_worker_model_ready")


def test_an_unhealthy_service_is_reported(stack: Stack) -> None:
    assert not healthy(free_port(), "/health/live")
    assert not healthy(urlsplit(stack.url).port, "/nothing-here")
    metrics_port = urlsplit(stack.worker_metrics).port
    assert not healthy(metrics_port, "/metrics", "otoscope_worker_jobs_in_progress"), "it is 0"
    assert not healthy(urlsplit(stack.worker_metrics).port, "/metrics", "otoscope_worker_model"), "a prefix of a name"
