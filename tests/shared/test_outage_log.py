"""The log of an outage."""

import logging

import pytest

from shared.outage_log import OutageLog


def test_an_outage_is_logged_at_its_begin_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """Once each, whatever is tried meanwhile; a further reason is logged, too."""
    caplog.set_level(logging.INFO)
    outage = OutageLog(logging.getLogger("tests"), "lost it", "found it", server=1)
    outage.succeeded()
    for _ in range(2):
        for reason in ("refused", "refused", "loading", "refused"):
            outage.failed(OSError(reason))
        outage.succeeded()
        outage.succeeded()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == 2 * [("WARNING", "lost it: refused"), ("WARNING", "lost it: loading"), ("INFO", "found it")]
    assert {vars(record)["server"] for record in caplog.records} == {1}
