"""The steps of trial.py: their common parts, and the first ones."""

import asyncio
import csv
import time
from collections.abc import Callable
from typing import Any

import httpx2

from otoscope import Client
from tests.compose.rig import ROOT, Compose, Load, docker

REAL_SOUNDS = ROOT.parent / "shared" / "data" / "esc50-16k"
JOBS = 150  # submitted during each step


class Trial:
    """What was checked, and what failed."""

    def __init__(self, compose: Compose, load: Load) -> None:
        self.compose, self.load = compose, load
        self.checks = 0
        self.wrong: list[str] = []
        self.notes: dict[str, Any] = {}
        self._step = ""

    def step(self, name: str, do: "Callable[[Trial], None]") -> None:
        """An exception in a step counts as a failure; the next step runs nevertheless."""
        self._step = name
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        try:
            do(self)
        except Exception as error:
            self.check(f"{type(error).__name__}: {error}", False)

    def check(self, what: str, good: bool) -> None:
        self.checks += 1
        print(f"    {'ok  ' if good else 'WRONG'} {what}", flush=True)
        if not good:
            self.wrong.append(f"{self._step}: {what}")

    def note(self, what: str, value: str) -> None:
        print(f"         {what}: {value}", flush=True)
        self.notes[what] = f"{self.notes[what]}; {value}" if what in self.notes else value

    def under_load(self, do: Callable[[], object], *, workers: int = 1) -> None:
        """Run an action while jobs are submitted; then check the outcome of every accepted job, and the totals."""
        self.load.accepted.clear()
        done: dict[str, float] = {}

        async def both() -> None:
            submitting = asyncio.create_task(self.load.submit(JOBS))
            while len(self.load.accepted) < JOBS // 5:
                await asyncio.sleep(0.02)
            done["begun"] = time.monotonic()
            await asyncio.to_thread(do)
            done["took"] = time.monotonic() - done["begun"]
            await submitting
            self.load.ready(workers)
            ended = await self.load.ends()
            self.check(f"{JOBS} accepted jobs ended {dict(ended)}", dict(ended) == {"succeeded": JOBS})

        asyncio.run(both())
        self.note(
            f"{self._step}, answered after", f"{time.monotonic() - done['begun']:.1f} s, itself {done['took']:.1f} s"
        )
        self.balanced()

    def balanced(self) -> None:
        totals = self.load.totals()
        ended = sum(totals.values()) - totals["accepted"]
        self.check(f"the totals balance: {totals}", totals["accepted"] == ended > 0)


def up(trial: Trial) -> None:
    compose = trial.compose
    begun = time.monotonic()
    if not images_own_their_folders():
        compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "true", "redis")  # creates all volumes
        compose.make_writable("redis-data", "999:1000")
        compose.make_writable("prometheus-data", "65534:65534")
        trial.note(
            "folders", "Redis' and Prometheus' images leave theirs to root; their volumes were prepared for the trial"
        )
    compose.up()
    trial.load.ready()
    trial.note("ready after", f"{time.monotonic() - begun:.1f} s")
    for service in set(compose.services()) - {"secrets"}:
        until = time.monotonic() + 60
        while (
            health := compose.inspect(service)[0]["State"]["Health"]["Status"]
        ) != "healthy" and time.monotonic() < until:
            time.sleep(1)
        trial.check(f"{service} is {health}", health == "healthy")
    trial.check(
        "the secrets are generated, their container ended", compose.inspect("secrets")[0]["State"]["ExitCode"] == 0
    )


def images_own_their_folders() -> bool:
    """Official images do that; others may leave it to their user."""
    found = docker("run", "--rm", "--entrypoint", "stat", "redis:7-alpine", "-c", "%u", "/data")
    return found.strip() == "999"


def answers(trial: Trial) -> None:
    """The example sounds of the page are classified over HTTP."""
    named = asyncio.run(trial.load.name_all())
    files = sorted((ROOT / "api" / "static" / "sounds").glob("*.flac"))
    trial.note("sounds", ", ".join(f"{path.stem}: {name}" for path, name in zip(files, named, strict=True)))
    trial.check("sounds have different predictions", len(set(named)) > len(named) // 2)
    if REAL_SOUNDS.is_dir():
        trial.note("real sounds", real_sounds(trial.load.url))
    page = httpx2.get(trial.load.url, timeout=10)
    trial.check("the page is served", page.status_code == 200 and "<html" in page.text)


def real_sounds(url: str) -> str:
    """One clip of each class of the fold that `esc50` was not trained on, with the Python client."""
    with (REAL_SOUNDS / "meta" / "esc50.csv").open() as file:
        clips = {row["category"]: row["filename"] for row in csv.DictReader(file) if row["fold"] == "5"}
    with Client(url) as client:
        jobs = {name: client.classify(REAL_SOUNDS / "audio" / clip, model="esc50") for name, clip in clips.items()}
    right = sum(job.result is not None and job.result.predictions[0].class_ == name for name, job in jobs.items())
    return f"{right} of {len(jobs)} right"


def metrics(trial: Trial) -> None:
    """Prometheus scrapes gateway and worker."""
    if "prometheus" not in trial.compose.services():
        trial.note("metrics", "left out")
        return
    found = targets(trial, 2)
    trial.check(f"Prometheus scrapes {found}", list(found.values()) == ["up", "up"])


def targets(trial: Trial, count: int) -> dict[str, str]:
    """The targets of Prometheus and their health, once there are so many and all are up."""
    url = f"http://127.0.0.1:{trial.compose.settings['OTOSCOPE_PROMETHEUS_PORT']}/api/v1/targets"
    found: dict[str, str] = {}
    for _ in range(90):
        active = httpx2.get(url, timeout=10).json()["data"]["activeTargets"]
        found = {one["scrapeUrl"]: one["health"] for one in active}
        if list(found.values()) == ["up"] * count:
            break
        time.sleep(1)
    return found
