"""A Compose project for fault injection, and a load generator that tracks every job."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx2

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "otoscope-trial"
READY_SECONDS, FINISH_SECONDS = 240, 240


def compose_command() -> list[str] | None:
    """`docker compose`, or the older `docker-compose`; None without either, or without an engine."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        return None
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


def docker(*arguments: str, given: bytes | None = None, check: bool = True) -> str:
    """Its stdout. Raises RuntimeError with its stderr if it failed."""
    done = subprocess.run(["docker", *arguments], input=given, capture_output=True, timeout=1_800)
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode()[-2_000:]}")
    return done.stdout.decode()


class Compose:
    """The repository's docker-compose.yml as a separate project; `with` removes it with its volumes at the end."""

    def __init__(self, command: list[str], left_out: set[str], **settings: str) -> None:
        """`settings` are variables of an .env file, with their full names."""
        self._command, self._left_out = command, left_out
        self._folder = tempfile.TemporaryDirectory(prefix="otoscope-trial")
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o755)
        self.settings = {"COMPOSE_PROFILES": "cpu", **settings}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTOSCOPE_", "COMPOSE_"))}
        self._environment = clean | {"DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "1")}
        if command == ["docker-compose"]:
            self._environment["DOCKER_BUILDKIT"] = "0"

    def __enter__(self) -> Self:
        self("down", "--volumes", "--remove-orphans", "--timeout", "5")
        return self

    def __exit__(self, *_: object) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)
        self._folder.cleanup()

    def __call__(self, *arguments: str, given: bytes | None = None, check: bool = True) -> bytes:
        env = self.folder / "env"
        env.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        done = subprocess.run(
            [*self._command, "--project-name", PROJECT, "--env-file", str(env), *arguments],
            cwd=ROOT, env=self._environment, input=given, capture_output=True, timeout=1_800,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {(done.stdout + done.stderr).decode()[-2_000:]}")
        return done.stdout

    def services(self) -> list[str]:
        return sorted(set(self("config", "--services").decode().split()) - self._left_out)

    def up(self) -> None:
        """All services whose image is available."""
        self("up", "--detach", *self.services())

    def containers(self, service: str) -> list[str]:
        return self("ps", "--all", "--quiet", service).decode().split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [json.loads(docker("inspect", name))[0] for name in self.containers(service)]
        return found

    def run_in(self, service: str, *arguments: str, user: str = "", check: bool = True) -> str:
        as_user = ["--user", user] if user else []
        return docker("exec", *as_user, self.containers(service)[0], *arguments, check=check)

    def kill(self, service: str) -> None:
        """SIGKILL, as by the kernel's out-of-memory killer. `docker kill` counts as a user request, after which Docker
        would not restart the container."""
        self.run_in(service, "sh", "-c", "kill -9 -1", check=False)

    def make_writable(self, volume: str, user: str) -> None:
        """A volume whose folder belongs to root, as in some builds of the images of Redis and Prometheus."""
        image, name = "redis:7-alpine", f"{PROJECT}_{volume}"
        script = f"touch /there/.kept && chown -R {user} /there"  # an empty volume would belong to root again
        docker("run", "--rm", "--user", "0", "--volume", f"{name}:/there", "--entrypoint", "sh", image, "-c", script)


class Load:
    """Sounds submitted over HTTP, and the outcome of each job."""

    def __init__(self, url: str, sounds: list[Path], key: str | None = None) -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url, self._sounds = url, [path.read_bytes() for path in sounds]
        self.expected: list[str] = []
        self.accepted: dict[str, int] = {}
        self.refused = 0

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=30, headers=self._headers)

    def ready(self, workers: int = 1, seconds: float = READY_SECONDS) -> float:
        """Seconds until so many workers are ready; raises AssertionError after a time limit."""
        begun, response = time.monotonic(), "none"
        while time.monotonic() - begun < seconds:
            with suppress(httpx2.HTTPError, ValueError):
                answer = httpx2.get(f"{self.url}/health/ready", timeout=5)
                response = answer.text
                if answer.status_code == 200 and answer.json()["workers"] == workers:
                    return time.monotonic() - begun
            time.sleep(0.2)
        raise AssertionError(f"no {workers} workers after {seconds:.0f} s; last response: {response}")

    async def name_all(self) -> list[str]:
        """The prediction of each sound, submitted one at a time."""
        async with self.client() as http:
            for sound in self._sounds:
                headers = {"Content-Type": "audio/flac", "Prefer": "wait=30"}
                answer = await http.post("/v1/jobs", content=sound, headers=headers)
                assert answer.status_code == 200, answer.text
                self.expected.append(answer.json()["result"]["predictions"][0]["class"])
        return self.expected

    async def submit(self, count: int, *, at_once: int = 8) -> None:
        """Submit so many jobs, each until it is accepted; an idempotency key makes one job of its retries."""
        gate = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            which = number % len(self._sounds)
            headers = {"Content-Type": "audio/flac", "Idempotency-Key": str(uuid.uuid4())}
            async with gate:
                for _ in range(600):
                    with suppress(httpx2.HTTPError):
                        answer = await http.post("/v1/jobs", content=self._sounds[which], headers=headers)
                        if answer.status_code == 202:
                            self.accepted[answer.json()["id"]] = which
                            return
                        assert answer.status_code in (429, 503), answer.text
                    self.refused += 1
                    await asyncio.sleep(0.2)
            raise AssertionError("a sound was never accepted")

        async with self.client() as http:
            await asyncio.gather(*(one(number) for number in range(count)))

    async def ends(self, seconds: float = FINISH_SECONDS) -> Counter[str]:
        """The outcomes of the accepted jobs; `succeeded` counts only those with the expected prediction."""
        ended: Counter[str] = Counter()
        until = time.monotonic() + seconds
        async with self.client() as http:
            for job_id, which in self.accepted.items():
                ended[await self._end(http, job_id, self.expected[which], until)] += 1
        return ended

    async def _end(self, http: httpx2.AsyncClient, job_id: str, expected: str, until: float) -> str:
        while True:
            with suppress(httpx2.HTTPError):
                answer = await http.get(f"/v1/jobs/{job_id}")
                if answer.status_code in (404, 410):
                    return "lost"
                job = answer.json() if answer.status_code == 200 else {}
                if job.get("status") == "succeeded":
                    right = job["result"]["predictions"][0]["class"] == expected
                    return "succeeded" if right else "another answer"
                if job.get("status") in ("failed", "cancelled"):
                    return f"{job['status']}: {(job.get('error') or {}).get('code')}"
            if time.monotonic() > until:
                return "unfinished"
            await asyncio.sleep(0.1)

    def totals(self) -> dict[str, int]:
        """`otoscope_jobs_total` by outcome."""
        text = httpx2.get(f"{self.url}/metrics", headers=self._headers, timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith("otoscope_jobs_total{")]
        return {line.split('"')[1]: int(float(line.rpartition(" ")[2])) for line in lines}
