"""Real processes with API keys and a Redis password: a job in both logs, and no secret in any output."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import redis

from shared.api_keys import Scope, new_key, write_keys
from tests.api.conftest import wav
from tests.conftest import free_port, start_server, write_tiny_model
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

RIGHT, OTHER = "correct-horse-battery", "staple-of-the-attacker"  # passwords of Redis
FOREIGN = f"oto_12345678_{'5ec4e7' * 10}0000"  # a key of another service, sent here by mistake


@contextmanager
def protected(directory: Path) -> Iterator[tuple[Stack, subprocess.Popen[bytes]]]:
    """A server with a Redis password, and a stack that is not started: with that password, a file of keys and JSON
    logs."""
    redis_port = free_port()
    server, _ = start_server(directory, "--port", str(redis_port))
    client = redis.Redis(port=redis_port)
    client.config_set("requirepass", RIGHT)
    client.close()
    url = f"redis://:{RIGHT}@127.0.0.1:{redis_port}/0"
    keys = {"keys_file": str(directory / "keys"), "log_format": "json"}
    try:
        yield Stack.on(directory, url, default_model="tiny", **keys), server
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Stack, str, str]]:
    """Gateway and worker with a keys file, JSON logs and a Redis password; a key to submit and read; an admin key."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        directory = Path(name)
        write_tiny_model(directory / "models" / "tiny")
        key, text = new_key("test", [Scope.SUBMIT, Scope.READ])
        admin, admin_text = new_key("admin", [Scope.ADMIN])
        write_keys(directory / "keys", [key, admin])
        with protected(directory) as (stack, server), stack.up(server):
            yield stack, text, admin_text


def logs(stack: Stack) -> str:
    return "".join(path.read_text() for path in stack.logs.glob("*.log") if path.name != "redis.log")


def seen_from_outside(stack: Stack) -> str:
    """What other users of the machine can read of the processes."""
    return "".join(Path(f"/proc/{process.pid}/cmdline").read_text() for process in stack.processes.values())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_job_is_found_by_its_id_in_both_logs(guarded: tuple[Stack, str, str]) -> None:
    """Accepted by the gateway, started and finished by the worker, each with its fields; a failure with its code."""
    stack, key, _ = guarded
    with stack.client() as http:
        headers = bearer(key) | {"Prefer": "wait=30"}
        job = http.post("/v1/jobs", files={"file": wav()}, headers=headers).json()
        bad = http.post("/v1/jobs?window=9", files={"file": wav()}, headers=headers).json()
    assert (job["status"], bad["status"]) == ("succeeded", "failed")
    deadline = time.monotonic() + 10
    while logs(stack).count('"finished"') < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    records = [json.loads(line) for line in logs(stack).splitlines()]
    lines = {line["message"]: line for line in records if line.get("job") == job["id"]}
    assert list(sorted(lines)) == ["accepted", "finished", "started"]
    assert lines["accepted"]["caller"] == f"key:{key.split('_')[1]}"
    assert (lines["accepted"]["model"], lines["accepted"]["format"]) == ("tiny", "WAV")
    assert lines["accepted"]["bytes"] == len(wav())
    assert lines["started"]["logger"].startswith("worker.")
    assert lines["finished"]["status"] == "succeeded"
    assert lines["finished"]["timings"]["forward"] > 0
    [failed] = [line for line in records if line.get("job") == bad["id"] and line["message"] == "finished"]
    assert (failed["status"], failed["code"]) == ("failed", "invalid_request")


def test_no_secret_is_disclosed(guarded: tuple[Stack, str, str]) -> None:
    """Invalid keys, and a password that Redis no longer accepts: neither is in responses, metrics, logs or the argument
    lists of the processes while both sides fail."""
    stack, key, admin = guarded
    outputs: list[str] = []

    def record(answer: httpx2.Response) -> httpx2.Response:
        outputs.append(answer.text + str(answer.headers))
        return answer

    with stack.client() as http:
        for headers in (bearer(FOREIGN), {"Cookie": f"otoscope_key={FOREIGN}"}, bearer(f"{key}x"), bearer("é" * 9)):
            encoded = {name: value.encode() for name, value in headers.items()}
            assert record(http.get("/v1/models", headers=encoded)).status_code == 401
        assert record(http.get("/metrics", headers=bearer(key))).status_code == 403
        assert record(http.post(f"/v1/jobs?model={FOREIGN[:9]}", files={"file": wav()}, headers=bearer(key)))
        # The password changes while both run: all connections are lost, and none can be opened.
        client = redis.Redis.from_url(stack.environment["OTOSCOPE_REDIS_URL"])
        client.config_set("requirepass", OTHER)
        client.client_kill_filter(skipme=True)
        deadline = time.monotonic() + 30
        while record(http.post("/v1/jobs", files={"file": wav()}, headers=bearer(key))).status_code != 503:
            assert time.monotonic() < deadline
        record(http.get("/health/ready"))
        record(http.get("/metrics", headers=bearer(admin)))
        while "cannot connect to Redis" not in logs(stack):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        outputs.append(httpx2.get(stack.worker_metrics).text)
        client.config_set("requirepass", RIGHT)
        client.close()
        stack.until_ready()
    outside = seen_from_outside(stack)
    assert "worker" in outside
    written = logs(stack)
    assert "otoscope_api_errors_total" in "".join(outputs)
    assert "WARNING" in written, "without a failure this test proves nothing"
    for where in (*outputs, written, outside):
        for secret in (RIGHT, OTHER, FOREIGN, key, admin, key.split("_")[2], FOREIGN.split("_")[2]):
            assert secret not in where, where


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_failed_start_discloses_no_password(tmp_path: Path, name: str) -> None:
    """A wrong password from the start, and invalid URLs: it exits with the reason."""
    write_tiny_model(tmp_path / "models" / "tiny")
    write_keys(tmp_path / "keys", [new_key("test", [Scope.READ])[0]])
    with protected(tmp_path) as (stack, _):
        url = stack.environment["OTOSCOPE_REDIS_URL"]
        troubles = {
            url.replace(RIGHT, OTHER): "rejects the user or password",
            url.replace(RIGHT, f"{OTHER}/x"): "is not a valid URL",
            url.replace("redis:", "http:").replace(RIGHT, OTHER): "must begin with redis://",
        }
        for broken, trouble in troubles.items():
            stack.environment["OTOSCOPE_REDIS_URL"] = broken
            stack.start(name)
            assert stack.processes[name].wait(60) == 1
            assert trouble in (stack.logs / f"{name}.log").read_text().splitlines()[-1]
            assert OTHER not in logs(stack)
