"""The service with a Redis primary, two replicas and three sentinels."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from bench.lib.rig import Rig, free_ports
from shared.config.redis_url import parse_redis_url
from shared.redis_client.connection import new_client, sentinel_manager

PASSWORD, OTHER = "only-here", "only-there"  # of the servers, and of the sentinels
SERVICE = "queue"
DOWN_SECONDS = 3
"""Without a reply for this long a server counts as down (down-after-milliseconds)."""
COUNT = 3  # servers, and sentinels


class SentinelRig(Rig):
    """`server` is the first primary; its replicas are `replica 1` and `replica 2`. A primary without an acknowledgement
    of a replica for ten seconds rejects writes (min-replicas-to-write): an isolated one would lose what it accepts."""

    def __init__(self, folder: Path, models: Path, **settings: Any) -> None:
        super().__init__(folder, models, **settings)
        others = free_ports(2 * COUNT - 1)
        self._ports, self._sentinel_ports = [self.server_port, *others[COUNT:]], others[:COUNT]
        places = ",".join(f"127.0.0.1:{port}" for port in self._sentinel_ports)
        url = f"sentinel://:{PASSWORD}@{places}/{SERVICE}?sentinel_password={OTHER}"
        self._environment["OTOSCOPE_REDIS_URL"] = url
        self._address = parse_redis_url(url)
        self.redis.close()
        self.redis = new_client(parse_redis_url(f"redis://:{PASSWORD}@127.0.0.1:{self.server_port}"))

    def start(self) -> None:
        self.begin("server")
        for number in range(1, COUNT):
            self.begin(f"replica {number}")
        self._wait(lambda: self.redis.info("replication")["connected_slaves"] == COUNT - 1, "the replicas", 60)
        for number in range(COUNT):
            self.begin(f"sentinel {number}")
        self.redis.close()
        patience = {"retry": Retry(ConstantBackoff(0.2), 100), "retry_on_error": [redis.exceptions.RedisError]}
        self.redis = new_client(self._address, socket_timeout=5, **patience)
        self._wait(self._discovered, "the sentinels", 60)
        for name in (*self.workers, "gateway"):
            self.begin(name)
        self.wait_until_ready(self._workers)

    def command(self, name: str) -> Sequence[str | Path]:
        kind, _, number = name.partition(" ")
        if kind == "sentinel":
            return [*self._program()[:1], str(self._sentinel(int(number))), "--sentinel"]
        if kind in ("server", "replica"):
            at = int(number or 0)
            command = [*self._program(), "--port", str(self._ports[at]), "--bind", "127.0.0.1"]
            command += ["--dir", str(self._own(name)), "--unixsocket", "", "--requirepass", PASSWORD]
            command += ["--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"]
            command += ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "10"]
            if at and not self.processes.get(name):  # later, the sentinels make it a replica
                command += ["--replicaof", "127.0.0.1", str(self._ports[0])]
            return command
        return super().command(name)

    def primary(self) -> int:
        """The port of the primary, from the sentinels."""
        with sentinel_manager(self._address) as sentinels:
            return int(sentinels.discover_master(SERVICE)[1])

    def name_of(self, port: int) -> str:
        at = self._ports.index(port)
        return f"replica {at}" if at else "server"

    def replicas(self) -> int:
        """The number of replicas of the primary."""
        return int(self.redis.info("replication")["connected_slaves"])

    def _program(self) -> list[str]:
        return [str(word) for word in self._home.program().argv]

    def _own(self, name: str) -> Path:
        directory = self.folder / name
        directory.mkdir(exist_ok=True)
        return directory

    def _sentinel(self, number: int) -> Path:
        """The configuration file of a sentinel, which it rewrites."""
        config = self._own(f"sentinel {number}") / "sentinel.conf"
        config.write_text(
            f'port {self._sentinel_ports[number]}\nbind 127.0.0.1\nrequirepass {OTHER}\ndir "{config.parent}"\n'
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._ports[0]} 2\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_SECONDS * 1000}\n"
            f"sentinel failover-timeout {SERVICE} 10000\n"
        )
        return config

    def _discovered(self) -> bool:
        """Whether all sentinels have found each other and the replicas, which a failover needs."""
        with sentinel_manager(self._address) as sentinels, suppress(redis.exceptions.ConnectionError):
            states = [sentinel.sentinel_masters().get(SERVICE, {}) for sentinel in sentinels.sentinels]
            seen = [(state.get("num-other-sentinels"), state.get("num-slaves")) for state in states]
            return seen == [(COUNT - 1, COUNT - 1)] * COUNT
        return False
