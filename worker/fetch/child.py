"""The process that fetches one sound: it reads a request from its parent's socket, replies, and ends.

It has the network, which decode processes lack, and decodes nothing. It follows no redirect and uses no proxy: the
address that was checked is the one that it connects to. A name is resolved once, every address must be public, and the
connection goes to the address that was found, so that a second answer of the name server (DNS rebinding) has no effect.
"""

import json
import resource
import socket
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from otoscope.errors import OtoscopeError, PayloadTooLarge, UrlNotAllowed, UrlUnreachable
from worker.decode.framing import FramedSocket

_MEMORY = 512 * 2**20  # bytes of address space beside the sound, which is held three times
_CHUNK = 256 * 1024  # bytes
_PORTS = {"https": 443, "http": 80}


def fetch(request: dict[str, Any]) -> bytes:
    """The sound of a request, a SoundAddress with limits. Raises UrlNotAllowed, UrlUnreachable or PayloadTooLarge."""
    try:
        return _from_s3(request) if request["scheme"] == "s3" else _from_http(request)
    except (OSError, HTTPException) as error:  # ssl.SSLError and socket.gaierror are OSErrors
        reason = str(error) or type(error).__name__
        raise UrlUnreachable(f"{request['host']} cannot be read: {reason}.") from error


def _from_http(request: dict[str, Any]) -> bytes:
    host, port, seconds = request["host"], request["port"], request["seconds"]
    connection = _connect(host, port, seconds, request["scheme"] == "https", literal=request["literal"])
    name = f"[{host}]" if ":" in host else host
    authority = name if port == _PORTS[request["scheme"]] else f"{name}:{port}"
    # Compressed, a few bytes could become any number.
    headers = {"Host": authority, "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "otoscope"}
    connection.request("GET", request["path"], headers=headers)
    with connection.getresponse() as response:
        return _read_response(response, host, request["max_bytes"])


def _read_response(response: HTTPResponse, host: str, max_bytes: int) -> bytes:
    if 300 <= response.status < 400:
        raise UrlNotAllowed(f"{host} redirects to another address; redirects are not followed.")
    if response.status != 200:
        raise UrlUnreachable(f"{host} answered {response.status}.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UrlUnreachable(f"{host} sent a compressed body; sounds are read as they are.")
    if (response.length or 0) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    while chunk := response.read(min(_CHUNK, max_bytes + 1 - len(body))):
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    if response.length:
        raise UrlUnreachable(f"The connection to {host} ended {response.length:,} bytes before the end of the sound.")
    return bytes(body)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The sound at the address is larger than the accepted {max_bytes:,} bytes.")


def _connect(host: str, port: int, seconds: float, encrypted: bool, *, literal: bool) -> HTTPConnection:
    """A connection to one of the addresses of a host. Raises OSError or UrlNotAllowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = [str(each[4][0]) for each in found]
    if not literal and (private := [each for each in addresses if not is_public(ip_address(each.partition("%")[0]))]):
        raise UrlNotAllowed(f"{host} has the address {private[0]}, which is not public.")
    failure: OSError = OSError("it has no address")
    for address in dict.fromkeys(addresses):
        try:
            plain = socket.create_connection((address, port), seconds)
        except OSError as error:
            failure = error
            continue
        connection: HTTPConnection
        if encrypted:
            context = ssl.create_default_context()
            connection = HTTPSConnection(host, port, timeout=seconds, context=context)
            connection.sock = context.wrap_socket(plain, server_hostname=host)
        else:
            connection = HTTPConnection(host, port, timeout=seconds)
            connection.sock = plain
        return connection
    raise failure


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public internet, and stands for no other one."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    # Global unicast is 2000::/3; 6to4 and Teredo addresses have an IPv4 address inside.
    unicast = address.packed[0] >> 5 == 1
    return unicast and address.is_global and address.sixtofour is None and address.teredo is None


def _from_s3(request: dict[str, Any]) -> bytes:
    """Keys, region and endpoint are those of botocore's own AWS_* variables."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, seconds, max_bytes = request["host"], request["seconds"], request["max_bytes"]
    config = Config(connect_timeout=seconds, read_timeout=seconds, retries={"total_max_attempts": 2})
    try:
        client = botocore.session.get_session().create_client("s3", config=config)
        found = client.get_object(Bucket=bucket, Key=request["path"])
        if found["ContentLength"] > max_bytes:
            raise _too_large(max_bytes)
        return bytes(found["Body"].read())
    except ClientError as error:
        reason = error.response.get("Error", {}).get("Code", "an error")
        raise UrlUnreachable(f"S3 answered {reason} for the object in {bucket}.") from error
    except BotoCoreError as error:
        raise UrlUnreachable(f"The object in {bucket} cannot be read: {type(error).__name__}.") from error


def _serve(connection: FramedSocket) -> None:
    request = json.loads(connection.receive(2**16))
    memory = _MEMORY + 3 * request["max_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        body = fetch(request)
    except OtoscopeError as error:
        connection.send(json.dumps({"code": error.code, "detail": error.detail}).encode())
    else:
        connection.send(b"{}")
        connection.send(body)


if __name__ == "__main__":
    _serve(FramedSocket(socket.socket(fileno=int(sys.argv[1]))))
