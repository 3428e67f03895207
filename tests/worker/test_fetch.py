"""Sounds by address: fetched in a process, from a local server and a local S3."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from otoscope.errors import JobCancelled, OtoscopeError, PayloadTooLarge, UrlNotAllowed, UrlUnreachable
from otoscope.types import AudioInfo, JobOptions
from shared.jobs.records import NewJob
from tests.support.sounds import chirp, encode
from worker.fetch.child import is_public
from worker.fetch.fetcher import Fetcher

if TYPE_CHECKING:
    from tests.support.worker_harness import WorkerHarness

SOUND = encode(chirp(1.0, 16_000), 16_000)


class Handler(BaseHTTPRequestHandler):
    """Each path is one behaviour of a server."""

    def do_GET(self) -> None:
        body, status, headers = SOUND, 200, {"Content-Length": str(len(SOUND))}
        match self.path.partition("?")[0]:
            case "/redirect":
                status, headers = 302, {"Location": "/dog.wav", "Content-Length": "0"}
            case "/missing":
                status = 404
            case "/compressed":
                headers["Content-Encoding"] = "gzip"
            case "/large":
                headers["Content-Length"] = str(10**9)
            case "/endless":
                body, headers = bytes(3_000_000), {}
            case "/short":
                body = SOUND[:-100]
            case "/slow":
                time.sleep(2.0)
            case "/host":
                body = self.headers["Host"].encode()
                headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a server on the loopback."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield http.server_port
    http.shutdown()
    http.server_close()


@pytest.fixture
def fetch(server: int) -> Callable[..., bytes]:
    """Fetch a path of the server, which is listed by its address."""

    def fetch(path: str, seconds: float = 30.0, **more: Any) -> bytes:
        origin = f"http://127.0.0.1:{server}"
        return Fetcher((origin,), 1_000_000, seconds).fetch(origin + path, **more)

    return fetch


def test_a_sound_is_fetched(fetch: Callable[..., bytes], server: int) -> None:
    """Whole, with the query of its address and the name of its host."""
    assert fetch("/dog.wav?token=1") == SOUND
    assert fetch("/host") == f"127.0.0.1:{server}".encode()


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/redirect", UrlNotAllowed, "redirects are not followed"),
        ("/missing", UrlUnreachable, "answered 404"),
        ("/compressed", UrlUnreachable, "compressed"),
        ("/large", PayloadTooLarge, "1,000,000 bytes"),
        ("/endless", PayloadTooLarge, "1,000,000 bytes"),
        ("/short", UrlUnreachable, "100 bytes before the end"),
    ],
)
def test_what_a_server_may_not_do(fetch: Callable[..., bytes], path: str, kind: type[OtoscopeError], text: str) -> None:
    """Each has its error, and the process ends."""
    with pytest.raises(kind, match=text):
        fetch(path)


def test_a_slow_server_ends_at_the_limit(fetch: Callable[..., bytes]) -> None:
    """The limit is for the whole fetch."""
    with pytest.raises(UrlUnreachable, match=r"within 0\.5 s"):
        fetch("/slow", 0.5)


def test_a_cancelled_job_ends_its_fetch(fetch: Callable[..., bytes]) -> None:
    """What `check` raises comes out."""

    def check() -> None:
        raise JobCancelled("The job was cancelled.")

    with pytest.raises(JobCancelled):
        fetch("/slow", check=check)


def test_a_name_with_a_private_address_is_refused(server: int) -> None:
    """A listed name must not lead into the network of the worker."""
    origin = f"http://localhost:{server}"
    with pytest.raises(UrlNotAllowed, match="not public"):
        Fetcher((origin,), 1_000, 30.0).fetch(f"{origin}/dog.wav")


def test_an_address_that_is_not_listed_starts_no_process() -> None:
    """The worker checks again what the gateway has checked."""
    with pytest.raises(UrlNotAllowed, match="does not list it"):
        Fetcher(("https://a.example",), 1_000, 30.0).fetch("https://b.example/")


@pytest.mark.process
@pytest.mark.parametrize(("path", "code"), [("/dog.wav", ""), ("/missing", "url_unreachable"), ("/host", "not_audio")])
def test_a_job_fetches_its_sound(
    make_harness: Callable[..., "WorkerHarness"], server: int, path: str, code: str
) -> None:
    """It is classified, or the job fails: where it cannot be fetched, or is no sound."""
    url = f"http://127.0.0.1:{server}{path}"
    harness = make_harness(sound_sources=f"http://127.0.0.1:{server}")
    audio = AudioInfo(bytes=0, container="", codec="", url=url)
    stores = harness.stores
    job_id = stores.run(stores.gateway.submit(NewJob("tiny", JobOptions(), audio, url.encode()))).id
    harness.runner.run([job_id])
    job = harness.job(job_id)
    assert (job.status, job.error.code if job.error else "") == ("failed" if code else "succeeded", code), job.error


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("127.0.0.1", False), ("0.0.0.0", False),
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("fe80::1", False),
        ("fd00:ec2::254", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False), ("ff02::1", False), ("::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """Neither private ones nor those that stand for one."""
    assert is_public(ip_address(address)) is public


@pytest.mark.slow
def test_an_object_is_fetched_from_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a real server with that protocol; a key that does not exist has its error."""
    import botocore.session
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    try:
        endpoint = "http://{}:{}".format(*s3.get_host_and_port())
        for name, value in {
            "AWS_ENDPOINT_URL_S3": endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        client = botocore.session.get_session().create_client("s3")
        client.create_bucket(Bucket="sounds")
        client.put_object(Bucket="sounds", Key="a/dog bark.wav", Body=SOUND)
        fetcher = Fetcher(("s3://sounds",), len(SOUND), 60.0)
        assert fetcher.fetch("s3://sounds/a/dog%20bark.wav") == SOUND
        with pytest.raises(UrlUnreachable, match="NoSuchKey"):
            fetcher.fetch("s3://sounds/cat.wav")
        with pytest.raises(PayloadTooLarge):
            Fetcher(("s3://sounds",), 1_000, 60.0).fetch("s3://sounds/a/dog%20bark.wav")
    finally:
        s3.stop()
