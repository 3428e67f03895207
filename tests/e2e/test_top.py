"""`otoscope top` with a real service under load, and in a real terminal."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import statistics
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from otoscope.top.collect import Collector, Snapshot
from otoscope.top.stats import Figures, History
from otoscope.types import Job
from tests.conftest import PYTHON, ROOT, free_port, start_server, write_tiny_model
from tests.e2e.conftest import Stack
from tests.support.process_tree import until
from tests.support.sounds import chirp, encode

JOBS, BAD = 60, 5


@pytest.fixture(scope="module")
def service() -> Iterator[Stack]:
    """A gateway and two workers, with their metrics on free ports."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        directory = Path(name)
        write_tiny_model(directory / "models" / "tiny")
        server, socket = start_server(directory)
        stack = Stack.on(
            directory,
            f"unix://{socket}",
            default_model="tiny",
            metrics_port="0",
            decode_processes="1",
            log_format="json",
        )
        stack.start("worker")
        stack.processes["other worker"] = stack.processes.pop("worker")
        with stack.up(server):
            with stack.client() as http:
                until(lambda: http.get("/health/ready").json()["workers"] == 2, 30)
            yield stack


def work(stack: Stack) -> list[Job]:
    """Run jobs to their end, a few at a time, and send some uploads that are not audio."""
    sound = encode(chirp(1.0, 16_000), 16_000, "WAV", "PCM_16")
    with stack.client() as http, ThreadPoolExecutor(8) as pool:

        def submit(number: int) -> Job:
            answer = http.post("/v1/jobs", files={"file": sound}, headers={"Prefer": "wait=30"})
            return Job.model_validate(answer.raise_for_status().json())

        jobs = list(pool.map(submit, range(JOBS)))
        for _ in range(BAD):
            assert http.post("/v1/jobs", files={"file": b"no sound at all" * 9}).json()["code"] == "not_audio"
    return jobs


async def figures_of(stack: Stack) -> tuple[Figures, list[Job], float, float]:
    """The figures between two snapshots, the jobs in between, the seconds, and the jobs that workers counted."""
    async with Collector(stack.url) as collector:
        history = History(collector.url)
        before = await collector.collect()
        history.add(before)
        began = time.monotonic()
        jobs = await asyncio.to_thread(work, stack)
        deadline = time.monotonic() + 20
        while True:  # a worker counts a job after the caller has its response
            took, after = time.monotonic() - began, await collector.collect()
            if done(after) - done(before) >= JOBS or time.monotonic() > deadline:
                return history.add(after), jobs, took, done(after) - done(before)
            await asyncio.sleep(0.1)


def done(snapshot: Snapshot) -> float:
    return sum(worker.scrape.value("otoscope_worker_jobs_total") or 0.0 for worker in snapshot.workers if worker.scrape)


def test_figures_match_the_load(service: Stack) -> None:
    """Jobs and rejections exactly, rates and quantiles within the resolution of a histogram."""
    figures, jobs, took, counted = asyncio.run(figures_of(service))
    assert figures.over_seconds is not None
    assert took < figures.over_seconds < took + 5
    assert (figures.state, figures.says, figures.ready_workers) == ("well", "", 2)

    def happened(per_second: float | None) -> int:
        return round((per_second or 0.0) * (figures.over_seconds or 0.0))

    assert {name: happened(counted.per_second) for name, counted in figures.jobs.items()} == {
        "accepted": JOBS, "succeeded": JOBS, "failed": 0, "cancelled": 0, "expired": 0,
    }  # fmt: skip
    assert happened(figures.refusals["not_audio"].per_second) == BAD
    assert happened(figures.submissions.per_second) == JOBS + BAD
    assert (figures.open_jobs, figures.waiting_jobs, figures.queue_limit) == (0, 0, 1_000)

    assert len(figures.workers) == 2
    assert all(worker.lost == "" and worker.models == ["tiny"] for worker in figures.workers)
    assert counted == JOBS
    # Each is read at its own moment, so the interval differs a little from that of the gateway.
    assert sum(happened(worker.jobs_per_second) for worker in figures.workers) == pytest.approx(JOBS, rel=0.25)
    assert 1 <= (figures.batch_size or 0) <= 8

    for stage in ("queue", "decode", "forward"):
        spread = figures.stages[stage]
        assert happened(spread.per_second) == pytest.approx(JOBS, rel=0.25)
        # Each bucket is twice as wide as the one before, so a quantile is exact within a factor of two.
        times = [seconds for job in jobs if (seconds := getattr(job.timings, stage)) is not None]
        assert spread.p50 is not None
        assert spread.p95 is not None
        assert max(statistics.median(times) / 2.2, 0.0) <= spread.p50 <= max(statistics.median(times) * 2.2, 0.001)
        assert spread.p50 <= spread.p95 <= max(max(times) * 2, 0.001)


def run(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "otoscope", "top", "--url", stack.url, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_once_for_programs_and_for_people(service: Stack) -> None:
    """Only JSON on stdout, with the gateway's counts; text without colours if stdout is not a terminal."""
    done = run(service, "--once", "--json", "--interval", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    with service.client() as http:
        text = http.get("/metrics").text
    for outcome, counted in report["jobs"].items():
        assert f'otoscope_jobs_total{{outcome="{outcome}",server="0"}} {counted["total"]}.0\n' in text
    assert 0.2 < report["over_seconds"] < 10
    done = run(service, "--once", "--interval", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("● well")
    assert "\x1b" not in done.stdout
    done = run(service)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--once" in done.stderr


def test_metrics_at_given_addresses(service: Stack) -> None:
    """They are read instead of the addresses that the gateway lists."""
    with service.client() as http:
        first = http.get("/v1/workers").json()["workers"][0]["metrics"]
    done = run(service, "--once", "--json", "--interval", "0.2", "--worker", first, "--worker", "127.0.0.1:1")
    workers = json.loads(done.stdout)["workers"]
    assert [(worker["metrics"], worker["lost"] == "") for worker in workers] == [
        (first, True), ("http://127.0.0.1:1/metrics", False),
    ]  # fmt: skip
    assert workers[0]["models"] == ["tiny"]


def test_no_service() -> None:
    """One sentence, at once, and an exit status."""
    command = [PYTHON, "-m", "otoscope", "top", "--once", "--url", f"127.0.0.1:{free_port()}", "--interval", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("● broken  the gateway cannot be reached")


class Terminal:
    """A pseudo-terminal of 80 by 24 that runs `otoscope top`."""

    def __init__(self, url: str, **environment: str) -> None:
        self._ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, 80))
        self.before = termios.tcgetattr(self.theirs)
        self.seen = ""
        known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [PYTHON, "-m", "otoscope", "top", "--url", url, "--interval", "0.3"], cwd=ROOT,
            env={**known, "TERM": "xterm-256color", **environment},
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # so that it is its controlling terminal
        )  # fmt: skip

    def read(self) -> None:
        while select.select([self._ours], [], [], 0.05)[0]:
            self.seen += os.read(self._ours, 65_536).decode(errors="replace")

    def until(self, pattern: str, seconds: float = 30.0) -> None:
        """Wait until the output from now on matches."""
        self.seen, deadline = "", time.monotonic() + seconds
        while not re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.seen), re.DOTALL):
            assert time.monotonic() < deadline, self.seen
            assert self.process.poll() is None, self.seen
            self.read()

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def ended(self) -> int:
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()  # otherwise it could not write its last output
        self.read()
        return self.process.wait(1)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)


@contextmanager
def terminal(url: str, **environment: str) -> Iterator[Terminal]:
    opened = Terminal(url, **environment)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize(("key", "colours"), [("q", True), ("\x03", False)])
def test_live_in_a_terminal(service: Stack, key: str, colours: bool) -> None:
    """It uses the alternate screen, refreshes it, reacts to the key, and restores the terminal."""
    with terminal(service.url, **({} if colours else {"NO_COLOR": "1"})) as opened:
        opened.until("well.*q quits.*well.*q quits")
        changed = termios.tcgetattr(opened.theirs)
        assert not changed[3] & (termios.ICANON | termios.ECHO), "keys are read one by one, and not shown"
        assert changed[6][termios.VSUSP] == b"\0", "Ctrl-Z would leave the screen as it is"
        assert ("\x1b[1;32m" in opened.seen) is colours, "green for well"
        opened.press("x\x1b[A")  # keys without a meaning, one of them an arrow key
        opened.until("well.*q quits")
        opened.press(key)
        assert opened.ended() == 0
        assert termios.tcgetattr(opened.theirs) == opened.before
        assert opened.seen.rindex("\x1b[?1049l") > opened.seen.rindex("q quits"), "the screen from before is back"
        assert opened.seen.rindex("\x1b[?25h") > opened.seen.rindex("q quits"), "and the cursor"
        assert "Traceback" not in opened.seen


def test_a_gateway_that_dies_and_comes_back(service: Stack) -> None:
    """Shown as lost meanwhile, with the workers still listed; then everything is as before."""
    with terminal(service.url) as opened:
        opened.until("well.*workers ready: 2.*q quits")
        service.stop("api", signal.SIGKILL)
        try:
            opened.until("broken.*the gateway cannot be reached.*batch.*q quits")
            assert re.search(r"-\d+ +0 +0", opened.seen), "workers answer all the same"
        finally:
            service.start("api")
        opened.until("well.*workers ready: 2.*q quits")
        opened.process.send_signal(signal.SIGTERM)
        assert opened.ended() == 0
        assert termios.tcgetattr(opened.theirs) == opened.before
