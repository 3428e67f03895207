"""Draws docs/dashboard.png: Grafana's dashboard for a service whose load, workers and sounds change.

    python docs/dashboard.py              takes about six minutes, on two cores

Starts a service of its own and a Prometheus that scrapes it every three seconds, puts it under load, stops and starts
workers, sends invalid files, and changes the sounds. Then it sends the queries of every panel of
ops/grafana/dashboards/otoscope.json to this Prometheus, and draws the results at the positions in that file. Needs
`prometheus` (`make prometheus`), Playwright and Chromium (`make chromium`).
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import panels
from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).parent.parent))
from commands.stack.embedded_redis import Home
from ops import dashboard
from ops.local import GATEWAY, WORKER, Prometheus, configuration, program
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parent.parent
SOUNDS = ROOT / "api" / "static" / "sounds"
BEFORE, AFTER = ("rain", "sea", "crickets", "clock-tick"), ("siren", "alarm-clock", "church-bell", "rain")
STEP = 3.0  # seconds between two scrapes
RATE = "12s"
VARIABLES = {"window": "90s", "before": "3m"}
QUEUE_LIMIT = 120  # unfinished jobs: few, so that the queue fills


class Service:
    """Redis, gateway and workers, each of which can be started and killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._home = folder, Home(folder / "data")
        self._home.directory.mkdir()
        self.port, self.ports = free_port(), {"worker 1": free_port(), "worker 2": free_port()}
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        own = {
            "redis_url": self._home.url,
            "port": self.port,
            "metrics_port": self.ports.get(name, 0),
            "models": "esc50",
            "default_model": "esc50",
            "result_ttl": 60,
            "job_deadline": 4,
            "visibility_timeout": 5,
            "queue_limit": QUEUE_LIMIT,
            "caller_share": 1,
            "decode_processes": 1,
        }
        module = name.split()[0]
        argv = self._home.program().argv if name == "server" else [sys.executable, "-m", module]
        if name == "server":
            argv = [*argv, "--maxmemory", "96mb"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OTOSCOPE_")}
        environment = {**kept, **{f"OTOSCOPE_{key.upper()}": str(value) for key, value in own.items()}}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
        while name == "server" and not self._home.answers():
            time.sleep(0.05)

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name)
        process.send_signal(how)
        process.wait(30)

    def until_ready(self, workers: int = 1) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with suppress(httpx2.TransportError):
                if httpx2.get(f"{self.url}/health/ready", timeout=10).json()["workers"] >= workers:
                    return
            time.sleep(0.2)
        raise SystemExit("The service did not become ready.")

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            for name in ("server", "worker 1", "api"):
                self.start(name)
            self.until_ready()
            yield
        finally:
            for name in reversed(list(self._processes)):
                self.end(name)


class Callers:
    """Threads that submit sounds and wait for the results; their number and the sounds can be changed at any time."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=90, limits=httpx2.Limits(max_connections=None))
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.wanted, self.sounds, self.pause = 0, BEFORE, 0.2

    def want(self, callers: int, pause: float) -> None:
        """Set the number of concurrent callers, each of which pauses for `pause` seconds after a result."""
        self.wanted, self.pause = callers, pause
        for number in range(len(self._threads), callers):
            self._threads.append(threading.Thread(target=self._call, args=(number,)))
            self._threads[-1].start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._http.close()

    def _call(self, number: int) -> None:
        for turn in itertools.count():
            if self._over.wait(self.pause):
                return
            if number >= self.wanted:
                continue
            body = (SOUNDS / f"{self.sounds[turn % len(self.sounds)]}.flac").read_bytes()
            if (number + turn) % 40 == 7:
                body = body[: len(body) // 2] if turn % 2 else b"not a sound"
            with suppress(httpx2.TransportError):
                options = {"include": "spectrogram"} if turn % 5 == 0 else {}
                response = self._http.post(
                    "/v1/jobs", params=options, files={"file": body}, headers={"Prefer": "wait=60"}
                )
                if response.status_code == 429:
                    self._over.wait(1.0)


def run_scenario(service: Service, callers: Callers) -> None:
    """Five to six minutes of changing load."""
    began = time.monotonic()

    def log(what: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {what}", flush=True)

    log("three callers")
    callers.want(3, 0.3)
    time.sleep(60)
    log("more than one worker can serve")
    callers.want(100, 0.05)
    time.sleep(40)
    log("a second worker")
    service.start("worker 2")
    service.until_ready(2)
    time.sleep(30)
    log("it is killed, with jobs in flight")
    service.end("worker 2", signal.SIGKILL)
    time.sleep(25)
    log("it is restarted; fewer callers")
    callers.want(12, 0.3)
    service.start("worker 2")
    service.until_ready(2)
    time.sleep(30)
    log("other sounds")
    callers.sounds = AFTER
    time.sleep(80)
    log("the second worker is stopped")
    service.end("worker 2")
    callers.want(3, 0.3)
    time.sleep(30)


def series_of(
    prometheus: Prometheus, panel: dict[str, Any], instance: str, start: float, end: float
) -> list[panels.Series]:
    """The results of a panel's queries, as Grafana would send them."""
    named = {
        override["matcher"]["options"]: {item["id"]: item["value"] for item in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    found = []
    for target in panel["targets"]:
        query = dashboard.filled(target["expr"], RATE, instance=instance, **VARIABLES)
        if target["instant"]:
            answers = [{**one, "values": [one["value"]]} for one in prometheus.query(query, end)]
        else:
            answers = prometheus.get("query_range", query=query, start=start, end=end, step=STEP)["result"]
        for answer in answers:
            name = target["legendFormat"]
            for label, value in answer["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value)
            own = named.get(name, {})
            points = [(float(moment), float(value)) for moment, value in answer["values"]]
            unit = own.get("unit", panel["fieldConfig"]["defaults"]["unit"])
            right, colour = own.get("custom.axisPlacement") == "right", own.get("color", {}).get("fixedColor", "")
            found.append(panels.Series(name, points, unit, right, colour))
    return found


def drawn(prometheus: Prometheus, workers: list[str], start: float, end: float) -> str:
    """The dashboard as HTML, with the row of workers repeated for each of them, as by Grafana."""
    blocks: list[tuple[dict[str, Any], int, str]] = []
    everything = list(dashboard.panels(rows=True))
    first = next(number for number, panel in enumerate(everything) if panel.get("repeat"))
    for panel in everything[:first]:
        blocks.append((panel, panel["gridPos"]["y"], ".*"))
    top = everything[first]["gridPos"]["y"]
    high = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in everything) - top
    for number, worker in enumerate(workers):
        blocks += [(panel, panel["gridPos"]["y"] + number * high, worker) for panel in everything[first:]]
    html = []
    for panel, y, instance in blocks:
        if panel["type"] == "row":
            html.append(panels.row(panel["title"].replace("$instance", instance), y))
        else:
            html.append(panels.draw(panel, series_of(prometheus, panel, instance, start, end), y, start, end))
    subtitle = (
        f"scraped every {STEP:g} s; rates over {RATE}; compared: {VARIABLES['window']}, {VARIABLES['before']} before"
    )
    return panels.page("Otoscope", subtitle, html, top + high * len(workers))


def render(html: str, path: Path) -> None:
    """Save the page as a PNG of 128 colours, which are enough, and its upper part, for the README, as another one."""
    upper = path.with_stem(f"{path.stem}-top")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None),
            args=["--no-sandbox"],
        )
        width = 24 * panels.COLUMN + panels.GAP
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_content(html)
        page.screenshot(path=path, full_page=True)
        below = page.get_by_text("⌄ Bottlenecks").bounding_box()
        assert below is not None
        page.screenshot(path=upper, clip={"x": 0, "y": 0, "width": width, "height": below["y"]})
        browser.close()
    for file in (path, upper):
        with Image.open(file) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    if program("prometheus") is None:
        raise SystemExit("`prometheus` is not installed; `make prometheus` installs it from Debian's package.")
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        folder = Path(name)
        service = Service(folder)
        workers = [f"127.0.0.1:{port}" for port in service.ports.values()]
        config = configuration({GATEWAY: [f"127.0.0.1:{service.port}"], WORKER: workers}, STEP)
        with service.running(), Prometheus.running(config, free_port(), folder) as prometheus:
            callers, start = Callers(service.url), time.time()
            try:
                run_scenario(service, callers)
            finally:
                callers.end()
            html = drawn(prometheus, workers, start, time.time())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(html)
    render(html, Path(__file__).with_name("dashboard.png"))


if __name__ == "__main__":
    main()
