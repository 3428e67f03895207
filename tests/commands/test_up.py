"""`otoscope up` with a real embedded server and small substitutes for worker and gateway."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import redis

from commands.stack.supervisor import StackFailed
from commands.stack.up import claim_port
from tests.commands.test_supervisor import alive, eventually

WORKER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("drained"), sys.exit(0)))
print("pid", os.getpid(), os.environ["OTOSCOPE_REDIS_URL"])
while True:
    time.sleep(1)
"""

GATEWAY = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
from tests.support import fake_service as fake
class Fixed(fake.ThreadingHTTPServer):
    def __init__(self, address, handler):
        super().__init__(("127.0.0.1", int(os.environ["OTOSCOPE_PORT"])), handler)
fake.ThreadingHTTPServer = Fixed
service = fake.FakeService()
print("pid", os.getpid())
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
done.wait()
service.close()
"""

UP = """
import sys
from commands.stack.up import up
from commands.stack.supervisor import StackFailed
try:
    up(sys.argv[1] if len(sys.argv) > 1 else None, worker=["-u", "worker.py"], gateway=["-u", "gateway.py"])
except StackFailed as error:
    sys.exit(f"otoscope: {error}")
"""


class Stack:
    """`up` in a process of its own; `log` is its output so far."""

    def __init__(self, directory: Path, *arguments: str, worker: str = WORKER, **environment: str) -> None:
        self.home = directory / "home"
        self._log = directory / f"log{len(list(directory.glob('log*')))}"
        (directory / "worker.py").write_text(worker)
        (directory / "gateway.py").write_text(GATEWAY.format(root=os.getcwd()))
        known = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_HOME=str(self.home), OTOSCOPE_PORT="0", COLUMNS="200")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, *arguments], cwd=directory, stdout=log, stderr=log, env=known | environment
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in re.findall(rf"^{name} +\| pid (\d+)", self.log, re.MULTILINE)]

    def wait_up(self) -> None:
        eventually(lambda: "Otoscope is up" in self.log or self.process.poll() is not None, 30.0)
        assert "Otoscope is up" in self.log, self.log

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    stacks: list[Stack] = []

    def begin(*arguments: str, **options: str) -> Stack:
        stacks.append(Stack(tmp_path, *arguments, **options))
        return stacks[-1]

    yield begin
    for stack in stacks:
        if stack.process.poll() is None:
            stack.end()


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    """Processes that are started meanwhile inherit the signal as ignored."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def server_pids(home: Path) -> list[int]:
    """The processes of servers in a state directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            here = (process / "cwd").readlink() == home
            if here and "valkey" in (process / "comm").read_text() and alive(int(process.name)):
                found.append(int(process.name))
    return found


def test_start_first_result_and_shutdown(start: Callable[..., Stack]) -> None:
    """It prints a first result and the address, stops gateway, worker, server in that order, and leaves no process."""
    stack = start()
    stack.wait_up()
    assert re.search(r"dog +90%", stack.log)
    assert re.search(r"is up after [\d.]+ s: +http://127\.0\.0\.1:\d+\n", stack.log)
    pids = stack.pids("worker") + stack.pids("gateway") + server_pids(stack.home)
    assert len(pids) == 3
    assert stack.end() == 0
    assert re.findall("stopping the (.*)", stack.log) == ["gateway", "worker", "server"]
    assert "worker   | drained" in stack.log
    assert not any(map(alive, pids))
    assert sorted(path.name for path in stack.home.iterdir()) == ["appendonlydir", "lock"]


def test_the_printed_command_works(start: Callable[..., Stack]) -> None:
    """Also in a terminal without the virtual environment on its PATH."""
    stack = start(PATH=os.defpath)
    stack.wait_up()
    eventually(lambda: "classifies sounds" in stack.log, 5.0)
    (command,) = re.findall(r"`(.+) classify FILE", stack.log)
    assert subprocess.run([command, "--help"], capture_output=True, env={"PATH": os.defpath}, cwd="/").returncode == 0


def test_ctrl_c_stops_it_in_order(start: Callable[..., Stack]) -> None:
    """SIGINT is an orderly shutdown: status 0, no traceback."""
    stack = start()
    stack.wait_up()
    assert stack.end(signal.SIGINT) == 0
    assert "Traceback" not in stack.log


def test_sigint_stops_a_background_stack(tmp_path: Path) -> None:
    """A script starts `otoscope up &` with SIGINT ignored (POSIX shell, 2.11); SIGINT must end the stack anyway."""
    with ignored(signal.SIGINT):
        stack = Stack(tmp_path)
    try:
        stack.wait_up()
        assert stack.end(signal.SIGINT) == 0
        assert re.findall("stopping the (.*)", stack.log) == ["gateway", "worker", "server"]
    finally:
        if stack.process.poll() is None:
            stack.end()


def test_a_closed_terminal_is_ignored_under_nohup(tmp_path: Path) -> None:
    """nohup ignores SIGHUP so that the stack outlives its terminal."""
    with ignored(signal.SIGHUP):
        stack = Stack(tmp_path)
    try:
        stack.wait_up()
        stack.process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            stack.process.wait(1.0)
    finally:
        assert stack.end() == 0


def _twice(stack: Stack, name: str) -> bool:
    return len(stack.pids(name)) == 2


def test_each_killed_child_is_restarted(start: Callable[..., Stack]) -> None:
    """A killed worker, gateway or server is restarted, and the data is still there."""
    stack = start()
    stack.wait_up()
    address = re.search(r"unix://(\S+)", stack.log)
    assert address is not None
    client = redis.Redis(unix_socket_path=address[1])
    client.set("kept", "yes")
    for name in ("worker", "gateway"):
        os.kill(stack.pids(name)[0], signal.SIGKILL)
        eventually(partial(_twice, stack, name))
    (server,) = server_pids(stack.home)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: server_pids(stack.home) not in ([], [server]))
    eventually(lambda: Path(address[1]).exists())
    assert client.get("kept") == b"yes"
    client.close()
    assert stack.log.count("exited (killed by SIGKILL)") == 3


def test_kill_9_leaves_nothing(start: Callable[..., Stack]) -> None:
    """When `up` itself is killed all its children end, and the next `up` in the folder starts as usual."""
    stack = start()
    stack.wait_up()
    pids = stack.pids("worker") + stack.pids("gateway") + server_pids(stack.home)
    stack.end(signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)))
    again = start()
    again.wait_up()


def test_two_in_one_folder(start: Callable[..., Stack]) -> None:
    """The second `up` in a folder names the first one's process, and does not affect it."""
    first = start()
    first.wait_up()
    second = start()
    assert second.process.wait(30) == 1
    assert f"(process {first.process.pid})" in second.log
    assert "OTOSCOPE_HOME" in second.log
    assert len(server_pids(first.home)) == 1


def test_a_port_in_use_is_reported_before_anything_starts(start: Callable[..., Stack]) -> None:
    """The message names the port and the setting; no server was started and no state written."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        stack = start(OTOSCOPE_PORT=str(port))
        assert stack.process.wait(30) == 1
        assert f"port {port} on 127.0.0.1 is in use" in stack.log
        assert "OTOSCOPE_PORT=" in stack.log
        assert not stack.home.exists()


def test_bad_setting_is_one_line(start: Callable[..., Stack]) -> None:
    """An invalid setting is named by its variable."""
    stack = start(OTOSCOPE_BATCH_SIZE="many")
    assert stack.process.wait(30) == 1
    assert stack.log.startswith("otoscope: OTOSCOPE_BATCH_SIZE: ")
    assert len(stack.log.splitlines()) == 1


def test_an_external_server(start: Callable[..., Stack], redis_url: str) -> None:
    """--redis-url starts no embedded server and keeps no state."""
    stack = start(redis_url)
    stack.wait_up()
    assert f"pid {stack.pids('worker')[0]} {redis_url}" in stack.log
    assert stack.end() == 0
    assert not stack.home.exists()


def test_several_external_servers(start: Callable[..., Stack], redis_url: str) -> None:
    """Each gets a worker, of which the first one alone has the port of the metrics that was set."""
    urls = [f"{redis_url}?db={number}" for number in range(2)]
    worker = WORKER.replace('os.environ["OTOSCOPE_REDIS_URL"]', '*map(os.environ.get, ("OTOSCOPE_REDIS_URL", PORT))')
    stack = start(" ".join(urls), worker=f'PORT = "OTOSCOPE_METRICS_PORT"\n{worker}', OTOSCOPE_METRICS_PORT="19100")
    stack.wait_up()
    for number, (url, port) in enumerate(zip(urls, ("19100", "0"), strict=True)):
        assert f"pid {stack.pids(f'worker {number}')[0]} {url} {port}" in stack.log
    assert stack.end() == 0
    assert not stack.home.exists()


def test_claim_port() -> None:
    """0 picks a free port; one in use is refused; the check itself does not occupy it."""
    port = claim_port("127.0.0.1", 0)
    assert claim_port("127.0.0.1", port) == port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StackFailed):
        claim_port("127.0.0.1", port)
    with pytest.raises(StackFailed, match=r"cannot listen on 192\.0\.2\.1"):
        claim_port("192.0.2.1", 8_000)


def test_a_worker_that_exits_during_startup(start: Callable[..., Stack]) -> None:
    """A worker that cannot load its models stops the stack; its message is the reason."""
    stack = start(worker="import sys; print('no models in models/'); sys.exit(1)")
    assert stack.process.wait(30) == 1
    assert stack.log.splitlines()[-1].endswith("its last output: no models in models/")
    assert server_pids(stack.home) == []
