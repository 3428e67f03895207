"""What this version writes into Redis, kept for later versions, which must be able to read it.

    python -m tests.support.contract_snapshot > tests/shared/contract_vN.json

Run once for each contract version, when it is released. The file holds a queued job, a job that succeeded with every
part, a failed job, a worker's heartbeat and the card of its model.
"""

import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from otoscope.errors import AudioCorrupt
from otoscope.types import JobOptions, ModelCard, Part
from shared.config.settings import Settings
from shared.contract import LONGEST_HEARTBEAT
from shared.jobs.records import WorkerHeartbeat
from shared.results import pack_result
from tests.conftest import start_server
from tests.shared.conftest import Stores
from tests.shared.test_contract import full

CARD = ModelCard.model_validate(
    {
        "name": "tiny",
        "description": "two classes",
        "classes": ["dog", "rain"],
        "sample_rate": 16_000,
        "window_seconds": 1.0,
        "architecture": {"kind": "resnet"},
        "frontend": {"mels": 32},
        "parameters": 5,
        "layers": [
            {
                "name": "stem",
                "shape": [4, 8, 26],
                "kind": "stem",
                "inputs": [],
                "receptive_field": {"start": -3, "stride": 2, "size": 7},
            }
        ],
        "accuracy": [{"data": "ESC-50", "protocol": "fold 5", "correct": 3, "total": 4}],
        "licence": "none",
        "version": "abc",
    }
)
OPTIONS = JobOptions(model="tiny", top_k=3, include=tuple(Part), window=1, layer="layer1")


def write(stores: Stores) -> dict[str, str]:
    """Store the jobs and the heartbeat; returns the id of each job by its name."""
    jobs = {name: stores.submit(options=OPTIONS, caller="key:1") for name in ("succeeded", "failed", "queued")}
    stores.claim(jobs["succeeded"])
    stores.succeed(jobs["succeeded"], pack_result(full()))
    stores.claim(jobs["failed"])
    stores.worker.fail(jobs["failed"], AudioCorrupt("the file ends in the middle"))
    stores.worker.heartbeat(WorkerHeartbeat("w1", ["tiny"], 2), {"tiny": CARD}, LONGEST_HEARTBEAT)
    return jobs


def dump(client: redis.Redis) -> Iterator[tuple[str, str, Any]]:
    """Key, type and value of every key; bytes as base64, streams and sets as lists."""

    def text(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, dict):
            return [[text(key), text(own)] for key, own in value.items()]
        return [text(own) for own in value] if isinstance(value, list | tuple) else value

    reads = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    for key in sorted(client.scan_iter()):
        kind: bytes = client.type(key)
        yield key.decode(), kind.decode(), text(reads[kind](key))


def load(client: redis.Redis, written: list[list[Any]]) -> None:
    """Write what `dump` has read."""

    def raw(value: Any) -> Any:
        return base64.b64decode(value)

    for key, kind, value in written:
        if kind == "string":
            client.set(key, raw(value))
        elif kind == "hash":
            client.hset(key, mapping={raw(name): raw(own) for name, own in value})
        elif kind == "list":
            client.rpush(key, *map(raw, value))
        elif kind == "zset":
            client.zadd(key, {raw(name): score for name, score in value})
        else:
            for entry, fields in value:
                client.xadd(key, {raw(name): raw(own) for name, own in fields}, id=raw(entry))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="oto") as name, ExitStack() as stack:
        server, socket = start_server(Path(name))
        stack.callback(server.wait)
        stack.callback(server.terminate)
        stores = Stores(Settings(redis_url=f"unix://{socket}"), stack)
        jobs = write(stores)
        json.dump({"jobs": jobs, "redis": list(dump(stores.raw))}, sys.stdout)
        print()


if __name__ == "__main__":
    main()
