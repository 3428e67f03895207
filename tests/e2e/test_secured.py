"""A service over TLS with no more Redis permissions than docs/deployment.md lists; and clients that Redis rejects."""

import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.api.conftest import wav
from tests.conftest import ROOT, write_tiny_model
from tests.e2e.conftest import Stack
from tests.support.tls import PASSWORD, Authority, encrypted_server, needs_tls

pytestmark = [pytest.mark.timeout(180), needs_tls]

SECRET = "correct-horse"


def rights() -> list[str]:
    """The ACL rule in the documentation."""
    [line] = re.findall(r"^user otoscope on >PASSWORD (.*)$", (ROOT / "docs/deployment.md").read_text(), re.M)
    return str(line).split()


@pytest.fixture
def restricted() -> Iterator[tuple[Stack, redis.Redis, Authority]]:
    """A stack that is not started, an administrator's client of its Redis, the authority of its certificate."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        directory = Path(name)
        write_tiny_model(directory / "models" / "tiny")
        authority = Authority(directory, "ours")
        mine, key = authority.sign("worker")
        with encrypted_server(directory, authority, ask=True) as port:
            tls = {"ssl_ca_certs": str(authority.ca), "ssl_certfile": str(mine), "ssl_keyfile": str(key)}
            behind = "&".join(f"{option}={path}" for option, path in tls.items())
            url = f"rediss://otoscope:{SECRET}@localhost:{port}/0?{behind}"
            stack = Stack.on(directory, url, default_model="tiny", visibility_timeout="5")
            with redis.Redis("localhost", port, password=PASSWORD, ssl=True, **tls) as owner:  # type: ignore[arg-type]
                owner.execute_command("ACL", "SETUSER", "otoscope", "on", f">{SECRET}", *rights())
                yield stack, owner, authority
            stack.kill()


def test_a_service_needs_no_more_rights_than_the_documentation_gives(
    restricted: tuple[Stack, redis.Redis, Authority],
) -> None:
    """Jobs that succeed, are repeated, followed, cancelled, redelivered after a worker died: no command is denied."""
    stack, owner, _ = restricted
    stack.start("worker")
    stack.start("api")
    stack.until_ready()
    raw = {"Content-Type": "audio/wav", "Idempotency-Key": "one"}
    with stack.client() as http:
        for _ in range(2):
            job = http.post("/v1/jobs", content=wav(), headers=raw | {"Prefer": "wait=30"}).json()
            assert job["status"] == "succeeded"
        assert "event: result" in http.get(job["links"]["events"]).text
        assert http.delete(job["links"]["self"]).status_code == 204
        worker = stack.processes["worker"]
        worker.send_signal(signal.SIGSTOP)
        jobs = [http.post("/v1/jobs", files={"file": wav()}).json()["links"]["self"] for _ in range(3)]
        worker.send_signal(signal.SIGCONT)
        stack.stop("worker", signal.SIGKILL)
        stack.start("worker")
        assert http.delete(jobs.pop()).status_code == 204
        for job in jobs:
            while (status := http.get(job, params={"wait": 30}).json()["status"]) in ("queued", "running"):
                pass
            assert status == "succeeded"
        assert http.get("/metrics").status_code == 200
    assert {name: stack.stop(name) for name in list(stack.processes)} == {"worker": 0, "api": 0}
    refused = {entry["object"] for entry in owner.acl_log()}
    assert refused <= {"client", "client|setinfo", "client|maint_notifications"}, (
        "by which the client introduces itself"
    )


def test_a_process_that_redis_rejects_exits_with_the_reason(restricted: tuple[Stack, redis.Redis, Authority]) -> None:
    """Gateway and worker: status 1, one sentence, no password in it."""
    stack, _, authority = restricted
    url = stack.environment["OTOSCOPE_REDIS_URL"]
    stack.environment["OTOSCOPE_REDIS_URL"] = url.replace(str(authority.ca), str(Authority(stack.logs, "other").ca))
    for name in ("api", "worker"):
        stack.start(name)
    for name in ("api", "worker"):
        assert stack.processes.pop(name).wait(30) == 1
        log = (stack.logs / f"{name}.log").read_text()
        assert "OTOSCOPE_REDIS_URL" in log.splitlines()[-1]
        assert "self-signed certificate" in log.splitlines()[-1]
        assert SECRET not in log


def test_a_changed_password_is_reported(restricted: tuple[Stack, redis.Redis, Authority]) -> None:
    """Not ready, 503, and the reason in the log; ready again with the old password."""
    stack, owner, _ = restricted
    stack.start("worker")
    stack.start("api")
    stack.until_ready()
    owner.execute_command("ACL", "SETUSER", "otoscope", "resetpass", ">another")
    with stack.client() as http:
        deadline = time.monotonic() + 30
        owner.client_kill_filter(skipme=True)
        while (answer := http.get("/health/ready")).status_code != 503 or "username" not in logs(stack):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert answer.json()["redis"] is False
        assert http.post("/v1/jobs", files={"file": wav()}).json()["code"] == "store_unavailable"
        assert SECRET not in logs(stack)
        owner.execute_command("ACL", "SETUSER", "otoscope", f">{SECRET}")
        stack.until_ready()
        assert http.post("/v1/jobs", files={"file": wav()}, headers={"Prefer": "wait=30"}).json()["result"]


def logs(stack: Stack) -> str:
    return "".join((stack.logs / f"{name}.log").read_text() for name in stack.processes)
