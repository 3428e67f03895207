"""The short form of bench/machines.py: a server that is replaced, a worker on another machine whose cable is pulled."""

from typing import Any

import pytest

from tests.e2e.conftest import run_bench

pytestmark = [pytest.mark.long, pytest.mark.timeout(380)]


def run(*options: str) -> dict[str, Any]:
    """The one result; nothing wrong in it."""
    report = run_bench("bench/machines.py", "--rounds", "1", "--model", "esc50-light", *options, seconds=280)
    [result] = report["results"]
    assert result["wrong"] == []
    return dict(result)


def test_a_server_that_dies_is_replaced() -> None:
    """Two replicas, three sentinels: another is written to, no job is left behind, and the dead one comes back as a
    replica. What it had acknowledged and passed on to nobody is gone with it, and no more than was just being sent."""
    result = run("--only", "failover", "--jobs", "40")
    assert result["accepted"] == sum(result["ended"].values()) == 8 + 40 + 4 + 40 + 1
    assert result["ended"]["succeeded"] >= 8 + 40
    assert result["notes"]["replicas_in_the_end"] == 2


def test_a_cable_is_pulled() -> None:
    """Two workers, one of which nobody can reach for longer than the visibility timeout: its jobs are done by the
    other, once, and it takes jobs again."""
    result = run("--only", "cut", "--workers", "2", "--jobs", "30", "--seconds", "7", "--visibility", "5")
    if why := result.get("left_out"):
        pytest.skip(why)
    assert result["accepted"] == sum(result["ended"].values()) == result["ended"]["succeeded"]
    shares = result["notes"]["shares"]
    assert set(shares["before"]) == set(shares["after"]) == {"machine-0", "machine-1"}
    assert shares["during"].get("machine-0", 0) < shares["during"]["machine-1"]
