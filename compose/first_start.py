"""Generates the secrets that compose's services share: `python -m compose.first_start` in the service `secrets`.

Each service has a volume of its own, mounted read-only as /run/secrets, with the secrets that it needs and no others:

    redis/password, redis/redis.conf        the password that Redis requires
    api/otoscope_redis_url, api/keys        the gateway's Redis URL; API keys, used if OTOSCOPE_KEYS_FILE names the file
    worker/otoscope_redis_url               the worker's Redis URL
    prometheus/prometheus_key               an API key with `admin`: the gateway's /metrics needs one
    grafana/grafana_admin_password

Existing secrets are kept, so that a second run changes nothing; files that are derived from a secret are written again.
`python -m compose.first_start set redis` (or `grafana`) reads a password of your own from standard input.

Files are readable for all users within their volume: access is controlled by mounting the volume, and each service runs
as a user of its own. Only the keys file is readable for its owner alone, the gateway's user: the gateway requires that.
"""

import os
import secrets
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from shared.api_keys import Scope, new_key, read_keys, split_key, write_keys

MADE = Path("/made")
PASSWORDS = {"redis": Path("redis/password"), "grafana": Path("grafana/grafana_admin_password")}


def write(path: Path, text: str) -> None:
    """Atomically, so that no reader gets an incomplete file."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.chmod(name, 0o444)
    os.replace(name, path)


def password(path: Path) -> str:
    """The existing password, or a new one of 256 random bits."""
    if not path.exists():
        write(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def make(made: Path) -> None:
    """Generate every missing secret. Raises OSError, and ValueError for a broken keys file."""
    redis = password(made / PASSWORDS["redis"])
    quoted = redis.replace("\\", "\\\\").replace('"', '\\"')
    write(made / "redis" / "redis.conf", f'requirepass "{quoted}"\n')
    for side in ("api", "worker"):
        write(made / side / "otoscope_redis_url", f"redis://:{quote(redis, safe='')}@redis:6379/0")
    password(made / PASSWORDS["grafana"])
    key_for_prometheus(made / "api" / "keys", made / "prometheus" / "prometheus_key")


def key_for_prometheus(keys: Path, text: Path) -> None:
    """A key for Prometheus that is in the keys file; a new one unless `text` has one."""
    known = read_keys(keys) if keys.exists() else {}
    parts = split_key(text.read_text().strip()) if text.exists() else None
    if parts is None or parts[0] not in known:
        key, secret = new_key("prometheus", [Scope.ADMIN])
        write_keys(keys, [*known.values(), key])
        write(text, secret)


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 1 with an error message."""
    try:
        if arguments:
            command, name = arguments
            if command != "set" or name not in PASSWORDS:
                raise ValueError(f"usage: python -m compose.first_start [set {{{','.join(PASSWORDS)}}} < FILE]")
            given = sys.stdin.read().strip()
            if len(given.splitlines()) != 1 or not given.isprintable():
                raise ValueError("a password is one line of text")
            write(MADE / PASSWORDS[name], given)
        make(MADE)
    except (OSError, ValueError) as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    raise SystemExit(main(sys.argv[1:]))
