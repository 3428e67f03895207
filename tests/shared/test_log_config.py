"""What a log line looks like, for people and for machines."""

import json
import subprocess
from typing import Any

import pytest

from tests.conftest import PYTHON, ROOT

PROGRAM = """
import logging, warnings
from shared import log_config as logs
logs.configure({how!r})
log = logging.getLogger("room")
{body}
"""


def logged(how: str, body: str) -> list[str]:
    """The lines that a process of its own writes to stderr."""
    program = PROGRAM.format(how=how, body=body)
    done = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    return done.stderr.splitlines()


def test_json_is_a_line_an_event() -> None:
    """Time, level, logger, message and what came with it; a traceback and a line break stay inside their line."""
    body = r"""
log.info("accepted %d", 1, extra={"job": "a1", "timings": {"decode": 0.5}, "odd": {1}, "color_message": "x"})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("two\nlines", extra={"job": "a1"})
warnings.warn("old")
"""
    first, second, third = (dict[str, Any](json.loads(line)) for line in logged("json", body))
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "INFO", "logger": "room", "message": "accepted 1", "job": "a1", "timings": {"decode": 0.5},
        "odd": "{1}",
    }  # fmt: skip
    assert (second["message"], second["job"], second["level"]) == ("two\nlines", "a1", "ERROR")
    assert second["error"].endswith("ZeroDivisionError: division by zero\n")
    assert "old" in third["message"]


@pytest.mark.parametrize("how", ["text", "json"])
def test_a_terminal_is_spared_the_way_of_every_job(how: str) -> None:
    """What needs somebody is told with its job in both; what happens to every job in JSON alone."""
    body = 'log.info("accepted", extra={"job": "a1"})\nlog.info("up")\nlog.warning("lost", extra={"job": "a1"})'
    lines = logged(how, body)
    assert len(lines) == (2 if how == "text" else 3)
    assert "a1" in lines[-1]
    if how == "text":
        assert lines[-1].endswith("WARNING room  lost  job=a1")
