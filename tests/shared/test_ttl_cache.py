"""What is read anew once a second, for many who ask at once."""

import asyncio

import pytest

from shared import ttl_cache
from shared.ttl_cache import TTLCache


class Source:
    """Counts its readers, and answers once it is let go on."""

    def __init__(self, value: int | None) -> None:
        self.value, self.readers, self.fails = value, 0, False
        self.go_on = asyncio.Event()

    async def read(self) -> int | None:
        self.readers += 1
        await self.go_on.wait()
        if self.fails:
            raise OSError
        return self.value


def test_everybody_waits_for_the_first_answer() -> None:
    """There is nothing else that they could be told."""

    async def use() -> None:
        source = Source(1)
        asked = TTLCache(source.read, None)
        all_of_them = [asyncio.create_task(asked.get()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in all_of_them)
        source.go_on.set()
        assert await asyncio.gather(*all_of_them) == [1, 1, 1]

    asyncio.run(use())


@pytest.mark.parametrize("fails", [False, True])
def test_one_reads_anew_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """With what is known; and where reading fails, its reader alone hears of it, until that is old."""

    async def use() -> None:
        source = Source(2)
        asked = TTLCache(source.read, 1)
        reader = asyncio.create_task(asked.get())
        await asyncio.sleep(0)
        assert [await asked.get() for _ in range(3)] == [1, 1, 1]
        source.fails = fails
        source.go_on.set()
        (first,) = await asyncio.gather(reader, return_exceptions=True)
        assert isinstance(first, OSError) if fails else first == 2
        assert await asked.get() == (1 if fails else 2)
        assert source.readers == 1
        monkeypatch.setattr(ttl_cache, "TTL_SECONDS", 0.0)
        source.fails = False
        assert await asked.get() == 2

    asyncio.run(use())
