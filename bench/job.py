"""CPU time of a job in the thread of the worker that runs it, without gateway, Celery and other load on its cores.

    .venv/bin/python bench/job.py [--model esc50-light] [--format WAV] [--jobs 200] [--together 1 4] [--tree TREE]

Jobs are submitted to a Redis-compatible server of its own and run one after the other by the worker's own parts, or
`together` as the queue delivers them. On a machine that other programs use, the CPU time of one thread varies less than
that of a whole service (bench/cost.py). `--tree` measures the code of another working tree, with its own models/.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light", help="one of models/")
    parser.add_argument("--format", default="WAV", help="WAV, FLAC, OGG or MP3")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4], help="jobs of a group")
    parser.add_argument("--tree", type=Path, default=HERE)
    options = parser.parse_args()
    # Before any package of this project is imported, also by the decode processes.
    sys.path.insert(0, str(options.tree))
    os.environ["PYTHONPATH"] = str(options.tree)
    from commands.stack.embedded_redis import server_binary

    with tempfile.TemporaryDirectory() as home:
        socket = Path(home, "redis.sock")
        arguments = ["--port", "0", "--unixsocket", str(socket), "--dir", home, "--save", "", "--maxmemory", "2gb"]
        with subprocess.Popen([str(server_binary()), *arguments], stdout=subprocess.DEVNULL) as server:
            try:
                while not socket.exists():
                    time.sleep(0.05)
                measure(options, socket)
            finally:
                server.terminate()


def measure(options: argparse.Namespace, socket: Path) -> None:
    """Prints a line for each size of a group."""
    from bench.lib.clips import encoded
    from shared.config.settings import Settings
    from worker.app import Worker

    settings = Settings(
        redis_url=f"unix://{socket}",
        models_dir=options.tree / "models",
        models=options.model,
        default_model=options.model,
        metrics_port=0,
    )
    worker = Worker(settings)
    worker.start()
    try:
        sounds, runner = encoded(options.format), worker._runner
        for size in options.together:
            ids = asyncio.run(submit(settings, options.model, sounds, options.jobs + 5 * size))
            for position in range(0, len(ids), size):
                if position == 5 * size:  # behind the warm-up
                    began = time.thread_time(), time.process_time()
                runner.run(ids[position : position + size])
            spent = time.thread_time() - began[0], time.process_time() - began[1]
            figures = {"together": size, "thread_ms": spent[0], "process_ms": spent[1]}
            figures |= {name: round(1e3 * figures[name] / options.jobs, 3) for name in ("thread_ms", "process_ms")}
            print(json.dumps({"tree": options.tree.name, "format": options.format, **figures}), flush=True)
    finally:
        worker.close()


async def submit(settings: Any, model: str, sounds: list[bytes], jobs: int) -> list[str]:
    """The ids of so many new jobs."""
    from otoscope.types import AudioInfo, JobOptions
    from shared.audio.probe import probe
    from shared.jobs import AsyncJobStore
    from shared.jobs.records import NewJob
    from shared.redis_client.connection import connect_async

    client = connect_async(settings)
    store = AsyncJobStore(client, settings)
    ids: list[str] = []
    for number in range(jobs):
        sound = sounds[number % len(sounds)]
        header = probe(sound)
        info = AudioInfo(
            bytes=len(sound),
            container=header.container,
            codec=header.codec,
            sample_rate=header.rate,
            channels=header.channels,
            duration=header.seconds,
        )
        ids.append((await store.submit(NewJob(model, JobOptions(), info, sound, result_bytes=20_000))).id)
    await client.aclose()
    return ids


if __name__ == "__main__":
    main()
