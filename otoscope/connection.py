"""Where the service is, and a `Call` in httpx' terms."""

import os
from ipaddress import ip_address
from typing import Any

import httpx

from otoscope.errors import InvalidRequest
from otoscope.sansio import Call


def service_url(url: str | None = None) -> str:
    """Where the service is: as given, else OTOSCOPE_URL, else this machine at OTOSCOPE_PORT or 8000."""
    text = url or os.environ.get("OTOSCOPE_URL") or f"http://127.0.0.1:{os.environ.get('OTOSCOPE_PORT') or 8000}"
    return str(address(text, "a service", "http://127.0.0.1:8000"))


def address(text: str, what: str, like: str) -> httpx.URL:
    """The address of something, `http://` left out or not. Raises InvalidRequest, which says what one is `like`."""
    try:
        parsed = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"{text!r} is not the address of {what}: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(f"{text!r} is not the address of {what}; one looks like {like}.")
    return parsed


def is_here(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = httpx.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_header(key: str | None = None) -> dict[str, str]:
    """The header that carries a key: as given, else OTOSCOPE_KEY, else none. Raises InvalidRequest."""
    key = (key or os.environ.get("OTOSCOPE_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidRequest("The key has characters that no key has; OTOSCOPE_KEY is one line, as it was printed.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def http_settings(url: str, key: str | None, headers: dict[str, str] | None) -> dict[str, Any]:
    """What an httpx client, blocking or not, is built with."""
    return {
        "base_url": url,
        "headers": {"Accept": "application/json", **key_header(key), **(headers or {})},
        # A proxy of the environment is not meant for this machine.
        "trust_env": not is_here(url),
        # Shorter than servers keep idle connections, so that none is closed just as it is used again.
        "limits": httpx.Limits(max_connections=None, keepalive_expiry=4.0),
    }


def request_parts(call: Call) -> dict[str, Any]:
    """What httpx builds the request from."""
    params, headers, patience = None, call.headers, call.patience
    if call.hold is not None:
        patience += call.hold
        if call.method == "GET":
            params = {"wait": f"{call.hold:.3f}"}
        else:
            headers = {**headers, "Prefer": f"wait={call.hold:.3f}"}
    return {
        "method": call.method,
        "url": call.path,
        "params": params,
        "headers": headers,
        "data": call.data,
        "files": call.files,
        "timeout": httpx.Timeout(patience, connect=min(patience, 5.0), pool=None),
    }
