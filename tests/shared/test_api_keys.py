"""API keys and the keys file: what is stored, what is refused, and that no secret is stored."""

import stat
from pathlib import Path

import pytest

from shared.api_keys import KeyFileError, Scope, new_key, read_keys, split_key, write_keys
from shared.config.settings import Settings

LINE = '{"id": "12345678", "name": "a", "sha256": "DIGEST", "scopes": [SCOPES], "created_at": "2026-01-01T00:00Z"}'
LINE = LINE.replace("DIGEST", "0" * 64)


def test_a_key_is_stored_without_its_secret(tmp_path: Path) -> None:
    """A written key can be read back and verified with its secret, which is not in the file; only the owner reads
    it."""
    path = tmp_path / "new" / "keys"
    key, text = new_key("phone", [Scope.SUBMIT, Scope.READ], rate_per_minute=60)
    write_keys(path, [key])
    found = read_keys(path)[key.id]
    parts = split_key(text)
    assert found == key
    assert parts is not None
    assert parts[0] == key.id
    assert found.verify(parts[1])
    assert not found.verify(parts[1][:-1] + ("0" if parts[1][-1] != "0" else "1"))
    assert parts[1] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["keys"], "no temporary file remains"


def test_keys_are_random() -> None:
    """No two are equal; a secret has 256 bits."""
    texts = {new_key("a", [Scope.READ])[1] for _ in range(100)}
    assert len(texts) == 100
    assert all(len(text.rpartition("_")[2]) == 64 for text in texts)


@pytest.mark.parametrize("text", ["", "oto_", f"oto_12345678_{'0' * 63}", f"OTO_12345678_{'0' * 64}", "oto_é_0"])
def test_text_of_another_format_is_no_key(text: str) -> None:
    """Anything but the exact format is rejected."""
    assert split_key(text) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no json", "line 2"),
        ('{"id": "12345678"}', "line 2: name"),
        ("GOOD", "twice"),
        (LINE.replace("SCOPES", '"root"'), "line 2: scopes"),
        (LINE.replace("SCOPES", ""), "line 2: scopes"),
    ],
)
def test_the_error_names_the_broken_line(tmp_path: Path, line: str, why: str) -> None:
    """The message gives the line and its fault, and never quotes the line."""
    path = tmp_path / "keys"
    write_keys(path, [new_key("a", [Scope.READ])[0]])
    good = path.read_text()
    path.write_text(good + (good if line == "GOOD" else line))
    with pytest.raises(KeyFileError, match=why) as caught:
        read_keys(path)
    assert "0" * 64 not in str(caught.value)


def test_a_file_writable_by_others_is_refused(tmp_path: Path) -> None:
    """Whoever can write the file can add a key."""
    path = tmp_path / "keys"
    write_keys(path, [])
    path.chmod(0o620)
    with pytest.raises(KeyFileError, match="writable by other users"):
        read_keys(path)


@pytest.mark.parametrize("path", ["", "none"])
def test_a_missing_file_is_an_error(tmp_path: Path, path: str) -> None:
    """An empty variable and a missing file are errors, and do not disable authentication."""
    settings = Settings.model_validate({"keys_file": tmp_path / path})
    assert settings.keys_file is not None
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_keys(settings.keys_file)
