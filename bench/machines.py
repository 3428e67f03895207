"""Several machines: a network partition, latency to Redis, failover of Redis.

    sudo .venv/bin/python bench/machines.py [--model esc50-light] [--jobs 300] [--rounds 5] [--only cut delay failover]

`cut` and `delay` run workers in network namespaces (they need root and iproute2, and are skipped with the reason where
these are missing) and one Redis with a password, with TLS if redis-server and openssl are installed. `cut`: the first
worker is disconnected under load for longer than the visibility timeout; then every accepted job and the totals are
checked, and each worker's share of the jobs is printed. `delay`: the cost of a round-trip time of 20 ms to Redis.
`failover` needs no root: `kill -9` of the primary, with three sentinels and two replicas; jobs that it had acknowledged
and not replicated are lost, and counted.

Prints a line for each and one line of JSON; exit status 1 if a job was lost that need not be, or ended twice, or if the
totals do not balance.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

sys.path.append(str(Path(__file__).parents[1]))
from bench.faults import KEPT
from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.network import Machines, Network, missing
from bench.lib.sentinels import SentinelRig
from bench.lib.stack import submissions
from bench.lib.trial import Outcome, Trial
from otoscope.loadgen import Target, measure
from shared.contract import UNFINISHED, job_key

FLOOD = 60  # jobs that are kept unfinished
DELAYS = (0.0, 0.01)  # seconds, one way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light", help=f"{MODEL}, or one of models/")
    parser.add_argument("--jobs", type=int, default=300, help="unfinished at the fault")
    parser.add_argument("--workers", type=int, default=3, help="each on a machine of its own")
    parser.add_argument("--rounds", type=int, default=5, help="of each cut and failover")
    parser.add_argument("--seconds", type=float, default=18, help="disconnected; half as long before and after")
    parser.add_argument("--visibility", type=int, default=10, help="seconds, shorter than those")
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    why = missing()
    results: list[dict[str, Any]] = []
    for kind in options.only:
        if why and kind != "failover":
            results.append({"kind": kind, "left_out": why, "wrong": []})
            print(f"{kind}: left out, {why}", file=sys.stderr)
            continue
        for _ in range(1 if kind == "delay" else options.rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "models").mkdir()
                results.append(KINDS[kind](folder, model_directory(options.model, folder / "models"), options))
    print(json.dumps({"machine": describe(), "options": vars(options), "results": results}))
    raise SystemExit(any(result["wrong"] for result in results))


def cut(folder: Path, models: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A network partition of the first worker."""
    outcome = Outcome("cut")
    settings = {**KEPT, "visibility_timeout": str(options.visibility)}
    count = options.workers
    with Network(count) as network, Machines(network, folder, models, workers=count, **settings) as rig:
        outcome.notes["encrypted"] = rig.encrypted
        marks: list[float] = []

        async def pull(trial: Trial) -> None:
            await _flood(trial, options.seconds / 2)
            marks.append(_clock(rig))
            with network.unplugged(0):
                await _flood(trial, options.seconds)
                marks.append(_clock(rig))
            back = time.monotonic()
            while not _worked(rig, "machine-0", marks[1]):
                await _flood(trial, 0.5)
                if time.monotonic() > back + 60:
                    outcome.wrong.append("the worker that came back took no job within 60 s")
                    break
            outcome.notes["took_jobs_again_after"] = round(time.monotonic() - back, 1)
            await _flood(trial, options.seconds / 2)

        try:
            rig.start()
            with asyncio.Runner() as runner:
                runner.run(Trial(rig, outcome, options.jobs).run(pull))
            outcome.notes["shares"] = _shares(rig, marks)
        except TimeoutError as error:
            outcome.wrong.append(str(error))
    print(outcome.line(), file=sys.stderr)
    return {"kind": "cut", **vars(outcome)}


async def _flood(trial: Trial, seconds: float) -> None:
    """Keep some jobs unfinished for that long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if int(trial.rig.redis.zcard(UNFINISHED)) < FLOOD:
            await trial.submit(FLOOD // 3)
        await asyncio.sleep(0.02)


def _clock(rig: Machines) -> float:
    """The clock of Redis, which the records have."""
    seconds, micros = rig.redis.time()
    return seconds + micros / 1e6


def _records(rig: Machines) -> list[tuple[float, str]]:
    """The time of the last start of each job, and its machine."""
    found = (rig.redis.hmget(key, "started_at", "worker") for key in rig.redis.scan_iter(job_key("*"), count=1000))
    return [(float(at), who.decode().rpartition("-")[0]) for at, who in found if at and who]


def _worked(rig: Machines, machine: str, after: float) -> bool:
    return any(at > after and who == machine for at, who in _records(rig))


def _shares(rig: Machines, marks: list[float]) -> dict[str, dict[str, int]]:
    """Jobs by machine before, during and after the partition."""
    phases = {"before": Counter[str](), "during": Counter[str](), "after": Counter[str]()}
    for at, who in _records(rig):
        phases[list(phases)[sum(at > mark for mark in marks)]][who] += 1
    return {phase: dict(sorted(counts.items())) for phase, counts in phases.items()}


def delay(folder: Path, models: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Throughput without and with latency to Redis."""
    runs: dict[str, Any] = {}
    for one_way in DELAYS:
        own = folder / f"{one_way}"
        own.mkdir()
        with (
            Network(options.workers) as network,
            Machines(network, own, models, workers=options.workers, delay=one_way, **KEPT) as rig,
        ):
            rig.start()
            target = Target.of(rig.url)
            load = measure(target, submissions(target, encoded()), callers=32, seconds=15)
            runs[f"{2000 * one_way:g} ms"] = load.summary()
            print(f"delay {2000 * one_way:g} ms: {runs[f'{2000 * one_way:g} ms']}", file=sys.stderr)
    return {"kind": "delay", "runs": runs, "wrong": []}


def failover(folder: Path, models: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The primary is killed under load, one of two replicas is promoted, and the killed server returns as a replica."""
    outcome = Outcome("failover")
    with SentinelRig(folder, models, **KEPT) as rig:

        async def kill(trial: Trial) -> None:
            before, storm = rig.primary(), asyncio.create_task(trial.submit(options.jobs))
            await asyncio.sleep(0.3)  # into the middle of submissions
            rig.kill(rig.name_of(before))
            trial.broken = time.monotonic()
            while True:
                with suppress(redis.exceptions.RedisError):
                    if rig.primary() != before and await asyncio.to_thread(rig.redis.ping):
                        break
                await asyncio.sleep(0.05)
            outcome.notes["another_after"] = round(time.monotonic() - trial.broken, 1)
            await trial.submit(1)
            outcome.notes["accepts_after"] = round(time.monotonic() - trial.broken, 1)
            rig.begin(rig.name_of(before))
            while rig.replicas() < 2 and time.monotonic() < trial.broken + 60:
                await asyncio.sleep(0.2)
            outcome.notes["replicas_in_the_end"] = rig.replicas()
            await storm

        try:
            rig.start()
            with asyncio.Runner() as runner:
                runner.run(Trial(rig, outcome, options.jobs, may_lose=True).run(kill))
        except TimeoutError as error:
            outcome.wrong.append(str(error))
        if outcome.notes.get("replicas_in_the_end") != 2:
            outcome.wrong.append("the killed server did not return as a replica")
    print(outcome.line(), file=sys.stderr)
    return {"kind": "failover", **vars(outcome)}


KINDS = {"cut": cut, "delay": delay, "failover": failover}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is stopped
    main()
