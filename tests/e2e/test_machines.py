"""The short form of bench/machines.py: failover of Redis, and a worker on another machine that loses its network."""

from typing import Any

import pytest

from tests.e2e.conftest import run_bench

pytestmark = [pytest.mark.long, pytest.mark.timeout(380)]


def run(*options: str) -> dict[str, Any]:
    """The one result; it has no error."""
    report = run_bench("bench/machines.py", "--rounds", "1", "--model", "esc50-light", *options, seconds=280)
    [result] = report["results"]
    assert result["wrong"] == []
    return dict(result)


def test_redis_failover() -> None:
    """Two replicas, three sentinels: a replica is promoted, no job stays unfinished, the killed primary returns as a
    replica. Only jobs that it had acknowledged and not replicated are lost: no more than were being submitted."""
    result = run("--only", "failover", "--jobs", "40")
    assert result["accepted"] == sum(result["ended"].values()) == 8 + 40 + 4 + 40 + 1
    assert result["ended"]["succeeded"] >= 8 + 40
    assert result["notes"]["replicas_in_the_end"] == 2


def test_network_partition() -> None:
    """Two workers, one of which is unreachable for longer than the visibility timeout: the other one runs its jobs,
    once, and after the partition it takes jobs again."""
    result = run("--only", "cut", "--workers", "2", "--jobs", "30", "--seconds", "7", "--visibility", "5")
    if why := result.get("left_out"):
        pytest.skip(why)
    assert result["accepted"] == sum(result["ended"].values()) == result["ended"]["succeeded"]
    shares = result["notes"]["shares"]
    assert set(shares["before"]) == set(shares["after"]) == {"machine-0", "machine-1"}
    assert shares["during"].get("machine-0", 0) < shares["during"]["machine-1"]
