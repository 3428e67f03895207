"""API keys: what one looks like, and the file that says which are good. For the gateway and `otoscope keys`.

The file is JSON lines, one key a line, so that a person can strike one out with an editor and a program can add one:

    {"id": "1f0c…", "name": "phone", "sha256": "9b7e…", "scopes": ["submit", "read"], "rate": 60, "created_at": "…"}
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
    """What a key is good for."""

    SUBMIT = "submit"  # sounds, and cancelling them
    READ = "read"  # what became of them, models, limits
    ADMIN = "admin"  # everything, everybody's jobs, metrics


_FORM = re.compile(r"oto_([0-9a-f]{8})_([0-9a-f]{64})", re.ASCII)


class KeysUnusable(ValueError):
    """The file of keys cannot be used; the message says why and has nothing of its contents."""


class Key(BaseModel):
    """What is kept of a key: everything but its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{8}$")
    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the secret. A password would need a slow hash against guessing; nobody guesses 256 random bits, and a fast one
    is what every request can afford."""
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    rate: float | None = Field(None, gt=0)
    """Submissions a minute; None is as many as the queue takes."""
    created_at: datetime

    def opens_with(self, secret: str) -> bool:
        """Whether this is its secret, in a time that tells nothing of how nearly."""
        return hmac.compare_digest(self.sha256, _digest(secret))


def new_key(name: str, scopes: Iterable[Scope], rate: float | None = None) -> tuple[Key, str]:
    """A key to keep and, for its owner alone, its text."""
    key_id, secret = secrets.token_hex(4), secrets.token_hex(32)
    created = datetime.now(UTC).replace(microsecond=0)
    key = Key(id=key_id, name=name, sha256=_digest(secret), scopes=frozenset(scopes), rate=rate, created_at=created)
    return key, f"oto_{key_id}_{secret}"


def take_apart(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key's text; None where it is no key."""
    found = _FORM.fullmatch(text)
    return (found[1], found[2]) if found else None


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file by id. Raises KeysUnusable."""
    try:
        # Whoever may write there may let anybody in. Reading it gives names, and hashes that nobody can turn around.
        if path.stat().st_mode & 0o022:
            raise KeysUnusable(f"the keys file {path} may be written by others; chmod 600 it")
        lines = path.read_text().splitlines()
    except OSError as error:
        raise KeysUnusable(f"the keys file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysUnusable(f"the keys file {path} is not text") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key = Key.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise KeysUnusable(f"the keys file {path}, line {number}: {where or 'key'}: {first['msg']}") from None
        if key.id in keys:
            raise KeysUnusable(f"the keys file {path}, line {number}: the id {key.id} is there twice")
        keys[key.id] = key
    return keys


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Replace the file in one step, so that a gateway never reads half of it; for its owner's eyes alone."""
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
