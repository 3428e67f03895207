"""OTOSCOPE_REDIS_URL: what each form means, and what is refused."""

import urllib.parse
from pathlib import Path

import pytest

from commands.settings_text import masked
from shared.config.redis_url import RedisURL, RedisURLError, parse_redis_url
from shared.config.settings import ConfigurationError, Settings, load_settings


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("redis://", RedisURL((("localhost", 6379),))),
        ("redis://Queue/3", RedisURL((("queue", 6379),), db=3)),
        ("redis://queue/1?db=3", RedisURL((("queue", 6379),), db=3)),
        ("redis://queue:0/", RedisURL((("queue", 6379),))),
        ("redis://:p%40@[::1]:1", RedisURL((("::1", 1),), credentials={"password": "p@"})),
        ("unix:///run/a%20b.sock?db=3", RedisURL(path="/run/a b.sock", db=3)),
        ("unix://me:p@/run/a.sock", RedisURL(path="/run/a.sock", credentials={"username": "me", "password": "p"})),
        ("rediss://queue", RedisURL((("queue", 6379),), tls={"ssl_check_hostname": True})),
        ("rediss://queue?ssl_check_hostname=false", RedisURL((("queue", 6379),), tls={"ssl_check_hostname": False})),
        (
            "sentinel://me:p%2F@a,b:1,[::1]/queue?db=2&sentinel_password=s%2F",
            RedisURL(
                (("a", 26379), ("b", 1), ("::1", 26379)), "", "queue", 2,
                {"username": "me", "password": "p/"}, {"password": "s/"},
            ),
        ),
        ("sentinel://[::1]:26379,[::1]:26380/main", RedisURL((("::1", 26379), ("::1", 26380)), service="main")),
        ("sentinel://[::1],[fe80::1%eth0]:1,c/main", RedisURL((("::1", 26379), ("fe80::1%eth0", 1), ("c", 26379)),
                                                               service="main")),
        ("sentinels://a/queue", RedisURL((("a", 26379),), service="queue", tls={"ssl_check_hostname": True})),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_each_form_of_the_url(url: str, parsed: RedisURL, strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server or sentinels, database and credentials, with and without CPython's fix of CVE-2025-0938.

    With it `urlsplit` refuses an authority of several hosts of which one is in brackets; Debian 12 has the fix in its
    Python 3.11.2, and 3.11.7 has not.
    """
    if strict:
        monkeypatch.setattr(urllib.parse, "_splitnetloc", _strict_splitnetloc)
        urllib.parse.urlsplit.cache_clear()  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="Invalid IPv6 URL"):
            urllib.parse.urlsplit("sentinel://a,[::1]:1/main")
    assert parse_redis_url(url) == parsed == Settings(redis_url=url).redis


_splitnetloc = urllib.parse._splitnetloc  # type: ignore[attr-defined]


def _strict_splitnetloc(url: str, start: int = 0) -> tuple[str, str]:
    """The check of CPython's `_check_bracketed_netloc` (https://github.com/python/cpython/pull/129418)."""
    netloc, rest = _splitnetloc(url, start)
    before, bracket, bracketed = netloc.rpartition("@")[2].partition("[")
    if bracket:
        _, _, port = bracketed.partition("]")
        if before or (port and not port.startswith(":")) or "[" in port:
            raise ValueError("Invalid IPv6 URL")
    return netloc, rest


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("amqp://me:secret@rabbit/", "one atomic step, in Redis"),
        ("redis+cluster://:secret@a", "must begin with redis://"),
        ("redis://:secret@a,b", "only sentinel://"),
        ("redis://:secret@a/queue", "not a number"),
        ("redis://:secret@a:b", "is not a valid URL"),
        ("redis://:secret@a:65536", "is not a valid URL"),
        ("redis://:secret@[::1", "is not a valid URL"),
        ("redis://:secret@[::1]6379", "is not a valid URL"),
        ("redis://:secret@[a]:6379", "is not a valid URL"),
        ("redis://:secret@a[::1]:6379", "is not a valid URL"),
        ("redis://:secret@::1", "is not a valid URL"),
        ("redis://:sec#ret@a", "is not a valid URL"),
        ("redis://a?password=secret", "behind the ?"),
        ("redis://:secret@a?ssl_ca_certs=/ca.pem", "write rediss://"),
        ("sentinel://:secret@a/queue?ssl_ca_certs=/ca.pem", "write sentinels://"),
        ("rediss://:secret@a?ssl_cert_reqs=none", "always verified"),
        ("rediss://:secret@a?ssl_check_hostname=perhaps", "neither true nor false"),
        ("rediss://:secret@a?ssl_keyfile=/k.pem", "without ssl_certfile"),
        ("rediss://:secret@a?ssl_ca_certs=/nowhere.pem", "cannot be loaded (/nowhere.pem)"),
        ("redis://:secret@a?sockettimeout=secret", "unknown option"),
        ("redis://:secret@a?sentinel_password=secret", "unknown option"),
        ("sentinel://:secret@a:26379", "sentinel://host:port/service"),
    ],
)
def test_an_unusable_url_is_refused_at_start(url: str, why: str) -> None:
    """In one line that gives the reason and contains no secret."""
    with pytest.raises(ConfigurationError) as refused:
        load_settings(redis_url=url)
    message = str(refused.value)
    assert why in message
    assert "OTOSCOPE_REDIS_URL" in message
    assert "secret" not in message
    assert "sec#ret" not in message


def test_several_servers_have_the_numbers_of_their_places() -> None:
    """Separated by any whitespace, as in a secret with a line for each."""
    settings = Settings(redis_url=" redis://a\nsentinel://:p@b,c/queue  unix:///run/d.sock?db=1\n")
    first, second, third = settings.redis_servers
    assert (first.hosts, second.service, third.path, third.db) == ((("a", 6379),), "queue", "/run/d.sock", 1)
    assert settings.redis == first


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        ("redis://:secret@a redis://:secret@a:b", "OTOSCOPE_REDIS_URL (server 1) is not a valid URL"),
        ("redis://:secret@a redis://b redis://:other@a:6379/0", "names the same server twice, as numbers 0 and 2"),
        (" ".join(f"redis://:secret@a/{number}" for number in range(257)), "names 257 servers; 256 is the limit"),
    ],
)
def test_unusable_lists_of_servers_are_refused_at_start(urls: str, why: str) -> None:
    """In one line that contains no secret."""
    with pytest.raises(ConfigurationError) as refused:
        load_settings(redis_url=urls)
    assert why in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_a_certificate(tmp_path: Path) -> None:
    """Is found at start, not at the first connection."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(RedisURLError, match=r"cannot be loaded \(.*ca.pem\)"):
        parse_redis_url(f"rediss://a?ssl_ca_certs={tmp_path / 'ca.pem'}")


def test_no_secret_is_shown() -> None:
    """Neither in the repr of the parsed URL, nor in the URL for logs, nor in the output of `otoscope settings`."""
    url = "sentinel://me:secret@a,b/queue?sentinel_password=secret&db=1"
    parsed = parse_redis_url(url)
    assert "secret" not in f"{parsed!r} {parsed.safe_url}"
    assert masked("redis_url", url) == "sentinel://me:***@a,b/queue?sentinel_password=***&db=1"
    two = f"redis://me:secret@a {url} redis://b"
    assert masked("redis_url", two) == f"redis://me:***@a {masked('redis_url', url)} redis://b"
