"""The environment of the peers: a virtual environment, and a network namespace of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

VENV = Path(__file__).parents[2] / ".peers-venv"
PYTHON = VENV / "bin" / "python"
SITE = Path(sysconfig.get_path("purelib", vars={"base": str(VENV)}))
ISOLATED = "PEERS_ISOLATED"


def prepare(peers: Sequence[str]) -> bool:
    """Install missing peers, then enter a network namespace; returns whether that was permitted.

    Entering it starts this command again, so this has to be called first.
    """
    if ISOLATED in os.environ:
        return True
    _install(peers)
    _isolate()
    return False


def _install(peers: Sequence[str]) -> None:
    """Create the virtual environment if it does not exist, and install those of `peers` that are missing.

    It also has the packages of this environment, so that PyTorch is the same and is not downloaded again. A peer that
    cannot be installed will not start either; pip's output on stderr has the reason.
    """
    if not SITE.is_dir():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        (VENV / ".gitignore").write_text("*\n")  # as venv does itself from Python 3.13 on; ruff reads it too
        own = sysconfig.get_path("purelib")
        (SITE / "otoscope.pth").write_text(f"import site; site.addsitedir({own!r})\n")
    for requirement in _requirements():
        if requirement.name in peers and not requirement.specifier.contains(version(requirement.name) or "0"):
            print(f"Installing {requirement} into {VENV.name}", file=sys.stderr)
            subprocess.run([PYTHON, "-m", "pip", "install", "-qq", str(requirement)], stdout=sys.stderr)


def version(peer: str) -> str | None:
    """The version of that package in the environment of the peers."""
    for found in distributions(name=peer, path=[str(SITE)]):
        return found.version
    with suppress(PackageNotFoundError):
        return distribution(peer).version
    return None


def _isolate() -> None:
    """Start this command again in a network namespace with loopback only; returns if that is not permitted.

    Some dependencies of the peers listen on every interface.
    """
    if not shutil.which("unshare"):
        return
    for unshare in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0:
            os.environ[ISOLATED] = "1"
            again = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.orig_argv[1:]]
            os.execvp(unshare[0], [*unshare, *again])


def _requirements() -> Iterator[Requirement]:
    for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if wanted := line.partition("#")[0].strip():
            yield Requirement(wanted)
