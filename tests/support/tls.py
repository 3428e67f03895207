"""A Redis with TLS and certificates for it: the distribution's redis-server, since the embedded one has no TLS."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tests.conftest import free_port
from tests.support.process_tree import until

PASSWORD, ESCAPED = "horse/staple?@#", "horse%2Fstaple%3F%40%23"

needs_tls = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("openssl")),
    reason="needs redis-server with TLS, and openssl (on Debian: apt install redis-server openssl)",
)


class Authority:
    """A certificate authority (CA); `ca` is the file with its certificate."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self.ca, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        own = ["-addext", "basicConstraints=critical,CA:TRUE", "-out", self.ca]
        _openssl("req", "-x509", *_new(self._key, name), *own)

    def sign(self, host: str) -> tuple[Path, Path]:
        """(certificate file, key file) of a host, or of a client."""
        certificate, key = (self._directory / f"{self._name}-{host}.{end}" for end in ("pem", "key"))
        request, names = certificate.with_suffix(".csr"), certificate.with_suffix(".names")
        _openssl("req", *_new(key, host), "-out", request)
        names.write_text(f"subjectAltName=DNS:{host}\nauthorityKeyIdentifier=keyid\n")
        signer = ["-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", names]
        _openssl("x509", "-req", "-in", request, *signer, "-out", certificate)
        return certificate, key


def _new(key: Path, name: str) -> list[str | Path]:
    curve = "ec_paramgen_curve:prime256v1"
    return ["-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", key, "-subj", f"/CN={name}"]


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@contextmanager
def encrypted_server(directory: Path, authority: Authority, *, ask: bool = False) -> Iterator[int]:
    """The port of a server on `localhost` with PASSWORD, TLS only; with `ask` it requires client certificates."""
    certificate, key = authority.sign("localhost")
    port, config = free_port(), directory / "redis.conf"
    config.write_text(
        f'port 0\ntls-port {port}\nbind 127.0.0.1\ndir {directory}\nsave ""\nrequirepass {PASSWORD}\n'
        f"tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority.ca}\n"
        f"tls-auth-clients {'yes' if ask else 'no'}\n"
    )
    config.chmod(0o600)
    with (directory / "redis.log").open("wb") as log:
        server = subprocess.Popen(["redis-server", config], stdout=log, stderr=log)
    own = {"ssl_ca_certs": str(authority.ca), "ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    try:
        with redis.Redis("localhost", port, password=PASSWORD, ssl=True, **own) as client:  # type: ignore[arg-type]

            def answers() -> bool:
                assert server.poll() is None, (directory / "redis.log").read_text()
                with suppress(redis.exceptions.ConnectionError):
                    return bool(client.ping())
                return False

            until(answers)
        yield port
    finally:
        server.terminate()
        server.wait()
