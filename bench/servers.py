"""What several Redis servers cost a gateway: CPU time of its own for a submission, a notification and a probe.

    .venv/bin/python bench/servers.py [--servers 1 2 4] [--jobs 2000] [--rounds 5]

The gateway's half of the job store runs in this process, against embedded servers without workers; the time is that of
its thread. Each job causes two notifications, which every gateway receives. Prints medians over the rounds, as a table
and one line of JSON.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

sys.path.append(str(Path(__file__).parents[1]))
from api.notifications import Notifications
from bench.lib.machine import describe
from bench.lib.stack import redis_server
from commands.stack.embedded_redis import Home
from otoscope.types import AudioInfo, JobOptions
from shared.config.settings import Settings
from shared.contract import CHANGES, new_job_id
from shared.jobs import ShardedJobStore
from shared.jobs.records import NewJob
from shared.jobs.servers import Servers
from shared.redis_client.connection import connect_async

AUDIO = AudioInfo(bytes=30_000, container="OGG", codec="Vorbis", sample_rate=16_000, channels=1, duration=5.0)
BODY = bytes(AUDIO.bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--jobs", type=int, default=2_000, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures: dict[int, list[dict[str, float]]] = {count: [] for count in options.servers}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as exits:
        homes = [Home(Path(folder) / str(number)) for number in range(max(options.servers))]
        for home in homes:
            exits.enter_context(redis_server(home))
        for _ in range(options.rounds):
            for count in options.servers:
                for home in homes:
                    redis.Redis(unix_socket_path=str(home.socket)).flushall()
                figures[count].append(asyncio.run(measure(homes[:count], options.jobs)))
    print("| Redis servers | submission, µs | notification, µs | probe of a server, µs |\n|---:|---:|---:|---:|")
    for count, rounds in figures.items():
        cells = (f"{statistics.median(found[name] for found in rounds):.0f}" for name in rounds[0])
        print(f"| {count} | {' | '.join(cells)} |")
    print(json.dumps({"machine": describe(), "options": vars(options), "figures": figures}))


async def measure(homes: list[Home], jobs: int) -> dict[str, float]:
    """µs of CPU for each."""
    limits: dict[str, Any] = {"queue_limit": 10 * jobs, "caller_share": 1.0, "redis_memory_share": 1.0}
    settings = Settings(redis_url=" ".join(home.url for home in homes), **limits)
    clients = [connect_async(settings, number) for number in range(len(homes))]
    servers = Servers(clients, settings)
    store = ShardedJobStore(servers, settings)

    async def submit() -> None:
        for _ in range(jobs):
            await store.submit(NewJob("esc50", JobOptions(), AUDIO, BODY), store.new_job_id("esc50"))

    async def probe() -> None:
        for _ in range(jobs):
            for server in servers:
                await servers.probe(server)

    try:
        return {
            "submit": await _cpu(submit, jobs),
            "notification": await _notifications(store, servers, homes, jobs),
            "probe": await _cpu(probe, jobs * len(homes)),
        }
    finally:
        for client in clients:
            await client.aclose()


async def _notifications(store: ShardedJobStore, servers: Servers, homes: list[Home], jobs: int) -> float:
    """µs for each notification of a job for which no request waits."""
    notifications, each = Notifications(store), 10 * jobs // len(homes)
    received = 0
    dispatch = notifications._dispatch

    def counted(job_id: str | None, status: str) -> None:
        nonlocal received
        received += job_id is not None
        dispatch(job_id, status)

    notifications._dispatch = counted  # type: ignore[method-assign]
    tasks = [asyncio.create_task(notifications.run(server)) for server in servers]
    clients = [redis.Redis(unix_socket_path=str(home.socket)) for home in homes]
    while any(client.pubsub_numsub(CHANGES)[0][1] < 1 for client in clients):
        await asyncio.sleep(0.01)

    def publish() -> None:
        for client in clients:
            pipe = client.pipeline(transaction=False)
            for _ in range(each):
                pipe.publish(CHANGES, f"{new_job_id()} succeeded")
            pipe.execute()

    async def receive() -> None:
        await asyncio.to_thread(publish)
        while received < each * len(homes):
            await asyncio.sleep(0.001)

    spent = await _cpu(receive, each * len(homes))
    for task in tasks:
        task.cancel()
    for client in clients:
        client.close()
    return spent


async def _cpu(work: Callable[[], Awaitable[None]], times: int) -> float:
    """µs of CPU of this thread, divided by `times`."""
    began = time.thread_time()
    await work()
    return (time.thread_time() - began) / times * 1e6


if __name__ == "__main__":
    main()
