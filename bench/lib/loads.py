"""Load from several processes: one that sends thousands of requests a second would measure itself.

`python -m bench.lib.loads URL CALLERS SECONDS FILE` is one of them. FILE holds the requests as a MessagePack list; what
comes out is a MessagePack map of the fields of `LoadResult`.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgpack

from otoscope.loadgen import LoadResult, Target, measure

TREE = Path(__file__).parents[2]


def load_all(urls: Sequence[str], requests: Sequence[bytes], callers: int, seconds: float) -> LoadResult:
    """`callers` concurrent callers, spread over these gateways, a process for each; together.

    Raises CalledProcessError where one of them fails.
    """
    urls = urls[:callers]
    with tempfile.NamedTemporaryFile() as file:
        file.write(msgpack.packb(list(requests)))
        file.flush()
        command = [sys.executable, "-m", "bench.lib.loads"]
        running = []
        for at, url in enumerate(urls):
            share = callers // len(urls) + (at < callers % len(urls))
            arguments = [*command, url, str(share), str(seconds), file.name]
            running.append(subprocess.Popen(arguments, cwd=TREE, stdout=subprocess.PIPE))
        total = LoadResult(seconds=seconds)
        for process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
            part = msgpack.unpackb(output)
            total.latencies += part["latencies"]
            total.outcomes += Counter(part["outcomes"])
            total.bytes += part["bytes"]
    return total


def main() -> None:
    url, callers, seconds, file = sys.argv[1:]
    requests = msgpack.unpackb(Path(file).read_bytes())
    result = measure(Target.of(url), requests, callers=int(callers), seconds=float(seconds))
    fields = {"latencies": result.latencies, "outcomes": dict(result.outcomes), "bytes": result.bytes}
    sys.stdout.buffer.write(msgpack.packb(fields))


if __name__ == "__main__":
    main()
