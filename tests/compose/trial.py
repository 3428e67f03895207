"""A test of docker-compose.yml with Docker: build, start, faults under load, upgrade, backup, stop.

    python -m tests.compose.trial [--gpu-image] [STEP ...]

Needs a Docker engine with Compose (`docker compose` or `docker-compose`) and takes a quarter of an hour. It runs as a
separate project on free ports, which is removed afterwards with its volumes. Exit status: 0; 1 if a check failed; 77
without an engine. A service whose image cannot be pulled is skipped with a message.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial

import yaml

from tests.compose import faults, steps, walls
from tests.compose.rig import PROJECT, ROOT, Compose, Load, compose_command, docker
from tests.compose.steps import Trial
from tests.conftest import free_ports

STEPS: list[Callable[[Trial], None]] = [
    steps.answers, walls.walls, walls.sandbox, walls.secrets, steps.metrics, faults.kill_worker, faults.kill_api,
    faults.kill_redis, faults.scale, faults.roll_worker, faults.upgrade_redis, faults.backup, faults.stop, walls.keys,
    walls.password, walls.elsewhere, walls.model,
]  # fmt: skip


def images() -> dict[str, str]:
    """The images that are not built here, by service."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = {name: service.get("image", "") for name, service in services.items() if "build" not in service}
    named = {name: image.replace("${OTOSCOPE_REDIS_IMAGE:-", "").rstrip("}") for name, image in named.items() if image}
    return named


def missing_images() -> set[str]:
    """Services whose image is not present and cannot be pulled."""
    missing = set()
    for name, image in images().items():
        if docker("image", "ls", "--quiet", image):
            continue
        try:
            docker("pull", "--quiet", image)
        except RuntimeError:
            missing.add(name)
    return missing


def build(trial: Trial, *, gpu: bool) -> None:
    """Build both images, and measure how much they add to their base."""
    begun = time.monotonic()
    trial.compose("build")
    trial.note("built in", f"{time.monotonic() - begun:.0f} s")
    text = (ROOT / "Dockerfile.api").read_text()
    base = text.split("ARG PYTHON=")[1].split()[0]
    built = {"api": "otoscope-api:trial", "worker": "otoscope-worker:trial-cpu"}
    if gpu:
        docker("build", "--file", str(ROOT / "Dockerfile.worker"), "--tag", "otoscope-worker:trial-gpu", str(ROOT))
        built["worker for GPUs"] = "otoscope-worker:trial-gpu"
    sizes = {name: int(docker("image", "inspect", "--format", "{{.Size}}", tag)) for name, tag in built.items()}
    below = int(docker("image", "inspect", "--format", "{{.Size}}", base))
    for name, size in sizes.items():
        trial.note(f"image of the {name}", f"{(size - below) / 1e6:.0f} MB above {base}")
    trial.check("the gateway's image is less than 250 MB above its base", sizes["api"] - below < 250e6)
    for package, tag in (("torch", built["api"]), ("fastapi", built["api"]), ("torch", built["worker"])):
        found = "module" in docker(
            "run", "--rm", tag, "python", "-c", f"import {package}; print({package})", check=False
        )
        wanted = (package, tag) != ("torch", built["api"])
        trial.check(f"{package} is {'' if wanted else 'not '}in {tag}", found is wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(step.__name__ for step in STEPS))
    parser.add_argument("--gpu-image", action="store_true", help="build the image for GPUs as well: several GB")
    chosen = parser.parse_args()
    command = compose_command()
    if command is None:
        print("there is no Docker engine here, or no Compose")
        return 77
    left_out = missing_images()
    names = ("", "PROMETHEUS_", "GRAFANA_")
    ports = {f"OTOSCOPE_{name}PORT": str(port) for name, port in zip(names, free_ports(3), strict=True)}
    sounds = sorted((ROOT / "api" / "static" / "sounds").glob("*.flac"))
    with Compose(command, left_out, OTOSCOPE_TAG="trial", **ports) as compose:
        trial = Trial(compose, Load(f"http://127.0.0.1:{ports['OTOSCOPE_PORT']}", sounds))
        trial.note("compose", compose("version", "--short").decode().strip())
        trial.note("left out", ", ".join(sorted(left_out)) or "nothing")
        trial.step("build", partial(build, gpu=chosen.gpu_image))
        trial.step("up", steps.up)
        for step in STEPS:
            if not chosen.steps or step.__name__ in chosen.steps or step is steps.answers:
                trial.step(step.__name__, step)
        if trial.wrong:
            print(compose("logs", "--tail", "40", check=False).decode())
    for left in ("containers", "volumes", "networks"):
        kind = {"containers": ["ps", "--all"], "volumes": ["volume", "ls"], "networks": ["network", "ls"]}[left]
        found = docker(*kind, "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
        trial.check(f"no {left} are left", not found)
    for tag in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
        if tag.startswith("otoscope-") and ":trial" in tag:
            docker("image", "rm", tag, check=False)
    print(json.dumps({"checks": trial.checks, "wrong": trial.wrong, **trial.notes}, ensure_ascii=False))
    return 1 if trial.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
