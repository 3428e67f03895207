"""Snapshots for `otoscope top`: the metrics and the state of the gateway and of every worker at one moment."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from socket import gethostname
from types import TracebackType
from typing import Self, TypeVar

import httpx2
from pydantic import BaseModel

from otoscope.connection import http_client, is_loopback, parse_url, service_url
from otoscope.errors import OtoscopeError
from otoscope.responses import parse_model
from otoscope.top.prometheus import Scrape, parse_metrics
from otoscope.types import Ready, WorkerInfo, WorkerList

TIMEOUT = 2.0  # seconds; a process that takes longer has no scrape in this snapshot

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class WorkerSnapshot:
    """A worker, named by its id, or by the address of its metrics if that was given."""

    name: str
    url: str = ""
    scrape: Scrape | None = None
    error: str = ""  # why there is no scrape
    models: tuple[str, ...] = ()  # as the gateway lists them
    jobs: int | None = None  # in progress, as the gateway lists them


@dataclass(frozen=True)
class Snapshot:
    """Everything that was read at one time; `error` is why there is no scrape of the gateway."""

    at: float  # seconds of a monotonic clock
    scrape: Scrape | None = None
    error: str = ""
    ready: Ready | None = None
    workers: tuple[WorkerSnapshot, ...] = field(default=())


class Collector:
    """Reads a gateway and the workers that it lists, or those whose metrics are at the URLs `workers` instead.

    The key is sent to the gateway only. Raises InvalidRequest for an invalid address.
    """

    def __init__(self, url: str | None = None, workers: tuple[str, ...] = (), *, key: str | None = None) -> None:
        self.url = service_url(url)
        self._given = [WorkerSnapshot(_host(url), url) for url in map(_metrics_url, workers)]
        self._known = list(self._given)
        self._gateway_http = http_client(httpx2.AsyncClient, self.url, key)
        self._workers_http = httpx2.AsyncClient(trust_env=False)

    async def collect(self) -> Snapshot:
        """Read everything concurrently, within twice TIMEOUT; never fails."""
        (scrape, error), ready, listed = await asyncio.gather(
            _scrape(self._gateway_http, "/metrics"),
            self._get(Ready, "/health/ready"),
            self._get(WorkerList, "/v1/workers"),
        )
        if listed is not None and not self._given:  # else the last known ones: workers go on without a gateway
            self._known = [_listed(worker) for worker in listed.workers]
        workers = await asyncio.gather(*map(self._worker, self._known))
        return Snapshot(time.monotonic(), scrape, error, ready, tuple(workers))

    async def aclose(self) -> None:
        await self._gateway_http.aclose()
        await self._workers_http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.aclose()

    async def _get(self, kind: type[M], path: str) -> M | None:
        try:
            async with asyncio.timeout(TIMEOUT):
                return parse_model(kind, (await self._gateway_http.get(path)).content)
        except (httpx2.HTTPError, TimeoutError, OtoscopeError):  # the scrape has the reason
            return None

    async def _worker(self, worker: WorkerSnapshot) -> WorkerSnapshot:
        if worker.error:
            return worker
        scrape, error = await _scrape(self._workers_http, worker.url)
        return replace(worker, scrape=scrape, error=error)


async def _scrape(client: httpx2.AsyncClient, url: str) -> tuple[Scrape | None, str]:
    """The scrape, and why there is none."""
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = await client.get(url, headers={"Accept": "text/plain"})
        if answer.status_code in (401, 403):
            return None, "its metrics require a key with the scope admin: OTOSCOPE_KEY"
        if not answer.is_success:
            return None, f"its metrics have status {answer.status_code}"
        return parse_metrics(answer.text, time.monotonic()), ""
    except (TimeoutError, httpx2.TimeoutException):
        return None, f"no answer within {TIMEOUT:g} s"
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return None, f"does not answer ({str(error) or type(error).__name__})"
    except ValueError as error:
        return None, str(error)


def _listed(worker: WorkerInfo) -> WorkerSnapshot:
    error = _unreachable(worker.metrics, worker.id)
    return WorkerSnapshot(worker.id, worker.metrics or "", error=error, models=tuple(worker.models), jobs=worker.busy)


def _unreachable(url: str | None, worker: str) -> str:
    """Why a worker's metrics cannot be read from here, as far as the address shows; empty if they may be."""
    if not url:
        return "has not published the address of its metrics"
    with suppress(httpx2.InvalidURL):
        if is_loopback(url) and worker.rpartition("-")[0] != gethostname():
            return "serves its metrics on its own machine only: OTOSCOPE_METRICS_HOST"
    return ""


def _metrics_url(text: str) -> str:
    """The URL of metrics; `host:9100` and `http://host:9100` are accepted."""
    url = parse_url(text, "a worker's metrics", "http://127.0.0.1:9100")
    return str(url if url.path not in ("", "/") else url.copy_with(path="/metrics"))


def _host(url: str) -> str:
    return httpx2.URL(url).netloc.decode()
