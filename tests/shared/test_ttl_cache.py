"""The cached value with a TTL, under concurrent callers."""

import asyncio

import pytest

from shared import ttl_cache
from shared.ttl_cache import TTLCache


class Source:
    """Counts its reads, and completes them once `go_on` is set."""

    def __init__(self, value: int | None) -> None:
        self.value, self.readers, self.fails = value, 0, False
        self.go_on = asyncio.Event()

    async def read(self) -> int | None:
        self.readers += 1
        await self.go_on.wait()
        if self.fails:
            raise OSError
        return self.value


def test_all_callers_wait_for_the_first_read() -> None:
    """There is no older value to return."""

    async def use() -> None:
        source = Source(1)
        cache = TTLCache(source.read, None)
        all_of_them = [asyncio.create_task(cache.get()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in all_of_them)
        source.go_on.set()
        assert await asyncio.gather(*all_of_them) == [1, 1, 1]

    asyncio.run(use())


@pytest.mark.parametrize("fails", [False, True])
def test_one_caller_refreshes_while_the_others_get_the_old_value(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Where the read fails, only the caller that refreshes gets the error, and the old value stays for another TTL."""

    async def use() -> None:
        source = Source(2)
        cache = TTLCache(source.read, 1)
        reader = asyncio.create_task(cache.get())
        await asyncio.sleep(0)
        assert [await cache.get() for _ in range(3)] == [1, 1, 1]
        source.fails = fails
        source.go_on.set()
        (first,) = await asyncio.gather(reader, return_exceptions=True)
        assert isinstance(first, OSError) if fails else first == 2
        assert await cache.get() == (1 if fails else 2)
        assert source.readers == 1
        monkeypatch.setattr(ttl_cache, "TTL_SECONDS", 0.0)
        source.fails = False
        assert await cache.get() == 2

    asyncio.run(use())
