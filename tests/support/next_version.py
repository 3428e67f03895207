"""A gateway or a worker of the next version: `python -m tests.support.next_version api|worker`.

It is the present one, with the next contract version and additional fields in everything that the other side reads, but
for options: those that a caller sets need a worker that knows them.
"""

import json
import runpy
import sys
from typing import Any

import msgpack
from pydantic import BaseModel

import otoscope.results
from otoscope.results import Result

otoscope.results.CONTRACT_VERSION += 1  # before any other import reads it

import shared.results  # noqa: E402
from otoscope.types import JobOptions  # noqa: E402
from shared.jobs import JobStore  # noqa: E402


def main() -> None:
    version = otoscope.results.CONTRACT_VERSION
    dump_json, pack, send_heartbeat = BaseModel.model_dump_json, shared.results.pack_result, JobStore.heartbeat

    def dump_more(self: BaseModel, **options: Any) -> str:
        text = dump_json(self, **options)
        return text if isinstance(self, JobOptions) else json.dumps({**json.loads(text), "added": {"deep": [1]}})

    def pack_more(result: Result) -> bytes:
        tree = {**msgpack.unpackb(pack(result)), "contract": version, "added": [1]}
        return bytes(msgpack.packb(tree))

    def send_more(self: JobStore, heartbeat: Any, *rest: Any) -> None:
        heartbeat.added = 1
        heartbeat.contract = version
        send_heartbeat(self, heartbeat, *rest)

    BaseModel.model_dump_json = dump_more  # type: ignore[assignment]
    shared.results.pack_result = pack_more
    JobStore.heartbeat = send_more  # type: ignore[method-assign]
    name = sys.argv.pop(1)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
