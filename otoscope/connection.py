"""The address of the service, the proxy on the way to it, credentials, and what httpx2 needs of them."""

import os
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx2

from otoscope.errors import InvalidRequest
from otoscope.sansio import Request

C = TypeVar("C", httpx2.Client, httpx2.AsyncClient)


def service_url(url: str | None = None) -> str:
    """The service's URL: as given, else OTOSCOPE_URL, else this machine at OTOSCOPE_PORT or 8000."""
    text = url or os.environ.get("OTOSCOPE_URL") or f"http://127.0.0.1:{os.environ.get('OTOSCOPE_PORT') or 8000}"
    return str(parse_url(text, "a service", "http://127.0.0.1:8000"))


def parse_url(text: str, what: str, example: str) -> httpx2.URL:
    """The URL of `what`; `http://` may be left out. Raises InvalidRequest, whose message shows the `example`."""
    try:
        parsed = httpx2.URL(text if "://" in text else f"http://{text}")
    except httpx2.InvalidURL as error:
        raise InvalidRequest(f"{text!r} is not the address of {what}: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(f"{text!r} is not the address of {what}; a valid one is {example}.")
    return parsed


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine."""
    host = httpx2.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def environment_proxy(url: str) -> str | None:
    """The address of the proxy that the environment names for a URL; None without one, as for this machine."""
    parsed, proxies = httpx2.URL(url), {} if is_loopback(url) else getproxies()
    proxy = proxies.get(parsed.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parsed.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def auth_header(key: str | None = None) -> dict[str, str]:
    """The Authorization header for an API key: as given, else OTOSCOPE_KEY, else none. Raises InvalidRequest."""
    key = (key or os.environ.get("OTOSCOPE_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidRequest("The key has characters that no key has; OTOSCOPE_KEY is one line, as it was printed.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def http_client(
    kind: type[C], url: str, key: str | None, headers: dict[str, str] | None = None, transport: Any = None
) -> C:
    """An httpx2 client, sync or async. Raises InvalidRequest, also for headers, or a proxy of the environment, that
    httpx2 refuses."""
    try:
        return kind(
            base_url=url,
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                **auth_header(key),
                **(headers or {}),
            },
            # A proxy from the environment is not meant for this machine.
            trust_env=not is_loopback(url),
            # Shorter than servers keep idle connections, so that none is closed at the moment of its reuse.
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=4.0),
            transport=transport,
        )
    except ImportError as error:
        raise InvalidRequest(
            "The environment names a SOCKS proxy, which needs the package socksio: pip install socksio."
        ) from error
    except ValueError as error:
        raise InvalidRequest(f"A header, or a proxy that the environment names, cannot be used: {error}.") from error


def request_arguments(request: Request) -> dict[str, Any]:
    """The arguments of `httpx2.Client.build_request`."""
    params, headers, read_timeout = None, request.headers, request.read_timeout
    if request.wait is not None:
        read_timeout += request.wait
        if request.method == "GET":
            params = {"wait": f"{request.wait:.3f}"}
        else:
            headers = {**headers, "Prefer": f"wait={request.wait:.3f}"}  # RFC 7240
    return {
        "method": request.method,
        "url": request.path,
        "params": params,
        "headers": headers,
        "data": request.data,
        "files": request.files,
        "timeout": httpx2.Timeout(read_timeout, connect=min(read_timeout, 5.0), pool=None),
    }
