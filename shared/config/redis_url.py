"""OTOSCOPE_REDIS_URL parsed: the address of Redis and the credentials, for gateway, worker and kombu alike.

    redis://user:password@host:port/db          plain text
    rediss://user:password@host:port/db         TLS; certificate and host name are verified
    unix:///path?db=0                           a Unix socket
    sentinel://user:password@host:port,host:port,host:port/service?db=0
    sentinels://…                               TLS to the sentinels and to the server

An IPv6 address stands in brackets (`[::1]:6379`). Query options of rediss:// and sentinels://: `ssl_ca_certs` (the CA
of the server's certificate; the system's CAs by default), `ssl_certfile` and `ssl_keyfile` (a client certificate, where
the server requires one) and `ssl_check_hostname=false` (accept any certificate of those CAs). Query options of
sentinel:// and sentinels://: `sentinel_user` and `sentinel_password`, where the sentinels themselves require them.

For a gateway, several such URLs, separated by whitespace, name several servers. The number of a server is its place in
the list, from 0.
"""

import ssl
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from shared.contract import MAX_SERVERS

PORT, SENTINEL_PORT = 6_379, 26_379

_ENCRYPTED = {"redis": "rediss", "sentinel": "sentinels"}
_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL = ("sentinel_user", "sentinel_password")


class RedisURLError(ValueError):
    """The URL cannot be used. The message gives the reason; of the URL it quotes option and file names at most."""


@dataclass(frozen=True)
class RedisURL:
    """One server, or the sentinels that know the current one. Its repr shows no password."""

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of the Unix socket; empty where `hosts` are used."""
    service: str = ""
    """Name of the server that the sentinels monitor; `hosts` are then the sentinels."""
    db: int = 0
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    """`username` and `password`, each only where it is given."""
    sentinel_credentials: dict[str, str] = field(default_factory=dict, repr=False)
    tls: dict[str, Any] | None = None
    """Options of redis-py's TLS connections; None without TLS."""

    @property
    def safe_url(self) -> str:
        """A URL without credentials, for logs, and for kombu, which requires a URL and warns about unknown schemes."""
        if self.path:
            return f"redis+socket://{quote(self.path)}?virtual_host={self.db}"
        host, port = self.hosts[0]
        return f"redis://{f'[{host}]' if ':' in host else host}:{port}/{self.db}"


def parse_redis_urls(text: str) -> tuple[RedisURL, ...]:
    """The servers by their numbers: at least one. Raises RedisURLError."""
    urls = text.split()
    if len(urls) < 2:
        return (parse_redis_url(text),)
    if len(urls) > MAX_SERVERS:
        raise RedisURLError(f"names {len(urls)} servers; {MAX_SERVERS} is the limit")
    servers: list[RedisURL] = []
    for number, url in enumerate(urls):
        try:
            servers.append(parse_redis_url(url))
        except RedisURLError as error:
            raise RedisURLError(f"(server {number}) {error}") from None
    places = [(server.hosts, server.path, server.service, server.db) for server in servers]
    for number, place in enumerate(places):
        if (first := places.index(place)) < number:
            raise RedisURLError(f"names the same server twice, as numbers {first} and {number}")
    return tuple(servers)


def parse_redis_url(url: str) -> RedisURL:
    """Raises RedisURLError, also for certificates that cannot be loaded."""
    scheme, _, rest = url.strip().partition("://")
    if scheme in ("amqp", "amqps", "pyamqp"):
        raise RedisURLError(
            "names RabbitMQ, which is not supported: a job and its queue entry are stored in one atomic step, in Redis"
        )
    if scheme not in _SCHEMES:
        raise RedisURLError("must begin with redis://, rediss://, unix://, sentinel:// or sentinels://")
    authority, path, query = _split(rest)
    userinfo, _, addresses = authority.rpartition("@")
    default_port = SENTINEL_PORT if scheme.startswith("sentinel") else PORT
    try:
        hosts = tuple(_host(address, default_port) for address in addresses.split(","))
    except ValueError:
        raise RedisURLError("is not a valid URL; in a password, / ? # and @ are written %2F %3F %23 and %40") from None
    options = dict(parse_qsl(query, keep_blank_values=True))
    _check_options(scheme, options)
    credentials, path = _credentials(*userinfo.partition(":")[::2]), unquote(path)
    tls = _tls(options) if scheme in ("rediss", "sentinels") else None
    if scheme == "unix":
        return RedisURL(path=path, db=_database(options.get("db", "")), credentials=credentials)
    if scheme.startswith("sentinel"):
        service = path.strip("/")
        if not service or "/" in service:
            raise RedisURLError("lacks the sentinels' name of the server; write sentinel://host:port/service")
        sentinel = _credentials(*(quote(options.get(name, "")) for name in _SENTINEL))
        return RedisURL(hosts, "", service, _database(options.get("db", "")), credentials, sentinel, tls)
    if hosts[1:]:
        raise RedisURLError("has several hosts, which only sentinel:// may; servers are separated by spaces")
    return RedisURL(hosts, db=_database(options.get("db", path.strip("/"))), credentials=credentials, tls=tls)


def _split(rest: str) -> tuple[str, str, str]:
    """(authority, path, query) of what follows `scheme://`, as in RFC 3986, section 3.

    `urllib.parse.urlsplit` is no use here: it takes the authority for a single host. Since CPython's fixes of
    CVE-2024-11168 and CVE-2025-0938 (https://github.com/python/cpython/issues/105704, in 3.11.12 and in the patched
    3.11.2 of Debian 12) it refuses several hosts of which one is an IPv6 address in brackets.
    """
    rest, _, query = rest.partition("#")[0].partition("?")
    authority, slash, path = rest.partition("/")
    return authority, slash + path, query


def _host(address: str, default_port: int) -> tuple[str, int]:
    """(host name or address, port) of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`. Raises ValueError."""
    if address.startswith("["):
        host, closed, port = address[1:].partition("]")
        IPv6Address(host)
        if not closed or (port and not port.startswith(":")):
            raise ValueError("no : after ]")
        port = port[1:]
    else:
        host, _, port = address.partition(":")
        if "[" in host or "]" in host:
            raise ValueError("a bracket within a host name")
    if port and not (port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise ValueError("not a port")
    return host.lower() or "localhost", int(port or 0) or default_port


def _credentials(username: str, password: str) -> dict[str, str]:
    given = {"username": unquote(username), "password": unquote(password)}
    return {name: text for name, text in given.items() if text}


def _check_options(scheme: str, options: dict[str, str]) -> None:
    known = {"db"}
    known |= set(_TLS) if scheme in _ENCRYPTED.values() else set()
    known |= set(_SENTINEL) if scheme.startswith("sentinel") else set()
    for name in options.keys() - known:
        if name in ("username", "password"):  # fewer programs mask a password in the query
            raise RedisURLError("has its password behind the ?; write redis://user:password@host")
        if name in _TLS and scheme in _ENCRYPTED:
            raise RedisURLError(f"has {name}, but {scheme}:// is not encrypted; write {_ENCRYPTED[scheme]}://")
        if name == "ssl_cert_reqs":
            raise RedisURLError(f"has {name}, but certificates are always verified; set ssl_ca_certs to their CA")
        raise RedisURLError(f"has an unknown option; {scheme}:// accepts {', '.join(sorted(known))}")


def _database(text: str) -> int:
    if not (text or "0").isdecimal():
        raise RedisURLError("names a database that is not a number")
    return int(text or 0)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """Loads the certificates, so that a missing or mismatched file is an error now and not at the first connection."""
    files = {name: options[name] for name in _TLS if options.get(name) and name != "ssl_check_hostname"}
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise RedisURLError("has ssl_keyfile without ssl_certfile")
    strict = options.get("ssl_check_hostname", "true").lower()
    if strict not in ("true", "false"):
        raise RedisURLError("has an ssl_check_hostname that is neither true nor false")
    context = ssl.create_default_context()
    try:
        if ca := files.get("ssl_ca_certs"):
            context.load_verify_locations(ca)
        if own := files.get("ssl_certfile"):
            # With an empty password an encrypted key is an error; without one OpenSSL would prompt on the terminal.
            context.load_cert_chain(own, files.get("ssl_keyfile"), password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(files.values())
        raise RedisURLError(f"names certificates that cannot be loaded ({named}): {error}") from None
    return files | {"ssl_check_hostname": strict == "true"}
