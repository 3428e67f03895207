"""The Lua scripts as files: what each declares, what it includes, and which Redis commands it needs."""

import re
from pathlib import Path

import pytest

from shared.jobs.records import FIELDS
from shared.redis_client.lua import load_script
from tests.conftest import ROOT

FOLDERS = {"shared.jobs": ROOT / "shared" / "jobs" / "scripts", "worker.queue": ROOT / "worker" / "queue" / "scripts"}
FILES = [path for folder in FOLDERS.values() for path in sorted(folder.glob("*.lua"))]
SCRIPTS = [
    (package, path.stem)
    for package, folder in FOLDERS.items()
    for path in sorted(folder.glob("*.lua"))
    if path.read_text().startswith("#!lua")  # the others are included
]


@pytest.mark.parametrize(("package", "name"), SCRIPTS)
def test_a_script_opens_with_its_keys_arguments_and_reply(package: str, name: str) -> None:
    """In the comment before its first line of code."""
    text = (FOLDERS[package] / f"{name}.lua").read_text()
    header = "\n".join(re.match(r"#!lua.*\n((?:--.*\n)*)", text)[1].splitlines())  # type: ignore[index]
    for part in ("KEYS", "ARGV", "Reply"):
        assert re.search(rf"^-- {part}\b", header, re.MULTILINE), f"{name}.lua does not describe {part}"


@pytest.mark.parametrize(("package", "name"), SCRIPTS)
def test_included_files_are_in_their_places(package: str, name: str) -> None:
    """A loaded script has no include line left, and keeps its own lines."""
    loaded = load_script(package, name)
    assert "--!include" not in loaded
    own = [line for line in (FOLDERS[package] / f"{name}.lua").read_text().splitlines() if "--!include" not in line]
    assert set(own) <= set(loaded.splitlines())


def test_a_missing_script_is_an_error() -> None:
    """Not an empty text that Redis would run."""
    with pytest.raises(FileNotFoundError):
        load_script("shared.jobs", "missing")


def test_a_record_is_read_in_the_order_of_its_fields() -> None:
    """`read.lua` names the fields of a record; Python unpacks them by their place."""
    call = re.search(r"HMGET', job, ([^)]*)\)", load_script("shared.jobs", "read"))
    assert call is not None
    assert tuple(re.findall(r"'(\w+)'", call[1])) == FIELDS


def test_the_documented_rights_allow_every_command_of_the_scripts() -> None:
    """A Redis user with the rights of docs/deployment.md can run all of them, also in cases that are rare."""
    rights = re.search(r"^user otoscope on .*$", Path(ROOT / "docs" / "deployment.md").read_text(), re.MULTILINE)
    assert rights is not None
    allowed = set(re.findall(r"\+([a-z|]+)", rights[0]))
    used = {command.lower() for path in FILES for command in re.findall(r"redis\.call\('(\w+)'", path.read_text())}
    assert used <= allowed, used - allowed
