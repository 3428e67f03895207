"""What the images' HEALTHCHECK runs, asked about a real gateway and a real worker."""

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


def test_both_sides_are_well(stack: Stack) -> None:
    assert healthy(urlsplit(stack.url).port, "/health/live")
    assert healthy(urlsplit(stack.worker_metrics).port, "/metrics", "otoscope_worker_model_ready")


def test_what_is_not_well_is_told(stack: Stack) -> None:
    assert not healthy(free_port(), "/health/live")
    assert not healthy(urlsplit(stack.url).port, "/nothing-here")
    metrics_port = urlsplit(stack.worker_metrics).port
    assert not healthy(metrics_port, "/metrics", "otoscope_worker_jobs_in_progress"), "it holds none"
    assert not healthy(urlsplit(stack.worker_metrics).port, "/metrics", "otoscope_worker_model"), "half of a name"
