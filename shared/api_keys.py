"""API keys: their format, and the file of valid keys. Used by the gateway and by `otoscope keys`.

The file is JSON lines, one key per line, so that a person can delete a key with an editor and a program can append one:

    {"id": "1f0c…", "name": "phone", "sha256": "9b7e…", "scopes": ["submit", "read"], "rate_per_minute": 60, …}
"""

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Scope(StrEnum):
    """What a key permits."""

    SUBMIT = "submit"  # submit and cancel jobs
    READ = "read"  # read jobs and results, models, limits
    ADMIN = "admin"  # everything: jobs of every caller, metrics


_FORMAT = re.compile(r"oto_([0-9a-f]{8})_([0-9a-f]{64})", re.ASCII)


class KeyFileError(ValueError):
    """The keys file cannot be used. The message gives the reason and quotes nothing of the file's contents."""


class Key(BaseModel):
    """A key as it is stored: everything but its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{8}$")
    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of the secret. A password would need a slow hash; 256 random bits cannot be guessed, and a fast hash is
    cheap enough for every request."""
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    rate_per_minute: float | None = Field(None, gt=0)
    """Rate limit of submissions; None is unlimited."""
    created_at: datetime

    def verify(self, secret: str) -> bool:
        """Whether this is the key's secret, compared in constant time."""
        return hmac.compare_digest(self.sha256, _digest(secret))


def new_key(name: str, scopes: Iterable[Scope], rate_per_minute: float | None = None) -> tuple[Key, str]:
    """(key to store, text of the key, which its owner alone gets)."""
    key_id, secret = secrets.token_hex(4), secrets.token_hex(32)
    created = datetime.now(UTC).replace(microsecond=0)
    key = Key(
        id=key_id, name=name, sha256=_digest(secret), scopes=frozenset(scopes), rate_per_minute=rate_per_minute,
        created_at=created,
    )  # fmt: skip
    return key, f"oto_{key_id}_{secret}"


def split_key(text: str) -> tuple[str, str] | None:
    """(id, secret) of a key's text; None for text of any other format."""
    found = _FORMAT.fullmatch(text)
    return (found[1], found[2]) if found else None


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file by id. Raises KeyFileError."""
    try:
        # Whoever can write the file can add keys. Reading it gives names, and hashes that cannot be inverted.
        if path.stat().st_mode & 0o022:
            raise KeyFileError(f"the keys file {path} is writable by other users; run chmod 600 on it")
        lines = path.read_text().splitlines()
    except OSError as error:
        raise KeyFileError(f"the keys file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"the keys file {path} is not text") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key = Key.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise KeyFileError(f"the keys file {path}, line {number}: {where or 'key'}: {first['msg']}") from None
        if key.id in keys:
            raise KeyFileError(f"the keys file {path}, line {number}: the id {key.id} occurs twice")
        keys[key.id] = key
    return keys


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Replace the file atomically, so that a gateway never reads half of it; only its owner can read it (mode 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{key.model_dump_json(exclude_none=True)}\n" for key in keys)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
