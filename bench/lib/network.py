"""Several hosts simulated by network namespaces: a bridge, and a worker with a host name of its own in each namespace.

Needs root and iproute2. Redis requires a password, and uses TLS if redis-server and openssl are installed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import redis

from bench.lib.rig import Rig, TcpProxy, free_port

PASSWORD = "only-here"
_NET = "198.18.77"  # of the block that is reserved for benchmarks (RFC 2544)


def missing() -> str:
    """Why network namespaces are not available here; empty if they are."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "network namespaces need iproute2 and util-linux"
    probe = subprocess.run(["ip", "netns", "add", _name("probe")], capture_output=True, text=True)
    if probe.returncode == 0:
        probe = subprocess.run(["ip", "netns", "del", _name("probe")], capture_output=True, text=True)
    return f"no network namespaces here: {probe.stderr.strip()}" if probe.returncode else ""


def _name(what: object) -> str:
    return f"oto{os.getpid() % 100_000}{what}"  # 15 characters at most


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Network:
    """A bridge with an address of this machine, and namespaces `0` to `count - 1` that are connected to it alone."""

    address = f"{_NET}.1"

    def __init__(self, count: int) -> None:
        self._count, self._exit = count, ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exit:
            self._made(exit, "link", _name("br"), "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", _name("br"))
            _ip("link", "set", _name("br"), "up")
            for number in range(self._count):
                self._made(exit, "netns", _name(number))
                inside, outside = _name(f"i{number}"), _name(f"o{number}")
                self._made(exit, "link", outside, "type", "veth", "peer", "name", inside)
                _ip("link", "set", inside, "netns", _name(number), "name", "eth0")
                self.plug(number)
                _ip("link", "set", outside, "up")
                for words in (
                    ("addr", "add", f"{_NET}.{10 + number}/24", "dev", "eth0"),
                    ("link", "set", "eth0", "up"),
                    ("link", "set", "lo", "up"),
                ):
                    _ip("-n", _name(number), *words)
            self._exit = exit.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @staticmethod
    def _made(exit: ExitStack, kind: str, name: str, *words: str) -> None:
        _ip(kind, "add", name, *words)
        exit.callback(subprocess.run, ["ip", kind, "del", name], capture_output=True)

    @staticmethod
    def plug(number: int) -> None:
        _ip("link", "set", _name(f"o{number}"), "master", _name("br"))

    @contextmanager
    def unplugged(self, number: int) -> Iterator[None]:
        """Disconnect a namespace from the bridge: packets are dropped silently."""
        _ip("link", "set", _name(f"o{number}"), "nomaster")
        try:
            yield
        finally:
            self.plug(number)

    @staticmethod
    def inside(number: int, command: Sequence[str | Path]) -> list[str | Path]:
        """The command line that runs a command in namespace `number`, with a host name of its own."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', f"machine-{number}"]
        return [*named, "ip", "netns", "exec", _name(number), *command]


class Machines(Rig):
    """A worker in each namespace; Redis and gateway on this machine. With `delay` the workers connect to Redis through
    a proxy that delays both directions by that many seconds."""

    def __init__(
        self, network: Network, folder: Path, models: Path, *, workers: int, delay: float | None = None, **settings: Any
    ) -> None:
        self.network = network
        self.encrypted = shutil.which("redis-server") is not None and shutil.which("openssl") is not None
        super().__init__(folder, models, workers=workers, **settings)
        self.tls_port = free_port() if self.encrypted else self.server_port
        if self.encrypted:
            self._certificate = self._sign()
        self.proxy = None if delay is None else TcpProxy(self.tls_port, network.address, delay)
        self._address = self._url(self.tls_port)
        self._remote = self._url(self.proxy.port if self.proxy else self.tls_port)
        self._environment["OTOSCOPE_REDIS_URL"] = self._address
        self.redis = redis.Redis(port=self.server_port, password=PASSWORD)

    def command(self, name: str) -> Sequence[str | Path]:
        if name == "server":
            return self._server()
        command = super().command(name)
        if name in self.workers:
            reached = ["env", f"OTOSCOPE_REDIS_URL={self._remote}", "OMP_NUM_THREADS=1"]
            return self.network.inside(self.workers.index(name), [*reached, *command])
        return command

    def _url(self, port: int) -> str:
        scheme, behind = ("rediss", f"?ssl_ca_certs={self._certificate}") if self.encrypted else ("redis", "")
        return f"{scheme}://:{PASSWORD}@{self.network.address}:{port}/0{behind}"

    def _server(self) -> list[str | Path]:
        argv = [str(word) for word in self._home.program().argv]
        own = ["--port", str(self.server_port), "--bind", "127.0.0.1", self.network.address]
        own += ["--requirepass", PASSWORD]
        if self.encrypted:
            argv[0] = "redis-server"
            own += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            own += ["--tls-cert-file", str(self._certificate), "--tls-key-file", str(self._key)]
            own += ["--tls-ca-cert-file", str(self._certificate)]
        return [*argv, *own]

    def _sign(self) -> Path:
        """A self-signed certificate for the server's address."""
        certificate, self._key = self.folder / "redis.pem", self.folder / "redis.key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self._key]
        names = ["-subj", "/CN=redis", "-addext", f"subjectAltName=IP:{self.network.address}"]
        made = ["openssl", "req", "-x509", *curve, *names, "-out", certificate]
        subprocess.run(made, check=True, capture_output=True)
        return certificate
