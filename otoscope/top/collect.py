"""One look of `otoscope top`: what the gateway and every worker say of themselves at a moment."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from socket import gethostname
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel

from otoscope.connection import address, http_settings, is_here, service_url
from otoscope.errors import OtoscopeError
from otoscope.responses import parse as parse_answer
from otoscope.top.prometheus import Scrape, parse
from otoscope.types import Ready, WorkerList, WorkerSaid

SECONDS = 2.0  # that an answer may take; who takes longer is lost for this look

Said = TypeVar("Said", bound=BaseModel)


@dataclass(frozen=True)
class WorkerLook:
    """A worker by its id, or by the address of its metrics where that was given."""

    name: str
    url: str = ""
    scrape: Scrape | None = None
    lost: str = ""  # why there is no scrape
    models: tuple[str, ...] = ()  # as the gateway knows them
    held: int | None = None


@dataclass(frozen=True)
class Look:
    """What was read of it all; `lost` says why there is no scrape of the gateway."""

    at: float  # seconds on a clock that never goes back
    scrape: Scrape | None = None
    lost: str = ""
    ready: Ready | None = None
    workers: tuple[WorkerLook, ...] = field(default=())


class Lookout:
    """Reads a gateway and the workers that it names, or instead of those the ones whose metrics are at `workers`.

    The key goes to the gateway alone. Raises InvalidRequest for what is no address.
    """

    def __init__(self, url: str | None = None, workers: tuple[str, ...] = (), *, key: str | None = None) -> None:
        self.url = service_url(url)
        self._given = [WorkerLook(_place(url), url) for url in map(_metrics_address, workers)]
        self._known = list(self._given)
        self._gateway = httpx.AsyncClient(**http_settings(self.url, key, None))
        self._elsewhere = httpx.AsyncClient(trust_env=False)

    async def look(self) -> Look:
        """Everything at once, in twice SECONDS at most; never fails."""
        (scrape, lost), ready, listed = await asyncio.gather(
            _scraped(self._gateway, "/metrics"),
            self._said(Ready, "/health/ready"),
            self._said(WorkerList, "/v1/workers"),
        )
        if listed is not None and not self._given:  # else those known last: they may work on without a gateway
            self._known = [_announced(worker) for worker in listed.workers]
        workers = await asyncio.gather(*map(self._worker, self._known))
        return Look(time.monotonic(), scrape, lost, ready, tuple(workers))

    async def aclose(self) -> None:
        await self._gateway.aclose()
        await self._elsewhere.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.aclose()

    async def _said(self, kind: type[Said], path: str) -> Said | None:
        try:
            async with asyncio.timeout(SECONDS):
                return parse_answer(kind, (await self._gateway.get(path)).content)
        except (httpx.HTTPError, TimeoutError, OtoscopeError):  # a problem document, too: what is wrong /metrics tells
            return None

    async def _worker(self, worker: WorkerLook) -> WorkerLook:
        if worker.lost:
            return worker
        scrape, lost = await _scraped(self._elsewhere, worker.url)
        return replace(worker, scrape=scrape, lost=lost)


async def _scraped(client: httpx.AsyncClient, url: str) -> tuple[Scrape | None, str]:
    """The scrape, or why there is none."""
    try:
        async with asyncio.timeout(SECONDS):
            answer = await client.get(url, headers={"Accept": "text/plain"})
        if answer.status_code in (401, 403):
            return None, "its metrics need a key with the scope admin: OTOSCOPE_KEY"
        if not answer.is_success:
            return None, f"its metrics answer with status {answer.status_code}"
        return parse(answer.text, time.monotonic()), ""
    except (TimeoutError, httpx.TimeoutException):
        return None, f"no answer within {SECONDS:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return None, f"does not answer ({str(error) or type(error).__name__})"
    except ValueError as error:
        return None, str(error)


def _announced(worker: WorkerSaid) -> WorkerLook:
    lost = _out_of_reach(worker.metrics, worker.id)
    return WorkerLook(worker.id, worker.metrics or "", lost=lost, models=tuple(worker.models), held=worker.busy)


def _out_of_reach(url: str | None, worker: str) -> str:
    """Why a worker's metrics cannot be read from here, as far as its address tells."""
    if not url:
        return "has not said where its metrics are"
    with suppress(httpx.InvalidURL):
        if is_here(url) and worker.rpartition("-")[0] != gethostname():
            return "keeps its metrics to its own machine: OTOSCOPE_METRICS_HOST"
    return ""


def _metrics_address(text: str) -> str:
    """`host:9100` and `http://host:9100` are enough."""
    url = address(text, "a worker's metrics", "http://127.0.0.1:9100")
    return str(url if url.path not in ("", "/") else url.copy_with(path="/metrics"))


def _place(url: str) -> str:
    return httpx.URL(url).netloc.decode()
