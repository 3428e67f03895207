"""Steps of trial.py: isolation of the containers, secrets, and changes by an operator."""

import asyncio
import json
import shutil
import time

import httpx2

from shared import contract
from tests.compose.rig import PROJECT, ROOT, docker
from tests.compose.steps import Trial, targets
from tests.conftest import free_port

COUNT_JOBS = f'REDISCLI_AUTH="$(cat /run/secrets/password)" redis-cli hgetall {contract.TOTALS}'


def walls(trial: Trial) -> None:
    """Privileges, limits and networks, as seen inside the containers."""
    compose = trial.compose
    for service in sorted(set(compose.services()) - {"secrets"}):
        found = compose.inspect(service)[0]
        status = dict(line.split(":\t") for line in compose.run_in(service, "cat", "/proc/1/status").splitlines())
        trial.check(f"{service}: not root", status["Uid"].split()[0] != "0")
        trial.check(f"{service}: no capabilities", int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0)
        trial.check(f"{service}: no new privileges", status["NoNewPrivs"].strip() == "1")
        written = compose.run_in(service, "sh", "-c", "touch /etc/x /usr/x /app/x 2>&1; true")
        trial.check(f"{service}: nothing can be written", written.count("Read-only file system") >= 2)
        limits = found["HostConfig"]
        trial.check(f"{service}: limited", limits["Memory"] > 0 and limits["PidsLimit"] > 0)
    published = {service: compose.inspect(service)[0]["HostConfig"]["PortBindings"] for service in compose.services()}
    trial.check("Redis and workers publish no port", not published["redis"] and not published["worker"])
    addresses = {entry["HostIp"] for ports in published.values() for bound in ports.values() for entry in bound}
    trial.check(f"ports are on {addresses}", addresses == {"127.0.0.1"})
    ping = (
        "import socket; s = socket.create_connection(('redis', 6379), 3); s.sendall(b'PING\\r\\n'); print(s.recv(99))"
    )
    trial.check(
        "Redis answers a gateway without password NOAUTH", "NOAUTH" in compose.run_in("api", "python", "-c", ping)
    )
    reached = docker(
        "run", "--rm", "--network", f"{PROJECT}_front", "otoscope-api:trial", "python", "-c", ping, check=False
    )
    trial.check("on the gateway's outer network there is no Redis", "NOAUTH" not in reached)
    inside = {
        network: docker("network", "inspect", "--format", "{{.Internal}}", f"{PROJECT}_{network}").strip()
        for network in ("queue", "metrics", "front")
    }
    trial.check(
        f"networks without a way out: {inside}", inside == {"queue": "true", "metrics": "true", "front": "false"}
    )
    joined = set(compose.inspect("worker")[0]["NetworkSettings"]["Networks"])
    trial.check(f"a worker is on {joined}", joined == {f"{PROJECT}_queue", f"{PROJECT}_metrics"})


SANDBOXED = """
import socket, sys
from worker.decode import sandbox

def refused(call):
    try:
        call()
    except PermissionError:
        return True
    return False

sys.stderr = sys.stdout
sandbox.forbid_files()
print("files refused", refused(lambda: open("/etc/passwd")))
sandbox.forbid_calls()
print("sockets refused", refused(socket.socket))
"""
FILTERS = """
import os
import re
from pathlib import Path

count = lambda folder: int(re.search(r"Seccomp_filters:\\s+(\\d+)", (folder / "status").read_text())[1])
for folder in Path("/proc").glob("[0-9]*"):
    if folder.name != str(os.getpid()) and b"worker.decode.child" in (folder / "cmdline").read_bytes():
        print(count(folder) - count(Path("/proc/1")))
"""


def sandbox(trial: Trial) -> None:
    """The sandbox of a decode process works inside the container; a kernel without it is named in the worker's log."""
    found = trial.compose.run_in("worker", "python", "-c", SANDBOXED).splitlines()
    missing = [line for line in found if "is not available" in line]
    if missing:
        trial.note("sandbox", "; ".join(missing))
        logged = trial.compose("logs", "worker").decode()
        trial.check("the log says what is missing", all(line in logged for line in missing))
        return
    trial.check(f"in a sandbox: {', '.join(found)}", found == ["files refused True", "sockets refused True"])
    filters = trial.compose.run_in("worker", "python", "-c", FILTERS).split()
    trial.check(f"decode processes have {filters} filters of their own", set(filters) == {"1"})


def secrets(trial: Trial) -> None:
    """Each service has its secrets only."""
    compose = trial.compose
    password = compose.run_in("redis", "cat", "/run/secrets/password").strip()
    trial.check("the password is long", len(password) > 40)
    expected = {
        "api": {"otoscope_redis_url", "keys"}, "worker": {"otoscope_redis_url"}, "redis": {"password", "redis.conf"},
        "prometheus": {"prometheus_key"}, "grafana": {"grafana_admin_password"},
    }  # fmt: skip
    for service in sorted(set(compose.services()) - {"secrets"}):
        seen = set(compose.run_in(service, "ls", "/run/secrets").split())
        trial.check(f"{service} sees {', '.join(sorted(seen))}", seen == expected[service])
        tried = compose.run_in(service, "sh", "-c", "echo x >/run/secrets/x", check=False)
        trial.check(
            f"{service} cannot add to it",
            "x" not in compose.run_in(service, "ls", "/run/secrets").split() and not tried,
        )
        container = compose.containers(service)[0]
        output = docker("inspect", container) + docker("top", container) + docker("logs", container)
        trial.check(f"{service}: the password is in no argument, environment or log", password not in output)


def keys(trial: Trial) -> None:
    compose, load = trial.compose, trial.load
    run = ["run", "--rm", "--no-deps", "-T", "secrets", "python", "-m", "commands", "keys"]
    compose.settings["OTOSCOPE_KEYS_FILE"] = "/run/secrets/keys"
    compose("up", "--detach", "--no-deps", "api")
    load.ready()
    trial.check("without a key: 401", httpx2.get(f"{load.url}/v1/models").status_code == 401)
    key = compose(*run, "create", "trial", "--scope", "submit", "--scope", "read").decode().split()[-1]
    time.sleep(2)  # a gateway reloads its keys within a second
    answer = httpx2.get(f"{load.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    trial.check("with a new one: 200", answer.status_code == 200)
    if "prometheus" in compose.services():
        found = targets(trial, 2)
        time.sleep(20)  # longer than the scrape interval
        found = targets(trial, 2)
        trial.check(f"Prometheus has its own key: {found}", list(found.values()) == ["up", "up"])
    compose(*run, "revoke", key.split("_")[1])
    time.sleep(2)
    answer = httpx2.get(f"{load.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    trial.check("revoked: 401", answer.status_code == 401)
    del compose.settings["OTOSCOPE_KEYS_FILE"]
    compose("up", "--detach", "--no-deps", "api")
    load.ready()


def password(trial: Trial) -> None:
    """An operator's password, with characters that have to be quoted."""
    compose, load = trial.compose, trial.load
    mine = 'own "pass" word/?#@%:'
    compose("run", "--rm", "--no-deps", "-T", "secrets", "python", "-m", "compose.first_start", "set", "redis",
            given=mine.encode())  # fmt: skip
    trial.check("the secret has it", compose.run_in("redis", "cat", "/run/secrets/password") == mine)
    compose("down")  # in order: a worker without its Redis stops slowly
    compose.up()
    load.ready()
    load.accepted.clear()
    asyncio.run(load.submit(20))
    ended = asyncio.run(load.ends())
    trial.check(f"20 jobs ended {dict(ended)}", dict(ended) == {"succeeded": 20})


def elsewhere(trial: Trial) -> None:
    """An external Redis, as in docs/deployment.md: jobs go there, and none into the Redis of the project."""
    compose, load = trial.compose, trial.load
    host, port = gateway_of("front"), free_port()
    own = ["--bind", host, "--port", str(port), "--requirepass", "not-ours"]
    other = docker("run", "--detach", "--network", "host", "redis:7-alpine", "redis-server", *own).strip()
    before = compose.run_in("redis", "sh", "-c", COUNT_JOBS)
    compose.settings |= {
        "COMPOSE_FILE": "docker-compose.yml:compose/managed-redis.yml",
        "OTOSCOPE_REDIS_URL": f"redis://:not-ours@{host}:{port}/0",
    }
    try:
        compose("up", "--detach", "--no-deps", "api", "worker")
        load.ready()
        load.accepted.clear()
        asyncio.run(load.submit(20))
        ended = asyncio.run(load.ends())
        trial.check(f"20 jobs ended {dict(ended)}", dict(ended) == {"succeeded": 20})
        there = ["redis-cli", "-h", host, "-p", str(port), "-a", "not-ours", "--no-auth-warning"]
        count = docker("exec", other, *there, "hget", contract.TOTALS, "succeeded").strip()
        trial.check(f"{count} of them in the external Redis", count == "20")
        trial.check("and none in the Redis of the project", compose.run_in("redis", "sh", "-c", COUNT_JOBS) == before)
    finally:
        for name in ("COMPOSE_FILE", "OTOSCOPE_REDIS_URL"):
            del compose.settings[name]
        compose("up", "--detach", "--no-deps", "api", "worker")
        docker("rm", "--force", "--volumes", other)
    load.ready()
    trial.balanced()


def gateway_of(network: str) -> str:
    """The address of this host for the containers of that network."""
    (found,) = json.loads(docker("network", "inspect", f"{PROJECT}_{network}"))
    return str(found["IPAM"]["Config"][0]["Gateway"])


def model(trial: Trial) -> None:
    """A model that is copied into the folder is served without a restart."""
    compose, load = trial.compose, trial.load
    folder = compose.folder / "models"
    shutil.copytree(ROOT / "models" / "esc50-light", folder / "esc50-light")
    compose.settings |= {"OTOSCOPE_MODELS_DIR": str(folder), "OTOSCOPE_DEFAULT_MODEL": "esc50-light"}
    compose("up", "--detach", "--no-deps", "api", "worker")
    load.ready()
    served = until(trial, {"esc50-light"})
    trial.check(f"of the folder that is mounted: {served}", served == {"esc50-light"})
    started = compose.inspect("worker")[0]["State"]["StartedAt"]
    shutil.copytree(ROOT / "models" / "cat-dog", folder / "cat-dog")
    served = until(trial, {"esc50-light", "cat-dog"})
    trial.check(f"and what came into it: {served}", served == {"cat-dog", "esc50-light"})
    trial.check("without a restart", compose.inspect("worker")[0]["State"]["StartedAt"] == started)


def until(trial: Trial, wanted: set[str]) -> set[str]:
    """The ready models of the worker, once they are the expected ones."""
    script = "from urllib.request import urlopen as u; print(u('http://127.0.0.1:9100/metrics').read().decode())"
    served: set[str] = set()
    for _ in range(60):
        lines = trial.compose.run_in("worker", "python", "-c", script, check=False).splitlines()
        ready = [line for line in lines if line.startswith("otoscope_worker_model_ready{") and line.endswith(" 1.0")]
        served = {line.split('"')[1] for line in ready}
        if served == wanted:
            break
        time.sleep(1)
    return served
