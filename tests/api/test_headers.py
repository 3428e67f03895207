"""Security headers, CORS, the limit of concurrent requests, and the address of a caller."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from api.middleware.auth import _network_caller
from shared.api_keys import write_keys
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, wav
from tests.api.test_service import sample
from tests.conftest import PYTHON, ROOT

ORIGIN = {"Origin": "https://a.example"}


def test_every_response_has_the_security_headers(http: httpx2.Client, worker: FakeWorker) -> None:
    """Jobs, errors, metrics and streams, each header once."""
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    worker.finish(job_id)
    for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/events", "/v1/models", "/metrics", "/none", "/static/none"):
        headers = http.get(path).headers
        for name, value in (
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ):
            assert headers.get_list(name) == [value], (path, name)
        assert "access-control-allow-origin" not in headers


def test_no_other_origin_is_allowed_by_default(http: httpx2.Client) -> None:
    """A page of another origin can neither read a response nor send a preflight request."""
    assert "access-control-allow-origin" not in http.get("/v1/models", headers=ORIGIN).headers
    assert http.options("/v1/jobs", headers=ORIGIN | {"Access-Control-Request-Method": "POST"}).status_code == 405


def test_configured_origins_are_allowed(start_gateway: Callable[..., httpx2.Client], tmp_path: Path) -> None:
    """Exactly those, without credentials; also for errors and for the preflight request, which needs no key."""
    write_keys(tmp_path / "keys", [])
    http = start_gateway(cors_origins="https://a.example", keys_file=tmp_path / "keys")
    preflight = http.options(
        "/v1/jobs",
        headers=ORIGIN
        | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"},
    )
    assert preflight.status_code == 200
    refused = http.get("/v1/models", headers=ORIGIN)
    assert refused.status_code == 401
    for answer in (preflight, refused):
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-credentials" not in answer.headers
    assert refused.headers["cross-origin-resource-policy"] == "cross-origin"
    other = http.get("/v1/models", headers={"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_requests_beyond_the_limit_are_refused_and_counted(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """One stream is the only request allowed: 503 as a problem document, counted; idle connections do not count.

    Health and metrics are answered, since an overloaded gateway must not be restarted by its probes.
    """
    http = start_gateway(max_connections=1)
    job_id = http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    with (
        closing(socket.create_connection((http.base_url.host, http.base_url.port or 80))),
        http.stream("GET", f"/v1/jobs/{job_id}/events") as stream,
    ):
        chunks = stream.iter_bytes()
        next(chunks)
        refused = http.get("/v1/models")
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert http.get("/health/live").status_code == http.get("/health/ready").status_code == 200
        metrics = http.get("/metrics").raise_for_status().text
        assert sample(metrics, 'otoscope_api_errors_total{code="too_many_connections",fault="service"}') == 1
        worker.finish(job_id)
        list(chunks)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("203.0.113.7", "net:203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "net:2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "net:203.0.113.7"),
        (None, "net:local"),
        ("a:b", "net:a:b"),
        ("unknown", "net:unknown"),
    ],
)
def test_the_network_name_of_a_caller(host: str | None, name: str) -> None:
    """The /64 of an IPv6 address, which one subscriber has; text that is no address is used as it is."""
    assert _network_caller({"type": "http", "client": (host, 1) if host else None}) == name


@contextmanager
def gateway(settings: Settings, log: Path, **environment: str) -> Iterator[httpx2.Client]:
    """`python -m api` as a process of its own."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = {**os.environ, "OTOSCOPE_REDIS_URL": settings.redis_url, "OTOSCOPE_PORT": str(port), **environment}
    with log.open("ab") as out:
        process = subprocess.Popen([PYTHON, "-m", "api"], cwd=ROOT, env=known, stdout=out, stderr=out)
    try:
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=20, transport=httpx2.HTTPTransport(retries=8)
        ) as http:
            http.get("/health/live")
            yield http
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("trusted", "caller"),
    [({}, "net:127.0.0.1"), ({"OTOSCOPE_TRUSTED_PROXIES": "127.0.0.0/8"}, "net:203.0.113.7"),
     ({"OTOSCOPE_TRUSTED_PROXIES": "10.0.0.1"}, "net:127.0.0.1")],
)  # fmt: skip
def test_x_forwarded_for_is_trusted_from_configured_proxies_only(
    settings: Settings, worker: FakeWorker, tmp_path: Path, trusted: dict[str, str], caller: str
) -> None:
    """Any client can send the header, local programs included; the last entry that is not a proxy counts."""
    with gateway(settings, tmp_path / "log", **trusted) as http:
        headers = {"X-Forwarded-For": "198.51.100.9, 203.0.113.7"}
        job_id = http.post("/v1/jobs", files={"file": wav()}, headers=headers).json()["id"]
        assert worker._client.hget(f"otoscope:job:{job_id}", "caller") == caller.encode()


def test_an_unusable_keys_file_ends_the_gateway_with_a_message(settings: Settings, tmp_path: Path) -> None:
    """Exit status 1 and one line, as for every other setting."""
    (tmp_path / "keys").write_text("nonsense")
    environment = {**os.environ, "OTOSCOPE_REDIS_URL": settings.redis_url, "OTOSCOPE_KEYS_FILE": str(tmp_path / "keys")}
    done = subprocess.run([PYTHON, "-m", "api"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "line 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("site", "origin", "status"),
    [
        ("cross-site", "https://evil.example", 403),
        ("cross-site", "https://friend.example", 202),
        ("same-origin", "", 202),
        ("none", "", 202),
    ],
)
def test_pages_of_other_sites_cannot_submit_without_keys(
    start_gateway: Callable[..., httpx2.Client], worker: object, site: str, origin: str, status: int
) -> None:
    """A browser marks their requests, which CORS does not stop if they have the form of an HTML form's."""
    http = start_gateway(cors_origins="https://friend.example")
    headers = {"Sec-Fetch-Site": site, "Content-Type": "audio/wav", **({"Origin": origin} if origin else {})}
    assert http.post("/v1/jobs", content=wav(), headers=headers).status_code == status


def test_other_host_names_are_refused_without_keys(
    start_gateway: Callable[..., httpx2.Client], worker: object, tmp_path: Path
) -> None:
    """A page whose name resolves to the gateway (DNS rebinding) reads nothing; addresses and listed names are not
    refused."""
    http = start_gateway(allowed_hosts="sounds.example")
    for name in ("localhost:8000", "127.0.0.1", "[::1]:8000", "192.0.2.7", "Sounds.Example.:80", "a.localhost"):
        assert http.get("/v1/models", headers={"Host": name}).status_code == 200, name
    for name in ("evil.example:8000", "127.0.0.1.evil.example", "[::1", "localhost.evil.example"):
        refused = http.get("/v1/models", headers={"Host": name})
        assert (refused.status_code, refused.json()["code"]) == (421, "host_refused"), name
    assert http.get("/health/live", headers={"Host": "evil.example"}).status_code == 200
    (tmp_path / "keys").write_text("")
    secured = start_gateway(keys_file=tmp_path / "keys")
    assert secured.get("/v1/models", headers={"Host": "evil.example"}).status_code == 401


def test_results_are_kept_by_no_cache(http: httpx2.Client, worker: FakeWorker) -> None:
    """Neither by a shared one nor by the browser: they are of one caller, and can be deleted."""
    job = http.post("/v1/jobs", content=wav(), headers={"Content-Type": "audio/wav"})
    worker.finish(job.json()["id"])
    for path in (job.headers["Location"], f"{job.headers['Location']}/result"):
        assert http.get(path).headers["Cache-Control"] == "private, no-store"
