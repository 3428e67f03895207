"""`otoscope keys`: creates, lists and revokes API keys, and prints a secret once."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.api_keys import read_keys, split_key

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(*arguments)` with a keys file."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = dict(os.environ, PYTHONPATH=os.getcwd(), COLUMNS="100")
        known |= {"OTOSCOPE_KEYS_FILE": str(tmp_path / "keys")} | environment
        command = [sys.executable, "-m", "otoscope", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=60)

    return start


def test_keys_are_created_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    """The secret is printed once and is in neither the list nor the file; revoking removes one key."""
    created = run("keys", "create", "phone", "--scope", "submit", "--scope", "read", "--rate", "60")
    text = created.stdout.strip()
    assert (created.returncode, created.stderr) == (0, "")
    parts = split_key(text)
    assert parts is not None
    key_id, secret = parts
    run("keys", "create", "me", "--scope", "admin")
    listed = run("keys", "list").stdout
    assert re.search(rf"^{key_id} +phone +submit, read +60 +\d{{4}}-", listed, re.MULTILINE)
    assert "admin" in listed
    path = tmp_path / "keys"
    assert secret not in listed + path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path)[key_id].verify(secret)
    assert run("keys", "revoke", key_id).returncode == 0
    assert [key.name for key in read_keys(path).values()] == ["me"]
    again = run("keys", "revoke", key_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert key_id in again.stderr


def test_a_broken_file_is_not_written_over(run: Run, tmp_path: Path) -> None:
    """The error is one line with the position; the file is left as it is."""
    (tmp_path / "keys").write_text("nonsense")
    done = run("keys", "create", "a", "--scope", "read")
    assert (done.returncode, done.stdout) == (1, "")
    assert "line 1" in done.stderr
    assert (tmp_path / "keys").read_text() == "nonsense"
