"""The short form of bench/faults.py: processes killed and connections cut under load, and no job lost."""

import pytest

from tests.e2e.conftest import run_bench


@pytest.mark.long
@pytest.mark.timeout(480)
def test_no_job_is_lost() -> None:
    """Worker, gateway, Redis and one of two Redis servers are killed under load, and the network fails: every accepted
    job ends once."""
    kinds = ["worker", "gateway", "server", "cut network", "one of two servers"]
    command = ["bench/faults.py", "--jobs", "200", "--rounds", "3", "--model", "esc50-light", "--only", *kinds]
    faults = run_bench(*command, seconds=390)["faults"]
    assert [fault["fault"] for fault in faults] == kinds
    for fault in faults:
        assert fault["wrong"] == []
        assert fault["notes"]["in_flight"] > 0
        assert fault["accepted"] == sum(fault["ended"].values()) == 8 + 200 + 20
    assert faults[0]["notes"]["redelivered_after"] < 30, "ten seconds, with a margin for a busy machine"
