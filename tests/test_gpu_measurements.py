"""bench/gpu.py runs once, on a machine that is at hand for minutes: what fails there must not take the rest with it."""

import json
import subprocess
import sys
from pathlib import Path

from bench.gpu import read_rows, table
from bench.lib.bundle import without_unused
from tests.conftest import ROOT


def test_a_part_that_fails_ends_no_other(tmp_path: Path) -> None:
    """Each is in the report with the reason in its log, and the exit status says it."""
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--device", "nowhere", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--only", "engine", "epochs"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert [ended["ended"].partition(" after")[0] for ended in parts.values()] == [
        "failed with status 1", "needs --data, a folder in the layout of ESC-50",
    ]  # fmt: skip
    assert "device type" in (tmp_path / "engine.log").read_text()
    assert "### engine: failed" in (tmp_path / "report.md").read_text()


def test_rows_of_a_part_that_was_stopped_are_kept(tmp_path: Path) -> None:
    """A line that was not written to its end is left out; the table has the columns of all others."""
    file = tmp_path / "part.jsonl"
    file.write_text('{"batch": 1, "per_second": 10}\n{"batch": 8, "error": "a|b\\nc"}\n{"batch": 32, "per')
    assert table(read_rows(file)).splitlines() == [
        "| batch | per_second | error |", "|---|---|---|", "| 1 | 10 |  |", "| 8 |  | a/b c |",
    ]  # fmt: skip
    assert table(read_rows(tmp_path / "missing.jsonl")) == ""


def test_a_bundle_has_the_locked_packages_but_those_of_torch() -> None:
    """With their hashes, which pip checks."""
    numpy = "numpy==2.4.6 \\\n    --hash=sha256:bb\n    # via torch\n"
    lock = f"# by `make lock`\nav==18.1.0 \\\n    --hash=sha256:aa\n{numpy}sympy==1.14.0\n"
    assert without_unused(lock) == f"# by `make lock`\n{numpy}"
