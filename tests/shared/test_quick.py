"""Commands on kept connections: whatever breaks them, the reply is that of redis-py."""

import threading
from collections.abc import Iterator

import pytest
import redis

from shared.config.settings import Settings
from shared.redis_client.connection import connect
from shared.redis_client.quick import QuickCommands

_ADD = "redis.call('INCRBY', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"
_FAIL = "return redis.error_reply('NOTNOW the ' .. KEYS[1] .. ' is away')"


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with connect(settings) as client:
        yield client


def test_replies_are_those_of_the_server(client: redis.Redis) -> None:
    """Of scripts, alone and together, and of GET."""
    quick, add = QuickCommands(client), client.register_script(_ADD)
    assert quick.run(add, ["quick:a"], [3]) == b"3"
    assert quick.run_each(add, [(["quick:a"], [1]), (["quick:b"], [5]), (["quick:a"], [1])]) == [b"4", b"5", b"5"]
    assert (quick.get("quick:a"), quick.get("quick:none")) == (b"5", None)


def test_a_script_that_the_server_has_forgotten_is_loaded(client: redis.Redis) -> None:
    """After a restart or a failover; the commands before it ran."""
    quick, add = QuickCommands(client), client.register_script(_ADD)
    quick.run(add, ["quick:c"], [1])
    client.script_flush()
    assert quick.run(add, ["quick:c"], [1]) == b"2"
    client.script_flush()
    assert quick.run_each(add, [(["quick:c"], [1]), (["quick:d"], [1])]) == [b"3", b"1"]


def test_a_lost_connection_is_replaced(client: redis.Redis) -> None:
    """All connections are closed by the server; none is kept, and none stays in use."""
    quick, add = QuickCommands(client), client.register_script(_ADD)
    quick.run(add, ["quick:e"], [1])
    for kind in ("run", "run_each", "get"):
        client.client_kill_filter(_type="normal", skipme=False)
        if kind == "run":
            assert quick.run(add, ["quick:e"], [0]) == b"1"
        elif kind == "run_each":
            assert quick.run_each(add, [(["quick:e"], [0])]) == [b"1"]
        else:
            assert quick.get("quick:e") == b"1"
    assert len(client.connection_pool._in_use_connections) == len(quick._kept)


def test_an_error_is_that_of_its_call(client: redis.Redis) -> None:
    """`run` raises it, `run_each` returns it in its place."""
    quick, fail = QuickCommands(client), client.register_script(_FAIL)
    with pytest.raises(redis.exceptions.ResponseError, match="the sun is away"):
        quick.run(fail, ["sun"], [])
    errors = quick.run_each(fail, [(["moon"], []), (["sun"], [])])
    assert [type(error) for error in errors] == [redis.exceptions.ResponseError] * 2
    assert ["moon" in str(error) for error in errors] == [True, False]


def test_threads_do_not_get_the_replies_of_others(client: redis.Redis) -> None:
    """Each has a connection for as long as it waits."""
    quick, add = QuickCommands(client), client.register_script(_ADD)
    wrong: list[tuple[bytes, bytes]] = []

    def count(name: str) -> None:
        for number in range(1, 200):
            reply = quick.run(add, [f"quick:{name}"], [1])
            if reply != b"%d" % number:
                wrong.append((reply, b"%d" % number))

    threads = [threading.Thread(target=count, args=(f"thread{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
