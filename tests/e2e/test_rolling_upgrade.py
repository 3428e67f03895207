"""During a rolling upgrade gateways and workers of neighbouring contract versions share one queue."""

import subprocess
import tempfile
from pathlib import Path

import pytest

from otoscope import Client
from otoscope.demo_sound import RATE, alarm_clock
from otoscope.types import Part
from tests.conftest import PYTHON, ROOT, start_server, write_tiny_model
from tests.e2e.conftest import Stack


@pytest.mark.parametrize("later", ["api", "worker"])
def test_the_next_version_works_with_this_one(later: str) -> None:
    """Whichever side is upgraded first, jobs with every part succeed, and unknown fields are ignored."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        directory = Path(name)
        write_tiny_model(directory / "models" / "tiny")
        server, socket = start_server(directory)
        stack = Stack.on(directory, f"unix://{socket}", default_model="tiny")
        try:
            for side in ("worker", "api"):
                if side == later:
                    with (directory / f"{side}.log").open("ab") as log:
                        stack.processes[side] = subprocess.Popen(
                            [PYTHON, "-m", "tests.support.next_version", side],
                            cwd=ROOT, env=stack.environment, stdout=log, stderr=subprocess.STDOUT,
                        )  # fmt: skip
                else:
                    stack.start(side)
            stack.until_ready()
            with Client(stack.url) as client:
                (card,) = client.models().models
                job = client.classify(alarm_clock(), RATE, include=list(Part), layer=card.layers[-1].name)
                arrays = client.result(job.id)
                assert job.result is not None
                assert len(job.result.predictions) == min(5, len(card.classes))
                assert set(arrays.parts) == set(Part)
                assert arrays.channels
        finally:
            statuses = {side: stack.stop(side) for side in list(stack.processes)}
            server.terminate()
            server.wait()
        logs = "".join(path.read_text() for path in directory.glob("*.log") if path.name != "redis.log")
        assert statuses == {"worker": 0, "api": 0}, logs
        assert "Traceback" not in logs
