"""Submits jobs, injects a fault while they are in flight, and checks how each of them ended."""

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bench.lib.clips import encoded
from bench.lib.rig import Rig
from otoscope.client import AsyncClient
from otoscope.errors import OtoscopeError
from otoscope.types import FINAL
from shared.contract import COUNTERS, QUEUE, TOTALS, UNACKED, UNFINISHED, events_key, job_key, server_of

DEADLINE = 120  # seconds, of a job
_RAISED = re.compile(r"^[\w.]+(?:Error|Exception)\b.*", re.M)  # the last line of a traceback
LISTENERS = 20  # jobs that clients wait for, and as many whose events they follow


@dataclass
class Outcome:
    """The result of one fault."""

    fault: str
    accepted: int = 0
    refused: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    recovered: float = 0.0  # seconds from the fault to the end of the last job
    notes: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # violations

    def line(self) -> str:
        notes = ", ".join(f"{name} {value}" for name, value in self.notes.items())
        counts = f"{self.fault:<14} accepted {self.accepted:>4}  {dict(self.ended)}  finished after {self.recovered} s"
        return f"{counts}  {notes}  {'; '.join(self.wrong) or 'nothing lost'}"


Fault = Callable[["Trial"], Awaitable[None]]


class Trial:
    """Submits jobs, waits for them and checks the state that is left. With `may_lose` a job that Redis has lost is only
    counted."""

    def __init__(self, rig: Rig, outcome: Outcome, jobs: int, *, may_lose: bool = False) -> None:
        self.rig, self.outcome, self._jobs, self._may_lose = rig, outcome, jobs, may_lose
        self._sounds = encoded("FLAC", 8)
        self.accepted: dict[str, int] = {}  # job id -> index of its sound
        self.broken = 0.0  # time of the fault

    async def run(self, fault: Fault) -> None:
        async with httpx2.AsyncClient(
            base_url=self.rig.url, timeout=30, limits=httpx2.Limits(max_connections=32)
        ) as http:
            self._http = http
            await self.submit(8)
            await self._finished(60)
            expected = await self._answers()
            listeners: list[asyncio.Task[str]] = []
            for worker in self.rig.workers:  # so that all of the jobs are in flight at once
                self.rig.signal(worker, signal.SIGSTOP)
            await self.submit(self._jobs)
            async with AsyncClient(self.rig.url) as client:
                for at, job_id in enumerate(list(self.accepted)[-2 * LISTENERS :]):
                    listeners.append(asyncio.create_task(_wait(client, job_id) if at % 2 else _follow(client, job_id)))
                for worker in self.rig.workers:
                    self.rig.signal(worker, signal.SIGCONT)
                self.outcome.notes["in_flight"] = await self._under_way()
                self.broken = time.monotonic()
                rest = asyncio.create_task(self.submit(self._jobs // 10))
                await fault(self)
                await rest
                await self._finished(DEADLINE + 30)
                self.outcome.recovered = round(time.monotonic() - self.broken, 1)
                async with asyncio.timeout(90):
                    heard = Counter(await asyncio.gather(*listeners))
            self.outcome.notes["listeners"] = dict(heard)
            if set(heard) - FINAL - {"clear error"}:
                self._wrong(f"listeners ended with {dict(heard)}")
            await self._look(expected)

    async def submit(self, count: int) -> None:
        """Submit until that many more jobs are accepted; by their idempotency keys retries create no second job."""

        async def submit(number: int) -> None:
            which = number % len(self._sounds)
            headers = {"Content-Type": "audio/flac", "Idempotency-Key": f"{len(self.accepted)}-{number}-{time.time()}"}
            for _ in range(600):
                with suppress(httpx2.HTTPError):
                    answer = await self._http.post("/v1/jobs", content=self._sounds[which], headers=headers)
                    if answer.status_code == 202:
                        self.accepted[answer.json()["id"]] = which
                        return
                    if answer.status_code not in (429, 503):
                        raised = _RAISED.findall(self.rig.log("gateway"))[-1:]
                        self._wrong(f"a submission got {answer.status_code}: {answer.text[:200]} {raised}")
                        return
                    self.outcome.refused += 1
                await asyncio.sleep(0.2)
            self._wrong("a submission was never accepted")

        gate = asyncio.Semaphore(32)

        async def one(number: int) -> None:
            async with gate:
                await submit(number)

        await asyncio.gather(*(one(number) for number in range(count)))

    async def _under_way(self) -> int:
        """Wait until some jobs are finished, so that the fault comes in the middle; returns how many are not."""
        async with asyncio.timeout(60):
            while (left := sum(int(store.zcard(UNFINISHED)) for store in self.rig.stores)) > 0.9 * self._jobs:
                await asyncio.sleep(0.01)
        return left

    async def _finished(self, seconds: float) -> None:
        """Wait until no job is unfinished, or the time is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(Exception):  # Redis may be down
                if not any(store.exists(UNFINISHED) for store in self.rig.stores):
                    return
            await asyncio.sleep(0.1)

    async def _answers(self) -> dict[int, str]:
        """The first class of each sound."""
        return {which: await self._name(job_id) for job_id, which in self.accepted.items()}

    async def _name(self, job_id: str) -> str:
        job = (await self._http.get(f"/v1/jobs/{job_id}")).json()
        return str(job["result"]["predictions"][0]["class"]) if job.get("result") else ""

    async def _look(self, expected: dict[int, str]) -> None:
        """Check every job in the API and in Redis, then the totals."""
        outcome, stores = self.outcome, self.rig.stores
        outcome.accepted = len(self.accepted)
        for job_id, which in self.accepted.items():
            answer = await self._http.get(f"/v1/jobs/{job_id}")
            if self._may_lose and answer.status_code == 404:
                outcome.ended["lost"] += 1
                continue
            if answer.status_code != 200:
                self._wrong(f"{job_id} is {answer.status_code}")
                continue
            job = answer.json()
            error = (job.get("error") or {}).get("code")
            outcome.ended[f"failed: {error}" if error else job["status"]] += 1
            if job["status"] not in FINAL:
                self._wrong(f"{job_id} is still {job['status']}")
            if job["status"] == "succeeded" and job["result"]["predictions"][0]["class"] != expected[which]:
                self._wrong(f"{job_id} has another first class than its sound had before")
            if job["status"] == "failed" and error != "deadline_exceeded":
                self._wrong(f"{job_id} failed: {error}")
            events = stores[server_of(job_id) or 0].xrange(events_key(job_id))
            ends = [fields[b"kind"] for _, fields in events if fields[b"kind"] == b"result"]
            if len(ends) != 1:
                self._wrong(f"{job_id} ended {len(ends)} times")
        self._balance()

    def _balance(self) -> None:
        totals: Counter[str] = Counter()
        records: Counter[str] = Counter()
        for stored in self.rig.stores:
            totals.update({name: int(stored.hget(TOTALS, name) or 0) for name in COUNTERS})
            records.update(stored.hget(key, "status").decode() for key in stored.scan_iter(job_key("*"), count=1000))
        ended = totals.total() - totals["accepted"]
        self.outcome.notes["totals"] = {name: totals[name] for name in COUNTERS}
        if totals["accepted"] != ended or totals["accepted"] != records.total():
            self._wrong(f"accepted {totals['accepted']}, ended {ended}, records {dict(records)}")
        if totals["accepted"] < len(self.accepted) - self.outcome.ended["lost"]:
            self._wrong(f"{len(self.accepted)} submissions got 202, {totals['accepted']} were counted as accepted")
        for stored in self.rig.stores:
            if endless := [key.decode() for key in stored.scan_iter(count=1000) if stored.ttl(key) == -1]:
                self._wrong(f"keys without a TTL: {endless[:5]}")
        if any(stored.exists(UNACKED, QUEUE) for stored in self.rig.stores):
            time.sleep(12)  # a second delivery is acknowledged by then
            if left := [key for key in (UNACKED, QUEUE) if any(stored.exists(key) for stored in self.rig.stores)]:
                self._wrong(f"messages are left in {left}")

    def _wrong(self, what: str) -> None:
        if len(self.outcome.wrong) < 5:
            self.outcome.wrong.append(what)


async def _wait(client: AsyncClient, job_id: str) -> str:
    try:
        return (await client.wait(job_id, timeout=DEADLINE + 30)).status
    except OtoscopeError:
        return "clear error"


async def _follow(client: AsyncClient, job_id: str) -> str:
    last = "nothing"
    try:
        async for event in client.stream(job_id, timeout=DEADLINE + 30):
            last = event.job.status
    except OtoscopeError:
        return "clear error"
    return last
