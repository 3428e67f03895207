"""The log formats: text for a terminal, JSON lines for a log collector."""

import json
import subprocess
from typing import Any

import pytest

from tests.conftest import PYTHON, ROOT

PROGRAM = """
import logging, warnings
from shared import log_config
log_config.configure({log_format!r})
log = logging.getLogger("room")
{body}
"""


def logged(log_format: str, body: str) -> list[str]:
    """The lines that a separate process writes to stderr."""
    program = PROGRAM.format(log_format=log_format, body=body)
    done = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    return done.stderr.splitlines()


def test_json_is_one_line_per_event() -> None:
    """Time, level, logger, message and extra fields; a traceback and a line break stay within the line."""
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


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_control_characters_of_others_are_escaped(log_format: str) -> None:
    """A file name or an error message neither begins a line of the log nor controls the terminal that shows it."""
    body = r"""
evil = "a.wav\nINFO forged \x1b[2J\x9b31m\u202egnp"
log.warning("refused %s", evil, extra={"caller": evil})
try:
    raise ValueError(evil)
except ValueError:
    log.exception("failed")
"""
    lines = logged(log_format, body)
    assert not any(unsafe in line for line in lines for unsafe in "\x1b\x9b\u202e\r")
    assert not any(line.startswith("INFO") for line in (lines if log_format == "json" else lines[:1]))
    if log_format == "text":
        assert lines[0].count("a.wav\\nINFO forged \\x1b[2J\\x9b31m\\u202egnp") == 2
    else:
        assert json.loads(lines[0])["message"] == "refused a.wav\nINFO forged \x1b[2J\x9b31m\u202egnp"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_terminal_gets_no_routine_events_of_jobs(log_format: str) -> None:
    """Warnings appear with their job in both formats; routine events of every job in JSON alone."""
    body = 'log.info("accepted", extra={"job": "a1"})\nlog.info("up")\nlog.warning("lost", extra={"job": "a1"})'
    lines = logged(log_format, body)
    assert len(lines) == (2 if log_format == "text" else 3)
    assert "a1" in lines[-1]
    if log_format == "text":
        assert lines[-1].endswith("WARNING room  lost  job=a1")
