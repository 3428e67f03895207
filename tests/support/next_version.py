"""A gateway or a worker of the next version: `python -m tests.support.next_version api|worker`.

The present one, that writes one contract higher and more than is known today, into everything the other side reads.
"""

import json
import runpy
import sys
from typing import Any

import msgpack
from pydantic import BaseModel

import otoscope.results
from otoscope.results import Result

otoscope.results.CONTRACT_VERSION += 1  # before anything imports it

import shared.results  # noqa: E402
from shared.jobs import JobStore  # noqa: E402


def main() -> None:
    version = otoscope.results.CONTRACT_VERSION
    plain, pack, announce = BaseModel.model_dump_json, shared.results.pack_result, JobStore.announce

    def written(self: BaseModel, **how: Any) -> str:
        return json.dumps({**json.loads(plain(self, **how)), "added": {"deep": [1]}})

    def packed(result: Result) -> bytes:
        tree = {**msgpack.unpackb(pack(result)), "contract": version, "added": [1]}
        return bytes(msgpack.packb(tree))

    def announced(self: JobStore, said: Any, *rest: Any) -> None:
        said.added = 1
        said.contract = version
        announce(self, said, *rest)

    BaseModel.model_dump_json = written  # type: ignore[assignment]
    shared.results.pack_result = packed
    JobStore.announce = announced  # type: ignore[method-assign]
    name = sys.argv.pop(1)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
