"""`otoscope up`: server, worker and gateway as children of one process, from start to a first result to shutdown."""

import errno
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.status import Status
from rich.text import Text

from commands.stack.embedded_redis import Home
from commands.stack.supervisor import Program, StackFailed, Supervisor
from otoscope import demo_sound
from otoscope.cli.console import SafeConsole
from otoscope.cli.tables import predictions_table
from otoscope.client import Client
from otoscope.errors import OtoscopeError
from shared.config.models_dir import models_dir
from shared.config.settings import ConfigurationError, Settings, load_settings
from shared.install_hints import install_command

ROOT = Path(__file__).resolve().parents[2]  # the folder of the packages `api` and `worker`

SERVER_TIMEOUT = 120.0  # seconds; loading a long append-only file takes a while
WORKER_GRACE = 60.0  # seconds to finish the jobs in flight
GATEWAY_GRACE = 15.0  # seconds; open event streams are closed after 5

_COLOURS = {"server": "magenta", "worker": "green", "gateway": "cyan", "otoscope": "bold"}
_NAME_WIDTH = max(map(len, _COLOURS))
_ANY_ADDRESS = "0.0.0.0"  # nosec B104  # compared with, not bound


def up(
    redis_url: str | None = None,
    *,
    console: Console | None = None,
    worker: Sequence[str] = ("-m", "worker"),
    gateway: Sequence[str] = ("-m", "api"),
) -> None:
    """Run until SIGINT or SIGTERM. Raises StackFailed if the stack cannot be started.

    `redis_url` is a running server to use instead of the embedded one, or several, each of which gets a worker.
    `worker` and `gateway` are the arguments of Python for their processes; tests replace them.
    """
    began = time.monotonic()
    console = console or SafeConsole(highlight=False)
    settings = _settings(redis_url)
    port = claim_port(settings.host, settings.port)
    if find_spec("torch") is None:
        raise StackFailed(f"the worker is not installed: {install_command('worker', 'local')}")
    home = Home(Path(os.environ.get("OTOSCOPE_HOME") or ".otoscope")) if redis_url is None else None
    environment = _environment(settings, port, home.url if home else settings.redis_url)
    supervisor = Supervisor(log=lambda name, line: _print(console, name, line))
    url = f"http://{_reachable(settings.host)}:{port}"
    python = [sys.executable, "-P"]  # the working directory must not shadow the packages
    with home.locked() if home else nullcontext(), _signals(supervisor), console.status("Starting") as status:
        try:
            if home is not None:
                supervisor.start(home.program())
                if not supervisor.wait_for(home.answers, "the server", SERVER_TIMEOUT):
                    return
            for name, own in _workers(environment):
                supervisor.start(Program(name, [*python, *worker], own, WORKER_GRACE))
            supervisor.start(Program("gateway", [*python, *gateway], environment, GATEWAY_GRACE))
            threading.Thread(
                target=_run_demo, args=(supervisor, console, status, url, began, settings.exposure), daemon=True
            ).start()
            supervisor.run()
        finally:
            status.stop()
            supervisor.stop()


def claim_port(host: str, port: int) -> int:
    """A port to listen on; 0 picks a free one. Raises StackFailed if it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
            return int(probe.getsockname()[1])
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StackFailed(
                    f"port {port} on {host} is in use, perhaps by another `otoscope up`; choose another one with"
                    f" OTOSCOPE_PORT={port + 1 if port < 65_535 else 8_000}"
                ) from error
            raise StackFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def _settings(redis_url: str | None) -> Settings:
    try:
        return load_settings() if redis_url is None else load_settings(redis_url=redis_url)
    except ConfigurationError as error:
        raise StackFailed(str(error)) from error


def _environment(settings: Settings, port: int, redis_url: str) -> dict[str, str]:
    """The environment of worker and gateway: that of this process, and the settings that were decided here."""
    environment = dict(
        os.environ,
        OTOSCOPE_REDIS_URL=redis_url,
        OTOSCOPE_PORT=str(port),
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        PYTHONUNBUFFERED="1",
    )
    environment.setdefault("OTOSCOPE_MODELS_DIR", str(models_dir()))
    if "OTOSCOPE_METRICS_PORT" not in environment:
        try:
            claim_port(settings.metrics_host, settings.metrics_port)
        except StackFailed:  # not worth a failure, since the port was not set explicitly
            environment["OTOSCOPE_METRICS_PORT"] = "0"
    return environment


def _workers(environment: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and environment of the worker of each server. The first one alone has the port of the metrics that was
    set."""
    first, *others = environment["OTOSCOPE_REDIS_URL"].split()
    yield ("worker 0" if others else "worker"), environment | {"OTOSCOPE_REDIS_URL": first}
    for number, url in enumerate(others, 1):
        yield f"worker {number}", environment | {"OTOSCOPE_REDIS_URL": url, "OTOSCOPE_METRICS_PORT": "0"}


def _reachable(host: str) -> str:
    """The address under which a server that listens on `host` is reached from this machine."""
    host = {_ANY_ADDRESS: "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


@contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP (a closed terminal) request the orderly shutdown.

    A shell without job control starts background jobs with SIGINT ignored (POSIX shell, 2.11), which is inherited and
    would leave a stack that was started with `&` in a script without its usual end: SIGINT is handled all the same.
    SIGHUP stays ignored under nohup, whose purpose that is.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        supervisor.request_stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number is not signal.SIGHUP:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(console: Console, name: str, line: str) -> None:
    text = Text.assemble((f"{name:<{_NAME_WIDTH}} | ", _COLOURS.get(name.split()[0], "")), line)
    with suppress(OSError):  # a closed terminal must not prevent the orderly shutdown
        console.print(text, soft_wrap=True)


def _run_demo(
    supervisor: Supervisor, console: Console, status: Status, url: str, began: float, warning: str = ""
) -> None:
    """Wait until the service is ready, classify the demo sound, and print the result, and the warning in red."""
    with suppress(OSError), Client(url) as client:
        while waiting := _pending(client):
            status.update(f"Waiting for {waiting} ({time.monotonic() - began:.0f} s)")
            time.sleep(0.1)
        status.update("Classifying a first sound")
        shown: RenderableType | None = None
        try:
            job = client.classify(demo_sound.alarm_clock(), demo_sound.RATE, top_k=3)
            if job.result is not None:
                headline = f"The model {job.model} classifies {demo_sound.NAME.lower()} as"
                shown = Group(headline, predictions_table(job.result.predictions))
        except OtoscopeError as error:
            shown = Text(f"The first sound was not classified: {error}")
        status.stop()
        console.print(Group("", shown or "", ""))
        console.print(f"Otoscope is up after {time.monotonic() - began:.1f} s:  {url}", soft_wrap=True)
        if warning:
            console.print(Text(f"WARNING: {warning}", style="bold red"), soft_wrap=True)
        command = "otoscope" if shutil.which("otoscope") else Path(sys.executable).with_name("otoscope")
        console.print(
            f"`{command} classify FILE...` classifies sounds, Ctrl-C stops it.\n", soft_wrap=True, markup=False
        )
    supervisor.started = True


def _pending(client: Client) -> str:
    """What the service is still waiting for; empty once it is ready."""
    try:
        ready = client.ready()
    except OtoscopeError:
        return "the gateway"
    if not ready.redis:
        return "the server"
    return "" if ready.status == "ready" else "the worker to load its models"
