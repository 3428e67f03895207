"""Gateways and workers of neighbouring contract versions on one Redis, as during a rolling upgrade.

`tests/e2e/test_rolling_upgrade.py` does the same with real processes.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from otoscope.errors import AudioCorrupt, ContractMismatch
from otoscope.results import CONTRACT_VERSION, understood, unpack_result
from otoscope.types import JobOptions, Part
from shared import contract
from shared.contract import job_key, worker_key
from shared.jobs.records import ClaimedJob, SkippedJob
from shared.results import pack_result
from tests.shared.conftest import AUDIO, Stores
from tests.shared.test_contract import full
from tests.support.contract_snapshot import CARD, OPTIONS, load, write

KEPT = sorted(Path(__file__).parent.glob("contract_v*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_data_of_earlier_versions_can_be_read(stores: Stores, path: Path) -> None:
    """Jobs in every state, results with every part, heartbeats, cards and queued ids."""
    kept = json.loads(path.read_text())
    load(stores.raw, kept["redis"])
    stores.raw.zadd(contract.WORKERS, {"w1": stores.raw.time()[0] + 60})
    jobs = kept["jobs"]

    done, events = stores.run(stores.gateway.events_since(jobs["succeeded"], "0-0", with_result=True))[::-1]
    assert (done.status, done.model, done.audio, done.caller) == ("succeeded", "tiny", AUDIO, "key:1")
    assert [event.kind for event in events] == ["queued", "running", "succeeded", "result"]
    assert done.packed is not None
    result = unpack_result(done.packed)
    later = set(Part) - set(result.parts)  # parts that did not exist then
    assert pack_result(result) == pack_result(replace(full(), parts=result.parts, **dict.fromkeys(later)))

    failed = stores.run(stores.gateway.get(jobs["failed"]))
    assert isinstance(failed.error, AudioCorrupt)
    assert failed.error.detail == "the file ends in the middle"

    (worker,) = stores.run(stores.gateway.workers())
    assert (worker.id, worker.models, worker.busy) == ("w1", ["tiny"], 2)
    assert stores.run(stores.gateway.cards()) == {"tiny": CARD}
    assert stores.queued_ids("key:1") == [jobs["succeeded"], jobs["failed"], jobs["queued"]]
    claimed = stores.claim(jobs["queued"])
    assert (claimed.model, claimed.audio) == ("tiny", b"sound")
    include = tuple(part for part in OPTIONS.include if part not in later)
    assert claimed.options == OPTIONS.model_copy(update={"include": include})
    assert stores.succeed(claimed.id)


def test_this_version_has_a_snapshot() -> None:
    """`python -m tests.support.contract_snapshot` is run once for each contract version, before it is released."""
    assert f"contract_v{CONTRACT_VERSION}" in [path.stem for path in KEPT]


def test_fields_of_the_next_version_are_ignored(stores: Stores) -> None:
    """It may add fields to records, cards, results and heartbeats."""
    jobs = write(stores)

    def add(text: bytes) -> bytes:
        return json.dumps({**json.loads(text), "added": {"deep": [1]}}).encode()

    for job_id in jobs.values():
        for field in ("audio", "timings"):
            if before := stores.raw.hget(job_key(job_id), field):
                stores.raw.hset(job_key(job_id), field, add(before))
        stores.raw.hset(job_key(job_id), mapping={"added": "1", "contract": CONTRACT_VERSION + 1})
    stores.raw.hset(contract.MODELS, "tiny", add(stores.raw.hget(contract.MODELS, "tiny") or b""))
    heartbeat = json.loads(stores.raw.get(worker_key("w1")) or b"")
    stores.raw.set(worker_key("w1"), json.dumps({**heartbeat, "contract": CONTRACT_VERSION + 1, "added": 1}))
    tree = msgpack.unpackb(stores.run(stores.gateway.result(jobs["succeeded"])) or b"")
    later = msgpack.packb({**tree, "contract": CONTRACT_VERSION + 1, "added": [1]})

    assert stores.run(stores.gateway.get(jobs["succeeded"])).status == "succeeded"
    assert pack_result(unpack_result(later)) == pack_result(full())
    assert stores.run(stores.gateway.cards()) == {"tiny": CARD}
    assert [worker.id for worker in stores.run(stores.gateway.workers())] == ["w1"]
    assert stores.claim(jobs["queued"]).options == OPTIONS


@pytest.mark.parametrize(
    ("field", "value"),
    [("contract", str(CONTRACT_VERSION + 2)), ("options", '{"include": ["smell"]}'), ("options", '{"later": true}')],
)
def test_a_job_that_only_newer_workers_understand_is_released(stores: Stores, field: str, value: str) -> None:
    """It neither fails nor runs with wrong options: it is queued in its old place, with no attempt counted."""
    job_id = stores.submit()
    stores.raw.hset(job_key(job_id), field, value)
    with pytest.raises(ContractMismatch, match=re.escape(value)):
        stores.worker.claim(job_id, "w1")
    assert stores.status(job_id) == "queued"
    assert stores.raw.hget(job_key(job_id), "attempts") == b"0"
    assert stores.raw.zcard(contract.QUEUED) == 1


def test_only_options_that_were_set_are_stored(stores: Stores) -> None:
    """A worker of an earlier version runs the jobs without the options that it does not know."""
    job_id = stores.submit(options=JobOptions(top_k=3))
    assert stores.raw.hget(job_key(job_id), "options") == b'{"top_k":3}'


def test_a_job_without_contract_version_has_version_1(stores: Stores) -> None:
    """The first gateways stored none."""
    job_id = stores.submit()
    stores.raw.hdel(job_key(job_id), "contract")
    assert not isinstance(stores.worker.claim(job_id, "w1"), SkippedJob)


def test_versions_too_far_apart_are_rejected(stores: Stores) -> None:
    """A worker that could not run the jobs of this gateway does not count as ready; a result two versions ahead is
    not read."""
    write(stores)
    heartbeat = json.loads(stores.raw.get(worker_key("w1")) or b"")
    for far in (CONTRACT_VERSION - 2, CONTRACT_VERSION + 2):
        stores.raw.set(worker_key("w1"), json.dumps({**heartbeat, "contract": far}))
        assert stores.run(stores.gateway.workers()) == []
    tree = msgpack.unpackb(pack_result(full()))
    with pytest.raises(ContractMismatch, match=str(CONTRACT_VERSION + 2)):
        unpack_result(msgpack.packb({**tree, "contract": CONTRACT_VERSION + 2}))
    assert understood(CONTRACT_VERSION + 1)
    assert isinstance(stores.claim(stores.submit()), ClaimedJob)
