"""One URL for gateway, worker and kombu: what it says, and what it may not say."""

from pathlib import Path

import pytest

from commands.settings_text import shown
from shared.config.redis_url import Address, AddressUnusable, parse
from shared.config.settings import Settings, SettingsUnusable, load_settings


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address((("localhost", 6379),))),
        ("redis://queue/3", Address((("queue", 6379),), db=3)),
        ("redis://queue/1?db=3", Address((("queue", 6379),), db=3)),
        ("redis://:p%40@[::1]:1", Address((("::1", 1),), entry={"password": "p@"})),
        ("unix:///run/a%20b.sock?db=3", Address(path="/run/a b.sock", db=3)),
        ("unix://me:p@/run/a.sock", Address(path="/run/a.sock", entry={"username": "me", "password": "p"})),
        ("rediss://queue", Address((("queue", 6379),), tls={"ssl_check_hostname": True})),
        ("rediss://queue?ssl_check_hostname=false", Address((("queue", 6379),), tls={"ssl_check_hostname": False})),
        (
            "sentinel://me:p%2F@a,b:1,[::1]/queue?db=2&sentinel_password=s%2F",
            Address(
                (("a", 26379), ("b", 1), ("::1", 26379)), "", "queue", 2,
                {"username": "me", "password": "p/"}, {"password": "s/"},
            ),
        ),
        ("sentinels://a/queue", Address((("a", 26379),), service="queue", tls={"ssl_check_hostname": True})),
    ],
)  # fmt: skip
def test_what_a_url_says(url: str, address: Address) -> None:
    """Server or sentinels, database, and how it is entered."""
    assert parse(url) == address == Settings(redis_url=url).address


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("amqp://me:secret@rabbit/", "one atomic step, in Redis"),
        ("redis+cluster://:secret@a", "must begin with redis://"),
        ("redis://:secret@a,b", "only sentinel://"),
        ("redis://:secret@a/queue", "no number"),
        ("redis://:secret@a:b", "is no URL"),
        ("redis://a?password=secret", "behind the ?"),
        ("redis://:secret@a?ssl_ca_certs=/ca.pem", "write rediss://"),
        ("sentinel://:secret@a/queue?ssl_ca_certs=/ca.pem", "write sentinels://"),
        ("rediss://:secret@a?ssl_cert_reqs=none", "always checked"),
        ("rediss://:secret@a?ssl_check_hostname=perhaps", "neither true nor false"),
        ("rediss://:secret@a?ssl_keyfile=/k.pem", "without ssl_certfile"),
        ("rediss://:secret@a?ssl_ca_certs=/nowhere.pem", "cannot be used (/nowhere.pem)"),
        ("redis://:secret@a?sockettimeout=secret", "does not know"),
        ("redis://:secret@a?sentinel_password=secret", "does not know"),
        ("sentinel://:secret@a:26379", "sentinel://host:port/service"),
    ],
)
def test_what_cannot_be_used_is_refused_at_start(url: str, why: str) -> None:
    """In one line that says why, and tells no secret."""
    with pytest.raises(SettingsUnusable) as refused:
        load_settings(redis_url=url)
    said = str(refused.value)
    assert why in said
    assert "OTOSCOPE_REDIS_URL" in said
    assert "secret" not in said


def test_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    """Is found at start, not at the first connection."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(AddressUnusable, match=r"cannot be used \(.*ca.pem\)"):
        parse(f"rediss://a?ssl_ca_certs={tmp_path / 'ca.pem'}")


def test_an_address_shows_no_secret() -> None:
    """Neither printed nor in what is logged of it, nor in what `otoscope settings` shows."""
    url = "sentinel://me:secret@a,b/queue?sentinel_password=secret&db=1"
    address = parse(url)
    assert "secret" not in f"{address!r} {address.told}"
    assert shown("redis_url", url) == "sentinel://me:***@a,b/queue?sentinel_password=***&db=1"
