"""Steps of trial.py: services that are killed, stopped or replaced under load."""

import asyncio
import time

from tests.compose.rig import docker
from tests.compose.steps import JOBS, Trial, targets


def kill_worker(trial: Trial) -> None:
    killed(trial, "worker")


def kill_api(trial: Trial) -> None:
    killed(trial, "api")


def kill_redis(trial: Trial) -> None:
    killed(trial, "redis")


def killed(trial: Trial, service: str) -> None:
    before = trial.compose.inspect(service)[0]["RestartCount"]
    trial.under_load(lambda: trial.compose.kill(service))
    trial.check(f"{service} was restarted by Docker", trial.compose.inspect(service)[0]["RestartCount"] > before)


def scale(trial: Trial) -> None:
    compose = trial.compose
    trial.under_load(lambda: compose("up", "--detach", "--scale", "worker=3", "--no-recreate", "worker"), workers=3)
    if "prometheus" in compose.services():
        found = targets(trial, 4)
        trial.check(f"Prometheus scrapes all of them: {found}", list(found.values()) == ["up"] * 4)
    trial.under_load(lambda: compose("up", "--detach", "--scale", "worker=1", "--no-recreate", "worker"), workers=1)
    trial.check("one worker is left", len(compose.containers("worker")) == 1)


def roll_worker(trial: Trial) -> None:
    """Another image: the old worker requeues the jobs that it cannot finish, the new one runs them."""
    compose = trial.compose
    before = compose.inspect("worker")[0]["Image"]
    compose.settings["OTOSCOPE_TAG"] = "trial-next"
    for image, suffix in (("api", ""), ("secrets", ""), ("worker", "-cpu")):
        docker("build", "--quiet", "--tag", f"otoscope-{image}:trial-next{suffix}", "-",
               given=f"FROM otoscope-{image}:trial{suffix}\nLABEL trial=next\n".encode())  # fmt: skip
    trial.under_load(lambda: compose("up", "--detach", "--no-deps", "worker"))
    trial.check("it is another image", compose.inspect("worker")[0]["Image"] != before)


def upgrade_redis(trial: Trial) -> None:
    compose = trial.compose
    tag = "otoscope-redis:trial"
    docker("build", "--quiet", "--tag", tag, "-", given=b"FROM redis:7-alpine\nLABEL trial=next\n")
    before = compose.containers("redis")
    compose.settings["OTOSCOPE_REDIS_IMAGE"] = tag
    trial.under_load(lambda: compose("up", "--detach", "--no-deps", "redis"))
    trial.check("it is another container", compose.containers("redis") != before)


def backup(trial: Trial) -> None:
    """As in docs/deployment.md: queued and finished jobs survive the loss of the volume."""
    compose, load = trial.compose, trial.load
    load.accepted.clear()
    asyncio.run(load.submit(20))
    done = asyncio.run(load.ends())
    compose("stop", "worker")
    asyncio.run(load.submit(40))
    compose("pause", "redis")
    copy = compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", "redis", "-C", "/data", "-cf", "-", ".")
    compose("unpause", "redis")
    trial.note("backup", f"{len(copy):,} bytes, with {done} and 40 waiting")
    compose("stop", "api", "redis")
    wipe = ["run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "redis", "-c"]
    compose(*wipe, "rm -rf /data/* && touch /data/.kept")
    trial.check("the data are deleted", compose(*wipe, "ls /data").strip() == b"")
    compose(*wipe, "tar -C /data -xf -", given=copy)
    compose.up()
    load.ready()
    ended = asyncio.run(load.ends())
    trial.check(f"after the restoration 60 jobs ended {dict(ended)}", dict(ended) == {"succeeded": 60})
    trial.balanced()


def stop(trial: Trial) -> None:
    """The whole project is stopped under load, in order, and started again: no job is lost."""
    compose, load = trial.compose, trial.load
    load.accepted.clear()
    asyncio.run(load.submit(JOBS, at_once=16))
    begun = time.monotonic()
    compose("stop", "worker", "api")
    trial.note("stopped under load in", f"{time.monotonic() - begun:.1f} s")
    for service in ("worker", "api"):
        state = compose.inspect(service)[0]["State"]
        trial.check(f"{service} ended with status {state['ExitCode']}", state["ExitCode"] == 0)
    compose("stop")
    trial.check("Redis ended with status 0", compose.inspect("redis")[0]["State"]["ExitCode"] == 0)
    compose.up()
    load.ready()
    ended = asyncio.run(load.ends())
    trial.check(f"{JOBS} accepted jobs ended {dict(ended)}", dict(ended) == {"succeeded": JOBS})
    trial.balanced()
