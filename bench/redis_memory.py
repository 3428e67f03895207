"""Bytes of Redis memory that a job takes, and the sustained rate of jobs that a memory limit carries.

    python bench/redis_memory.py --memory 1gb

Runs the embedded server with the shipped configuration and finishes jobs without parts. A finished job takes memory for
OTOSCOPE_RESULT_TTL, its tombstone for OTOSCOPE_TOMBSTONE_TTL longer; the rate is that at which what expires makes room
for what comes, at OTOSCOPE_REDIS_MEMORY_SHARE of the limit.
"""

import argparse
import asyncio
import subprocess
import tempfile
from pathlib import Path

import redis

from commands.stack.embedded_redis import Home
from otoscope.results import Result, WindowPrediction
from otoscope.types import AudioInfo, JobOptions, Timings
from shared.config.settings import Settings
from shared.jobs import AsyncJobStore, JobStore
from shared.jobs.records import NewJob
from shared.redis_client.connection import connect, connect_async
from shared.results import pack_result

_UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}
_AUDIO = AudioInfo(bytes=160_044, container="WAV", codec="PCM 16 bit", sample_rate=16_000, channels=1, duration=5.0)
_PREDICTIONS = [(f"class_name_{number}", 0.123456) for number in range(5)]
_RESULT = pack_result(
    Result(
        model="esc50",
        predictions=_PREDICTIONS,
        duration=5.0,
        sample_rate=16_000,
        windows=[WindowPrediction(0.0, 5.0, _PREDICTIONS)],
        combined="single window",
        window=0,
        parts=[],
    )
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="1gb", help="memory limit, such as 512mb or 1gb")
    parser.add_argument("--jobs", type=int, default=2_000)
    arguments = parser.parse_args()
    memory = int(arguments.memory[:-2]) * _UNITS[arguments.memory[-2:].lower()]
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with subprocess.Popen(home.program().argv, stdout=subprocess.DEVNULL) as server:
            try:
                while not home.answers():
                    pass
                job, tombstone = asyncio.run(_measure(Settings(redis_url=home.url), arguments.jobs))
            finally:
                server.terminate()
    settings = Settings()
    room = settings.redis_memory_share * memory
    seconds = job * settings.result_ttl + tombstone * settings.tombstone_ttl
    print(f"a finished job without parts: {job:,.0f} bytes, of them its tombstone: {tombstone:,.0f} bytes")
    print(f"sustained with {arguments.memory}: {room / seconds:,.1f} jobs a second")


async def _measure(settings: Settings, jobs: int) -> tuple[float, float]:
    """Bytes of a finished job, and of what is left of it once its record has expired."""
    with redis.Redis.from_url(settings.redis_url) as raw:
        client, worker_client = connect_async(settings), connect(settings)
        gateway, worker = AsyncJobStore(client, settings), JobStore(worker_client, settings)

        def used() -> int:
            return int(raw.info("memory")["used_memory"])

        async def run_job() -> str:
            job_id = (await gateway.submit(NewJob("esc50", JobOptions(), _AUDIO, b"sound", "net:192.0.2.1"))).id
            worker.claim(job_id, "worker")
            worker.succeed(job_id, _RESULT, Timings(decode=0.004, batch=0.004, forward=0.032))
            return job_id

        for _ in range(50):  # connections, scripts, and the indexes
            await run_job()
        before = used()
        ids = [await run_job() for _ in range(jobs)]
        full = used()
        for job_id in ids:
            raw.delete(*(f"otoscope:{kind}:{job_id}" for kind in ("job", "result", "events")))
        left = used()
        worker_client.close()
        await client.aclose()
    return (full - before) / jobs, (left - before) / jobs


if __name__ == "__main__":
    main()
