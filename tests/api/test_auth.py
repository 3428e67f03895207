"""API keys: open paths, scopes, ownership of jobs, rate limits, revocation."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from api.http.fast_routes import LabelledRoute
from api.main import create_app
from api.middleware.auth import OPEN_PATHS, KeyRing, required_scope
from api.middleware.rate_limit import RateLimiter
from shared.api_keys import Key, KeyFileError, Scope, new_key, write_keys
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, wav
from tests.api.test_service import sample

ALL = "maps,spectrogram,full_spectrogram,ltsa,cam,occlusion,detections"


class SecuredGateway:
    """A gateway with a keys file, and requests with keys of that file."""

    def __init__(self, start: Callable[..., httpx2.Client], path: Path) -> None:
        self.path, self._keys = path, dict[str, Key]()
        self.secrets: dict[str, str] = {}
        for name, scopes in (("one", ["submit", "read"]), ("two", ["submit", "read"]), ("reads", [Scope.READ]),
                             ("submits", ["submit"]), ("admin", ["admin"])):  # fmt: skip
            self.add(name, *scopes)
        self.http = start(keys_file=path, share_sounds=True)

    def add(self, name: str, *scopes: str, rate_per_minute: float | None = None) -> None:
        self._keys[name], self.secrets[name] = new_key(name, map(Scope, scopes), rate_per_minute)
        write_keys(self.path, self._keys.values())

    def remove(self, name: str) -> None:
        del self._keys[name]
        write_keys(self.path, self._keys.values())

    def id(self, name: str) -> str:
        return self._keys[name].id

    def ask(self, name: str | None, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.secrets[name]}"} if name else {}
        return self.http.request(method, path, headers=headers | options.pop("headers", {}), **options)

    def submit(self, name: str | None, **options: Any) -> httpx2.Response:
        data = {"include": ALL} | options.pop("data", {})
        return self.ask(name, "POST", "/v1/jobs", files={"file": wav()}, data=data, **options)


@pytest.fixture
def secured(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, tmp_path: Path) -> SecuredGateway:
    return SecuredGateway(start_gateway, tmp_path / "keys")


@cache
def calls() -> list[tuple[str, str]]:
    """Method and path template of every route of the application, sorted."""
    app = create_app(Settings())
    described = get_openapi(title="", version="", routes=app.routes)["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    for route in app.routes:
        if isinstance(route, Mount):
            found.add(("GET", f"{route.path}/js/main.js"))
        elif isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or ("GET", "POST")}
    return sorted(found)


def filled(path: str, job_id: str) -> str:
    return path.replace("{job_id}", job_id).replace("{layer}", "stem").replace("{name}", "tiny")


def test_every_route_needs_a_key_except_the_open_ones(secured: SecuredGateway) -> None:
    """For every route: 401 without a key and with a wrong one, unless it is in the list of open paths."""
    assert len(calls()) > 20
    assert {("POST", "/v1/jobs"), ("DELETE", "/v1/jobs/{job_id}"), ("GET", "/metrics")} <= set(calls())
    for method, template in calls():
        path = filled(template, "0" * 32)
        for headers in ({}, {"Authorization": f"Bearer oto_12345678_{'0' * 64}"}):
            answer = secured.http.request(method, path, headers=headers)
            if path in OPEN_PATHS or path.startswith("/static/"):
                assert answer.status_code not in (401, 403), (method, path)
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert answer.json()["code"] == "key_required"


def test_no_route_is_hidden_from_openapi(settings: Settings) -> None:
    """The tests above enumerate OpenAPI: a hidden route, unless it is a LabelledRoute, would be missed."""
    hidden = [
        route.path
        for route in create_app(settings).routes
        for route in getattr(route, "original_router", route).__dict__.get("routes", [route])
        if isinstance(route, APIRoute) and not route.include_in_schema
    ]
    assert not hidden
    assert any(isinstance(route, LabelledRoute) for route in create_app(settings).routes)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/debug"), ("PUT", "/v1/jobs"), ("GET", "/v1"), ("GET", "/static"), ("GET", "/docs/x"), ("GET", "//")],
)
def test_a_route_without_a_rule_is_closed(method: str, path: str) -> None:
    """It needs the scope admin."""
    assert required_scope(method, path) == "admin"


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("reads", {"read"}), ("submits", {"submit"}), ("one", {"read", "submit"}), ("admin", {"read", "submit", "admin"})],
)
def test_a_scope_opens_its_routes_only(secured: SecuredGateway, name: str, allowed: set[str]) -> None:
    """For every route and every kind of key: 403 exactly where the scope is missing."""
    for method, template in calls():
        wanted = required_scope(method, template)
        answer = secured.ask(name, method, filled(template, "0" * 32))
        refused = answer.status_code == 403
        assert refused == (wanted is not None and wanted not in allowed), (method, template, answer.status_code)
        if refused and method != "HEAD":
            assert answer.json()["code"] == "key_refused"


def test_the_id_of_a_key_is_not_a_secret(secured: SecuredGateway) -> None:
    """An id with the secret of another key, or with a nearly correct one, is refused."""
    own, other = secured.secrets["one"], secured.secrets["two"]
    almost = own[:-1] + ("0" if own[-1] != "0" else "1")
    for text in (own[:13] + other[13:], almost, own[:13], own.upper(), f"{own} {own}"):
        answer = secured.ask(None, "GET", "/v1/models", headers={"Authorization": f"Bearer {text}"})
        assert answer.status_code == 401, text
    assert secured.ask("one", "GET", "/v1/models").status_code == 200


def test_unknown_routes_are_404_to_callers_with_a_key(secured: SecuredGateway) -> None:
    """With a key a wrong path or method is reported, not a missing scope; without one it is 401."""
    assert secured.ask("one", "GET", "/none").json()["code"] == "not_found"
    assert secured.ask("one", "PUT", "/v1/jobs").json()["code"] == "method_not_allowed"
    assert secured.ask(None, "GET", "/none").status_code == 401


@pytest.mark.parametrize("finish", [True, False])
def test_a_job_belongs_to_its_caller(secured: SecuredGateway, worker: FakeWorker, finish: bool) -> None:
    """Another key gets exactly the response for a job that never existed; its own key and an admin can read it."""
    job_id = secured.submit("one", data={"keep_sound": "true"}).json()["id"]
    if finish:
        worker.finish(job_id)
    of_jobs = [call for call in calls() if "{job_id}" in call[1] and call[0] != "DELETE"]
    assert len(of_jobs) > 6
    for method, template in [*of_jobs, ("DELETE", "/v1/jobs/{job_id}")]:
        answer = secured.ask("two", method, filled(template, job_id))
        assert answer.status_code == 404, (method, template)
        if method != "HEAD":
            never = secured.ask("two", method, filled(template, "f" * 32)).json()
            received = {key: text.replace(job_id, "f" * 32) if isinstance(text, str) else text
                    for key, text in answer.json().items()}  # fmt: skip
            assert received == never, (method, template)
    for name in ("one", "admin"):
        assert secured.ask(name, "GET", f"/v1/jobs/{job_id}").json()["id"] == job_id
        if finish:
            assert all(secured.ask(name, method, filled(path, job_id)).status_code == 200 for method, path in of_jobs)
    assert secured.ask("one", "DELETE", f"/v1/jobs/{job_id}").status_code == 204


def test_the_record_names_the_caller(secured: SecuredGateway, http: httpx2.Client, worker: FakeWorker) -> None:
    """`key:<id>` on a service with keys, the network address on one without."""
    with_key, without = secured.submit("one").json()["id"], http.post("/v1/jobs", files={"file": wav()}).json()["id"]
    stored = [worker._client.hget(f"otoscope:job:{job_id}", "caller") for job_id in (with_key, without)]
    assert stored == [f"key:{secured.id('one')}".encode(), b"net:127.0.0.1"]


def test_an_idempotency_key_belongs_to_its_caller(secured: SecuredGateway) -> None:
    """The same key of another caller creates a new job; of the same caller it returns the first one."""
    headers = {"Idempotency-Key": "again"}
    first, other, repeat = (secured.submit(name, headers=headers).json()["id"] for name in ("one", "two", "one"))
    assert first == repeat != other


def test_the_cookie_is_accepted_like_the_header(secured: SecuredGateway) -> None:
    """For clients that cannot send headers; an Authorization header of another scheme, for a proxy, is ignored."""
    cookie = {"Cookie": f"other=1; otoscope_key={secured.secrets['one']}"}
    assert secured.ask(None, "GET", "/v1/models", headers=cookie).status_code == 200
    assert secured.ask(None, "GET", "/v1/models", headers=cookie | {"Authorization": "Basic eDp5"}).status_code == 200
    assert secured.ask(None, "GET", "/v1/models", headers={"Authorization": "Basic eDp5"}).status_code == 401
    wrong = cookie | {"Authorization": f"Bearer oto_12345678_{'0' * 64}"}
    assert secured.ask(None, "GET", "/v1/models", headers=wrong).status_code == 401


def test_a_rate_limit_is_enforced_with_retry_after(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker, secured: SecuredGateway
) -> None:
    """The submissions of one minute at once, then 429 for that key alone; reading is not limited."""
    secured.add("slow", "submit", "read", rate_per_minute=3)
    secured.http = start_gateway(keys_file=secured.path)
    assert [secured.submit("slow").status_code for _ in range(4)] == [202, 202, 202, 429]
    refused = secured.submit("slow")
    assert refused.json()["code"] == "rate_limited"
    assert 15 <= int(refused.headers["retry-after"]) <= 20
    assert secured.ask("slow", "GET", "/v1/models").status_code == 200
    assert secured.submit("one").status_code == 202


def test_the_token_bucket_refills_at_its_rate(tmp_path: Path) -> None:
    """Just before the returned seconds are over there is no token, and then there is one."""
    now = 0.0
    key, text = new_key("a", [Scope.SUBMIT], rate_per_minute=12)
    write_keys(tmp_path / "keys", [key])
    assert KeyRing(tmp_path / "keys", clock=lambda: now).find(text) == key
    limiter = RateLimiter(clock=lambda: now)
    assert [limiter.acquire(key) for _ in range(13)] == [0] * 12 + [5]
    now = 4.9
    assert limiter.acquire(key) == 1
    now = 5.0
    assert [limiter.acquire(key), limiter.acquire(key)] == [0, 5]
    now = 10_000.0
    assert [limiter.acquire(key) for _ in range(13)] == [0] * 12 + [5], "a bucket holds the tokens of one minute"


def test_keys_are_added_and_revoked_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A change takes effect within a second; an unusable file leaves the keys as they were and is logged once."""
    now, path = 0.0, tmp_path / "keys"
    (old, old_text), (new, new_text) = new_key("old", [Scope.READ]), new_key("new", [Scope.READ])
    write_keys(path, [old])
    ring = KeyRing(path, clock=lambda: now)
    write_keys(path, [new])
    assert ring.find(old_text)
    now = 1.0
    assert ring.find(old_text) is None
    assert ring.find(new_text) == new
    path.write_text("nonsense")
    for _ in range(3):
        now += 1.0
        assert ring.find(new_text) == new
    assert len([line for line in caplog.messages if "stay as they were" in line]) == 1
    path.unlink()
    now = 5.0
    assert ring.find(new_text) == new
    write_keys(path, [])
    now = 6.0
    assert ring.find(new_text) is None


def test_a_gateway_without_its_keys_file_does_not_start(settings: Settings, tmp_path: Path) -> None:
    """A missing file must not open the service to all."""
    with pytest.raises(KeyFileError, match="cannot be read"):
        create_app(settings.model_copy(update={"keys_file": tmp_path / "none"}))


def test_refusals_are_counted(
    secured: SecuredGateway, start_gateway: Callable[..., httpx2.Client], tmp_path: Path
) -> None:
    """401, 403 and 429, each under its code; the metrics contain no key and no id of one."""
    secured.add("slow", "submit", rate_per_minute=1)
    secured.http = start_gateway(keys_file=secured.path)
    for _ in range(2):
        secured.submit("slow")
        secured.ask("reads", "GET", "/metrics")
        secured.ask(None, "GET", "/v1/models")
    text = secured.ask("admin", "GET", "/metrics").text
    assert sample(text, 'otoscope_api_errors_total{code="key_required",fault="caller"}') == 2
    assert sample(text, 'otoscope_api_errors_total{code="key_refused",fault="caller"}') == 2
    assert sample(text, 'otoscope_api_errors_total{code="rate_limited",fault="caller"}') == 1
    assert not re.search("|".join([*secured.secrets.values(), *map(secured.id, secured.secrets)]), text)


def test_refusals_are_sampled_in_the_log(secured: SecuredGateway, caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute, however many requests have no valid key; it shows the address and no key."""
    caplog.set_level("INFO")
    for _ in range(5):
        secured.http.get("/v1/models", headers={"Authorization": "Bearer oto_guess"})
    lines = [record for record in caplog.records if record.message.startswith("refused")]
    assert [(line.message, vars(line)["caller"], vars(line)["code"]) for line in lines] == [
        ("refused 1 requests, the last one", "net:127.0.0.1", "key_required")
    ]
    assert "oto_guess" not in caplog.text


def test_openapi_declares_security(secured: SecuredGateway, http: httpx2.Client) -> None:
    """Bearer and cookie, with the scope of each operation; optional where the service is open."""
    document = secured.http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["components"]["securitySchemes"]["cookie"]["name"] == "otoscope_key"
    assert document["paths"]["/v1/jobs"]["post"]["security"] == [{"key": ["submit"]}, {"cookie": ["submit"]}]
    assert {"401", "403", "429"} <= set(document["paths"]["/v1/jobs"]["post"]["responses"])
    assert "security" not in document["paths"]["/health/live"]["get"]
    assert {} in http.get("/openapi.json").json()["paths"]["/metrics"]["get"]["security"]
