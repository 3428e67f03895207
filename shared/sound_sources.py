"""Addresses of sounds: which ones may be fetched. The gateway checks an address before it queues a job, the worker
again before it fetches.

The operator lists origins, one for each source: `https://media.example.org`, `https://*.example.org`,
`http://10.0.0.7:9000`, `s3://bucket`. A name must resolve to public addresses only (`worker.fetch.child`); an origin
whose host is an IP address is that address, which may be a private one.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlsplit

from otoscope.errors import UrlNotAllowed

_MAX_URL = 2_048  # characters; signed addresses have several hundred
_PORTS = {"https": 443, "http": 80}
_PRINTABLE = re.compile(r"[!-\[\]-~]+")  # of ASCII, without blanks and the backslash, which browsers read as a slash
_HOST = re.compile(r"[a-z0-9.-]+|[0-9a-f:]+")


@dataclass(frozen=True)
class SoundAddress:
    """An address that may be fetched."""

    scheme: str  # https, http or s3
    host: str  # of S3 the bucket
    port: int  # of S3 0
    path: str  # with the query; of S3 the key

    @property
    def name(self) -> str:
        """The file name in it."""
        return unquote(self.path.partition("?")[0]).rpartition("/")[2]

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address."""
        try:
            ip_address(self.host)
        except ValueError:
            return False
        return True


class SoundSources:
    """The origins that a setting lists."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        """Raises ValueError for what is no origin."""
        self._origins = [_parse_origin(origin) for origin in origins]

    def __bool__(self) -> bool:
        return bool(self._origins)

    @property
    def has_s3(self) -> bool:
        """Whether a bucket is among them."""
        return any(scheme == "s3" for scheme, _, _ in self._origins)

    def check(self, url: str) -> SoundAddress:
        """Raises UrlNotAllowed."""
        if not self._origins:
            raise UrlNotAllowed(
                "Sounds are not fetched from addresses here: OTOSCOPE_SOUND_SOURCES lists none. Send the file itself."
            )
        if len(url) > _MAX_URL or not _PRINTABLE.fullmatch(url):
            raise UrlNotAllowed(f"An address has up to {_MAX_URL:,} printable ASCII characters; escape others as %XX.")
        try:
            parts = urlsplit(url)
            address = _address(parts)
        except ValueError as error:
            raise UrlNotAllowed(f"The address {url[:80]!r} cannot be parsed: {error}.") from error
        if not any(_matches(origin, address) for origin in self._origins):
            port = "" if address.port == _PORTS.get(address.scheme, 0) else f":{address.port}"
            raise UrlNotAllowed(
                f"Sounds are not fetched from {address.scheme}://{address.host}{port}; OTOSCOPE_SOUND_SOURCES does not"
                " list it."
            )
        return address


Origin = tuple[str, str, int]  # scheme, host, port


def _address(parts: SplitResult) -> SoundAddress:
    """Raises ValueError."""
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower().rstrip(".")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it has a user name or a password")
    if scheme not in ("https", "http", "s3"):
        raise ValueError("its scheme is not https, http or s3")
    if not _HOST.fullmatch(host):
        raise ValueError("it has no host")
    if scheme == "s3":
        key = unquote(parts.path.lstrip("/"))
        if not key or parts.port is not None or parts.query:
            raise ValueError("an object in S3 is s3://bucket/key")
        return SoundAddress(scheme, host, 0, key)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return SoundAddress(scheme, host, parts.port or _PORTS[scheme], path)


def _parse_origin(text: str) -> Origin:
    """Raises ValueError."""
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not an origin: {error}") from error
    plain = not (parts.path or parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme == "s3" and plain and port is None and _HOST.fullmatch(host):
        return "s3", host, 0
    name = host.removeprefix("*.")
    if parts.scheme not in _PORTS or not plain or not _HOST.fullmatch(name) or ("*." in host and "." not in name):
        raise ValueError(f"{text!r} is not an origin; examples are https://media.example.org and s3://bucket")
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _matches(origin: Origin, address: SoundAddress) -> bool:
    scheme, host, port = origin
    if (scheme, port) != (address.scheme, address.port):
        return False
    if host.startswith("*."):
        return address.host.endswith(host[1:]) and not address.is_literal
    return host == address.host
