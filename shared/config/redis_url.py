"""Where Redis is and how it is entered, read from one URL for gateway, worker and kombu alike.

    redis://user:password@host:port/db          in the clear
    rediss://user:password@host:port/db         encrypted; certificate and host name are checked
    unix:///path?db=0                           a socket
    sentinel://user:password@host:port,host:port,host:port/service?db=0
    sentinels://…                               encrypted, on the way to the sentinels and to the server

Behind the `?` of an encrypted one may stand `ssl_ca_certs` (who signed the server's certificate; the system's own
authorities where it is missing), `ssl_certfile` and `ssl_keyfile` (a certificate of ours, where the server asks for
one), and `ssl_check_hostname=false` (any certificate of those authorities will do); of a sentinel's, `sentinel_user`
and `sentinel_password`, where the sentinels themselves ask for one.
"""

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

PORT, SENTINEL_PORT = 6_379, 26_379

_ENCRYPTED = {"redis": "rediss", "sentinel": "sentinels"}
_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL = ("sentinel_user", "sentinel_password")


class AddressUnusable(ValueError):
    """The URL cannot be used; the message says why, and tells of it no more than names of options and files."""


@dataclass(frozen=True)
class Address:
    """One server, or the sentinels that know which server it is at present. Its text holds no password."""

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of a socket, where there is no host."""
    service: str = ""
    """What the sentinels, which `hosts` are then, call the server."""
    db: int = 0
    entry: dict[str, str] = field(default_factory=dict, repr=False)
    """`username` and `password`, as far as the server asks for them."""
    sentinel_entry: dict[str, str] = field(default_factory=dict, repr=False)
    tls: dict[str, Any] | None = None
    """What redis-py's encrypted connections take; None where nothing is encrypted."""

    @property
    def told(self) -> str:
        """For logs, and for kombu, which wants a URL and warns of what it does not see: where, and nothing else."""
        if self.path:
            return f"redis+socket://{quote(self.path)}?virtual_host={self.db}"
        host, port = self.hosts[0]
        return f"redis://{f'[{host}]' if ':' in host else host}:{port}/{self.db}"


def parse(url: str) -> Address:
    """Raises AddressUnusable, for certificates that cannot be read as well."""
    scheme = url.partition("://")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        raise AddressUnusable(
            "names RabbitMQ, which cannot be used: a job and its message are stored in one atomic step, in Redis"
        )
    if scheme not in _SCHEMES:
        raise AddressUnusable("must begin with redis://, rediss://, unix://, sentinel:// or sentinels://")
    try:
        parts = urlsplit(url)
        entered, _, places = parts.netloc.rpartition("@")
        hosts = tuple(_host(place, scheme) for place in places.split(","))
    except ValueError:
        raise AddressUnusable("is no URL; in a password, / ? # and @ are written %2F %3F %23 and %40") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    _check_names(scheme, options)
    entry, path = _entry(*entered.partition(":")[::2]), unquote(parts.path)
    tls = _tls(options) if scheme in ("rediss", "sentinels") else None
    if scheme == "unix":
        return Address(path=path, db=_database(options.get("db", "")), entry=entry)
    if scheme.startswith("sentinel"):
        service = path.strip("/")
        if not service or "/" in service:
            raise AddressUnusable("does not say what the sentinels call the server; write sentinel://host:port/service")
        own = _entry(*(quote(options.get(name, "")) for name in _SENTINEL))
        return Address(hosts, "", service, _database(options.get("db", "")), entry, own, tls)
    if hosts[1:]:
        raise AddressUnusable("names several servers; only sentinel:// does")
    return Address(hosts, db=_database(options.get("db", path.strip("/"))), entry=entry, tls=tls)


def _host(place: str, scheme: str) -> tuple[str, int]:
    found = urlsplit(f"//{place}")
    return found.hostname or "localhost", found.port or (SENTINEL_PORT if scheme.startswith("sentinel") else PORT)


def _entry(username: str, password: str) -> dict[str, str]:
    given = {"username": unquote(username), "password": unquote(password)}
    return {name: text for name, text in given.items() if text}


def _check_names(scheme: str, options: dict[str, str]) -> None:
    known = {"db"}
    known |= set(_TLS) if scheme in _ENCRYPTED.values() else set()
    known |= set(_SENTINEL) if scheme.startswith("sentinel") else set()
    for name in options.keys() - known:
        if name in ("username", "password"):  # what stands there is hidden by fewer programs
            raise AddressUnusable("has its password behind the ?; write redis://user:password@host")
        if name in _TLS and scheme in _ENCRYPTED:
            raise AddressUnusable(f"has {name}, and {scheme}:// is not encrypted; write {_ENCRYPTED[scheme]}://")
        if name == "ssl_cert_reqs":
            raise AddressUnusable(f"has {name}, and certificates are always checked; name who signed it: ssl_ca_certs")
        raise AddressUnusable(f"has an option that {scheme}:// does not know; it knows {', '.join(sorted(known))}")


def _database(text: str) -> int:
    if not (text or "0").isdecimal():
        raise AddressUnusable("names a database that is no number")
    return int(text or 0)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """What is missing or does not belong together is found here, not at the first connection."""
    files = {name: options[name] for name in _TLS if options.get(name) and name != "ssl_check_hostname"}
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise AddressUnusable("has ssl_keyfile without ssl_certfile")
    strict = options.get("ssl_check_hostname", "true").lower()
    if strict not in ("true", "false"):
        raise AddressUnusable("has an ssl_check_hostname that is neither true nor false")
    context = ssl.create_default_context()
    try:
        if ca := files.get("ssl_ca_certs"):
            context.load_verify_locations(ca)
        if own := files.get("ssl_certfile"):
            # An encrypted key is answered with no password, where OpenSSL would ask the terminal for one.
            context.load_cert_chain(own, files.get("ssl_keyfile"), password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(files.values())
        raise AddressUnusable(f"names certificates that cannot be used ({named}): {error}") from None
    return files | {"ssl_check_hostname": strict == "true"}
