"""What docker-compose.yml and the Dockerfiles promise, checked in the files; trial.py checks it with Docker."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config.settings import Settings
from tests.conftest import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PASSED_ON = {
    name: {
        entry.partition("=")[0].removeprefix("OTOSCOPE_").lower(): entry.partition("=")[2]
        for entry in service.get("environment", ())
        if entry.startswith("OTOSCOPE_")
    }
    for name, service in SERVICES.items()
}
every_service = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> dict[str, tuple[str, str]]:
    """Mount point: source and options."""
    found = {}
    for entry in SERVICES[name].get("volumes", ()):
        if isinstance(entry, dict):
            found[entry["target"]] = (entry["source"], ":ro" if entry["read_only"] else "")
        else:
            what, where, *how = entry.split(":")
            found[where] = (what, f":{how[0]}" if how else "")
    return found


@every_service
def test_every_container_is_unprivileged(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), "root, or a name that an image may give to root"


@every_service
def test_every_container_has_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert "cpus" in service
    assert service["pids_limit"] > 0
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@every_service
def test_every_container_restarts_and_stops_in_order(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("no" if name == "secrets" else "unless-stopped")
    assert service["init"] is True
    for needed, how in service.get("depends_on", {}).items():
        assert how["condition"] == "service_healthy" or needed in ("secrets", "prometheus")


def test_grace_periods_are_long_enough() -> None:
    """The gateway gives open requests five seconds, a worker's watchdog waits a minute."""
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > 5
    watchdog = Settings.model_fields["watchdog_seconds"].default
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > watchdog


def test_only_gateway_and_dashboards_publish_a_port_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"api", "prometheus", "grafana"}
    for ports in published.values():
        assert all(re.match(r"127\.0\.0\.1:|\$\{OTOSCOPE_HOST:-127\.0\.0\.1\}:", port) for port in ports), ports
    assert not [name for name, service in SERVICES.items() if service.get("network_mode") == "host"]


def test_only_gateway_and_worker_reach_redis() -> None:
    assert SERVICES["redis"]["networks"] == ["queue"]
    assert {name for name, service in SERVICES.items() if "queue" in service.get("networks", ())} == {
        "api",
        "worker",
        "redis",
    }
    assert COMPOSE["networks"]["queue"] == {"internal": True}


def test_redis_persists_its_data() -> None:
    command = " ".join(SERVICES["redis"]["command"].split())
    assert "--appendonly yes" in command
    assert re.search(r"--maxmemory \S+ --maxmemory-policy noeviction", command)
    assert "requirepass" not in command, "everybody on the host can read it there"
    assert mounts("redis")["/data"] == ("redis-data", "")


def test_each_service_mounts_only_its_secrets_read_only() -> None:
    seen = {name: mounts(name)["/run/secrets"] for name in SERVICES if "/run/secrets" in mounts(name)}
    assert seen == {name: (f"secrets-{name}", ":ro") for name in ("api", "worker", "redis", "prometheus", "grafana")}
    assert {where: what for where, (what, _) in mounts("secrets").items()} == {
        f"/made/{name}": f"secrets-{name}" for name in seen
    }
    assert SERVICES["secrets"]["network_mode"] == "none"


@every_service
def test_mounted_files_exist(name: str) -> None:
    for what, _ in mounts(name).values():
        if what.startswith(("./", "${")):
            path = ROOT / what.removeprefix("${OTOSCOPE_MODELS_DIR:-").removesuffix("}")
            assert path.exists(), f"Docker would make a folder of it: {what}"
        else:
            assert what in COMPOSE["volumes"]


@every_service
def test_every_image_has_a_tag(name: str) -> None:
    image = SERVICES[name].get("image", "otoscope-worker:of-the-extended-file")
    tag = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", image).rpartition(":")[2]
    assert tag
    assert image.startswith("otoscope-") or tag != "latest"


def test_every_setting_is_passed_through() -> None:
    """To the service that reads it; the rest is fixed inside the container."""
    inside = {"port", "metrics_port"}  # the first is mapped to another port, the second is not published
    elsewhere = {"redis_url"}  # with managed-redis.yml, which also gives the worker a route out
    missing = set(Settings.model_fields) - set(PASSED_ON["api"]) - set(PASSED_ON["worker"]) - inside - elsewhere
    assert not missing, f"docker-compose.yml passes on neither {missing}"
    assert not (set(PASSED_ON["api"]) | set(PASSED_ON["worker"])) - set(Settings.model_fields)


def test_the_worker_has_the_limits_of_uploads() -> None:
    """It fetches sounds by address within them, and compares the largest upload with the memory of Redis at its start.
    `Settings` refuses a large upload that does not fit into a caller's share of the memory for uploads."""
    assert {"max_upload_bytes", "upload_seconds", "redis_memory_share"} <= set(PASSED_ON["worker"])
    assert {"upload_memory", "caller_share"} <= set(PASSED_ON["worker"])


def test_the_worker_has_the_variables_of_s3() -> None:
    """With sounds by address: without credentials and a region it can read no bucket."""
    worker = yaml.safe_load((ROOT / "compose" / "sound-sources.yml").read_text())["services"]["worker"]
    documented = set(re.findall(r"`(AWS_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    assert set(worker.get("environment", ())) == documented


def test_defaults_of_settings_are_defined_once() -> None:
    """`- NAME` without a value passes a variable on if it is set."""
    own = {
        "host": "0.0.0.0",
        "metrics_host": "0.0.0.0",
        "models_dir": "/app/models",
        "log_format": "${OTOSCOPE_LOG_FORMAT:-json}",
    }
    for side in ("api", "worker"):
        assert {name: value for name, value in PASSED_ON[side].items() if value and own.get(name) != value} == {}


@pytest.mark.parametrize(("profile", "torch"), [("gpu", "cuda"), ("cpu", "cpu")])
def test_both_worker_images_have_one_dockerfile(profile: str, torch: str) -> None:
    worker = yaml.safe_load((ROOT / "compose" / f"{profile}.yml").read_text())["services"]["worker"]
    assert worker["build"] == {"context": "..", "dockerfile": "Dockerfile.worker", "args": {"TORCH": torch}}
    assert worker["image"].endswith(f"-{profile}")
    devices = worker.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    assert [device["capabilities"] for device in devices] == ([["gpu"]] if profile == "gpu" else [])
    assert SERVICES["worker"]["extends"] == {"file": "compose/${COMPOSE_PROFILES:-gpu}.yml", "service": "worker"}


@pytest.mark.parametrize("side", ["api", "worker"])
def test_an_image_is_pinned_and_labelled(side: str) -> None:
    text = (ROOT / f"Dockerfile.{side}").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in text
    assert "\nUSER 10001:10001\n" in text
    assert f'CMD ["python", "-m", "{side}"]' in text
    assert "HEALTHCHECK" in text
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}"}
    # Code last, so that a change of it does not reinstall packages.
    assert text.index("requirements/") < text.index(f"COPY {side} ")


@pytest.mark.parametrize("side", ["api", "worker"])
def test_copied_paths_are_in_the_build_context(side: str) -> None:
    """.dockerignore is an allow-list."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    for source in re.findall(r"^COPY (?!--from)(\S+)", (ROOT / f"Dockerfile.{side}").read_text(), re.MULTILINE):
        assert f"!{source.split('/')[0]}" in rules
        assert (ROOT / source).exists()


def composed(tmp_path: Path, **environment: str) -> dict[str, Any]:
    """The services as the installed version of Compose reads them."""
    for command in (["docker", "compose"], ["docker-compose"]):
        found = shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0
        if found:
            break
    else:
        pytest.skip("needs docker compose or docker-compose")
    (tmp_path / "env").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTOSCOPE_", "COMPOSE_"))}
    done = subprocess.run(
        [*command, "--env-file", str(tmp_path / "env"), "config"],
        cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return services


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_compose_accepts_the_file(tmp_path: Path, profile: str) -> None:
    assert composed(tmp_path, COMPOSE_PROFILES=profile).keys() == SERVICES.keys()


def test_a_worker_that_fetches_sounds_has_a_route(tmp_path: Path) -> None:
    """And no other worker has one."""
    files = "docker-compose.yml:compose/sound-sources.yml"
    worker = composed(tmp_path, COMPOSE_FILE=files, OTOSCOPE_SOUND_SOURCES="https://media.example.org")["worker"]
    assert worker["environment"]["OTOSCOPE_SOUND_SOURCES"] == "https://media.example.org"
    assert set(worker["networks"]) == {"queue", "metrics", "front"}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_both_sides_use_the_same_redis(tmp_path: Path, elsewhere: bool) -> None:
    """An external one only if the worker can reach it too: otherwise accepted jobs would never run."""
    url, own = "rediss://redis.example:6380/0", ["docker-compose.yml", "compose/managed-redis.yml"]
    files = ":".join(own if elsewhere else own[:1])
    services = composed(tmp_path, COMPOSE_FILE=files, OTOSCOPE_REDIS_URL=url)
    urls = [services[side]["environment"].get("OTOSCOPE_REDIS_URL") for side in ("api", "worker")]
    assert urls == [url if elsewhere else None] * 2
    networks = set(services["worker"]["networks"])
    assert networks == {"queue", "metrics", "front"} if elsewhere else {"queue", "metrics"}
