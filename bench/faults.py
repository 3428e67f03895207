"""Fault injection: whichever process dies, every accepted job ends once, and the totals balance.

    .venv/bin/python bench/faults.py [--model esc50] [--jobs 500] [--rounds 20] [--only worker gateway ...]

Each fault is injected into a service of its own with that many unfinished jobs, for some of which a Python client waits
or follows the events. Afterwards every job that got a 202 is checked, and totals, records and keys in Redis are
compared. The memory of a small gateway and a small worker is limited by a cgroup where one can be made, else watched.
Prints a line for each fault and one line of JSON; exit status 1 if a job is lost or ended twice, or if the
totals do not balance.
"""

import argparse
import asyncio
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import httpx2
from tqdm import tqdm

from bench.lib.clips import MODEL, model_directory
from bench.lib.hoarders import RATE, READ_SECONDS, addresses, hoard_gateway, long_flac, wav
from bench.lib.machine import describe
from bench.lib.rig import Rig
from bench.lib.trial import DEADLINE, Fault, Outcome, Trial
from shared.contract import TOTALS, UNACKED, job_key

KEPT = {"queue_limit": "4000", "caller_share": "1", "job_deadline": str(DEADLINE), "result_ttl": "3600"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50", help=f"{MODEL}, or one of models/")
    parser.add_argument("--jobs", type=int, default=500, help="unfinished at each fault")
    parser.add_argument("--rounds", type=int, default=20, help="of the three kinds of kill -9 and all of them at once")
    parser.add_argument("--sounds", type=int, default=100, help="of ten minutes, for a small worker")
    parser.add_argument("--only", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    options = parser.parse_args()
    FAULTS["small worker"] = (partial(small_worker, sounds=options.sounds), FAULTS["small worker"][1])
    kills = [name for name in KILLS if name in options.only]
    plan = [kills[n % len(kills)] for n in range(options.rounds if kills else 0)]
    plan += [name for name in options.only if name not in KILLS]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        models = model_directory(options.model, Path(folder))
        for number, name in enumerate(tqdm(plan, unit="fault")):
            own = Path(folder) / f"rig {number}"
            own.mkdir()
            outcomes.append(try_fault(name, own, models, options.jobs))
            tqdm.write(outcomes[-1].line(), sys.stderr)
    report = {"machine": describe(), "options": vars(options), "faults": [vars(outcome) for outcome in outcomes]}
    print(json.dumps(report))
    raise SystemExit(any(outcome.wrong for outcome in outcomes))


def try_fault(name: str, folder: Path, models: Path, jobs: int) -> Outcome:
    """Inject one fault into a new service under load."""
    fault, options = FAULTS[name]
    outcome = Outcome(name)
    try:
        with prepared(options, folder) as data, Rig(folder, models, data=data, **options_of(options)) as rig:
            rig.start()
            with asyncio.Runner() as runner:
                runner.run(Trial(rig, outcome, jobs).run(fault))
    except (TimeoutError, subprocess.CalledProcessError, OSError) as error:
        outcome.wrong.append(f"{type(error).__name__}: {error}")
    return outcome


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    return KEPT | {name: value for name, value in options.items() if name != "disk"}


@contextmanager
def prepared(options: dict[str, Any], folder: Path) -> Iterator[Path | None]:
    """A small disk for Redis, for the fault in which it is full; needs the right to mount it."""
    if "disk" not in options:
        yield None
        return
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={options['disk']}", "tmpfs", disk], check=True)
    try:
        yield disk / "data"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


async def kill_worker(trial: Trial) -> None:
    """During a batch. Another worker is started at once, and the in-flight jobs have to be delivered again."""
    rig = trial.rig
    victim = f"-{rig.processes['worker 0'].pid}"
    rig.kill("worker 0")
    held = [tag.decode() for tag in rig.redis.zrange(UNACKED, 0, -1)]
    rig.begin("worker 0")
    while any(_not_yet(rig, job_id, victim) for job_id in held) and time.monotonic() < trial.broken + DEADLINE:
        await asyncio.sleep(0.1)
    trial.outcome.notes |= {"held": len(held), "redelivered_after": round(time.monotonic() - trial.broken, 1)}


def _not_yet(rig: Rig, job_id: str, victim: str) -> bool:
    """Whether no worker has started the job since its worker died."""
    status, worker = rig.redis.hmget(job_key(job_id), "status", "worker")
    return status == b"queued" or (status == b"running" and (worker or b"").decode().endswith(victim))


async def kill_gateway(trial: Trial) -> None:
    trial.rig.kill("gateway")
    await asyncio.sleep(0.5)
    trial.rig.begin("gateway")


async def kill_server(trial: Trial) -> None:
    trial.rig.kill("server")
    await asyncio.sleep(0.5)
    trial.rig.begin("server")


async def kill_one_server(trial: Trial) -> None:
    """One of several Redis servers is down for five seconds; the jobs of the others go on."""
    rig = trial.rig
    others = [store for number, store in enumerate(rig.stores) if number != 1]

    def succeeded() -> int:
        return sum(int(store.hget(TOTALS, "succeeded") or 0) for store in others)

    before = succeeded()
    rig.kill("server 1")
    await asyncio.sleep(5)
    trial.outcome.notes["finished_meanwhile"] = succeeded() - before
    if succeeded() == before:
        trial.outcome.wrong.append("the jobs of the others stopped")
    await asyncio.to_thread(rig.begin, "server 1")


async def kill_all(trial: Trial) -> None:
    """One after the other, each while the one before is still starting."""
    for name in ("worker 0", "gateway", "server"):
        trial.rig.kill(name)
        await asyncio.sleep(0.5)
        trial.rig.begin(name)


async def stop_worker(trial: Trial) -> None:
    """SIGTERM under load: it finishes its in-flight jobs or releases them, and another worker continues."""
    rig = trial.rig
    rig.signal("worker 0", signal.SIGTERM)
    status = await asyncio.to_thread(rig.processes["worker 0"].wait, 60)
    trial.outcome.notes["ended_after"] = round(time.monotonic() - trial.broken, 1)
    running = sum(rig.redis.hget(key, "status") == b"running" for key in rig.redis.scan_iter(job_key("*"), count=1000))
    if status or running:
        trial.outcome.wrong.append(f"exit status {status}, {running} jobs left running")
    rig.begin("worker 0")


async def stall_network(trial: Trial) -> None:
    assert trial.rig.proxy
    with trial.rig.proxy.stalled():
        await asyncio.sleep(10)


async def cut_network(trial: Trial) -> None:
    assert trial.rig.proxy
    with trial.rig.proxy.disconnected():
        await asyncio.sleep(10)


async def full_memory(trial: Trial) -> None:
    """The memory limit is below what is in use: submissions are rejected, and accepted jobs are finished."""
    stored = trial.rig.redis
    before = stored.config_get("maxmemory")["maxmemory"]
    stored.config_set("maxmemory", max(stored.info("memory")["used_memory"] - 2**20, 2**20))
    try:
        await asyncio.sleep(10)
    finally:
        stored.config_set("maxmemory", before)
    trial.outcome.notes["refused"] = trial.outcome.refused


async def full_disk(trial: Trial) -> None:
    """Redis' disk is full for ten seconds; if Redis ends because of that, it is restarted."""
    rig = trial.rig
    filler = rig.folder / "disk" / "filler"
    until = time.monotonic() + 10
    died = 0
    while time.monotonic() < until:
        with (
            suppress(OSError),
            filler.open("ab", buffering=0) as file,
        ):  # repeatedly, since a rewritten file frees space
            while file.write(bytes(2**14)):
                pass
        await asyncio.sleep(0.1)
        if rig.processes["server"].poll() is not None:
            died += 1
            with suppress(TimeoutError):
                await asyncio.to_thread(rig.begin, "server")
    filler.unlink()
    if rig.processes["server"].poll() is not None:
        rig.begin("server")
    trial.outcome.notes |= {"server_ended": died, "refused": trial.outcome.refused}


async def freeze_worker(trial: Trial) -> None:
    """One of two workers is stopped for longer than the visibility timeout; the other one finishes its jobs."""
    trial.rig.signal("worker 0", signal.SIGSTOP)
    await asyncio.sleep(16)
    trial.rig.signal("worker 0", signal.SIGCONT)
    await asyncio.sleep(3)


async def small_gateway(trial: Trial) -> None:
    """A gateway with the memory of its container, and clients that make it hold as much as it lets them."""
    rig, url = trial.rig, trial.rig.url
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        sound, headers = wav(READ_SECONDS * RATE * 2), {"Content-Type": "audio/wav"}
        answer = await client.post("/v1/jobs?include=full_spectrogram", content=sound, headers=headers)
        large = answer.raise_for_status().headers["Location"]
        async with asyncio.timeout(DEADLINE):
            while (await client.get(large, headers={"Accept": "application/msgpack"})).content.find(b"succeeded") < 0:
                await asyncio.sleep(0.5)
    found = await hoard_gateway(url, f"/v1/jobs/{next(iter(trial.accepted))}", large)
    trial.outcome.notes |= {**found, **_memory(rig, "gateway")}
    if rig.processes["gateway"].poll() is not None:
        trial.outcome.wrong.append("the gateway is gone")
        rig.begin("gateway")
    if set(found["others"]) != {"200"}:  # type: ignore[arg-type]
        trial.outcome.wrong.append(f"other clients got {found['others']}")


async def small_worker(trial: Trial, sounds: int) -> None:
    """A worker with little memory, and long sounds of many callers at once."""
    rig, body, jobs = trial.rig, long_flac(), []
    for source in itertools.islice(addresses(), sounds):
        transport = httpx2.AsyncHTTPTransport(local_address=source)
        async with httpx2.AsyncClient(base_url=rig.url, transport=transport, timeout=60) as client:
            answer = await client.post("/v1/jobs", content=body, headers={"Content-Type": "audio/flac"})
            jobs.append(answer.raise_for_status().json()["id"])
    ended: Counter[str] = Counter()
    async with asyncio.timeout(1_800):
        while sum(ended.values()) < sounds:
            await asyncio.sleep(1)
            statuses = [rig.redis.hget(job_key(job), "status") for job in jobs]
            ended = Counter(status.decode() for status in statuses if status not in (b"queued", b"running"))
    trial.outcome.notes |= {"long_sounds": dict(ended), **_memory(rig, "worker 0")}
    if set(ended) != {"succeeded"} or rig.limits["worker 0"].kills:
        trial.outcome.wrong.append(f"long sounds: {dict(ended)}")


def _memory(rig: Rig, name: str) -> dict[str, Any]:
    limit = rig.limits[name]
    return {"limited_by": limit.kind, "limit_mb": limit.limit >> 20, "peak_mb": limit.peak >> 20, "kills": limit.kills}


KILLS = ("worker", "gateway", "server", "all three")
FAULTS: dict[str, tuple[Fault, dict[str, Any]]] = {
    "worker": (kill_worker, {}),
    "gateway": (kill_gateway, {}),
    "server": (kill_server, {}),
    "all three": (kill_all, {}),
    "SIGTERM": (stop_worker, {}),
    "stalled network": (stall_network, {"proxy": True}),
    "cut network": (cut_network, {"proxy": True}),
    "full memory": (full_memory, {}),
    "full disk": (full_disk, {"disk": "256m"}),
    "one of two servers": (kill_one_server, {"servers": 2, "workers": 2}),
    "one of two stalled": (stall_network, {"servers": 2, "workers": 2, "proxy": True}),
    "one of four servers": (kill_one_server, {"servers": 4, "workers": 4}),
    "frozen worker": (freeze_worker, {"workers": 2}),
    "small gateway": (small_gateway, {"memory": {"gateway": 2**30}}),
    "small worker": (partial(small_worker, sounds=100), {"memory": {"worker 0": 2 * 2**30}, "job_deadline": "1800"}),
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is stopped
    main()
