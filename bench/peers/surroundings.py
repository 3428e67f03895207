"""What the peers run in: a virtual environment of their own, and a network that nobody else is on."""

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
    """Install what is missing while there is a network, then leave it; whether that was permitted.

    Leaving it starts this command again, so that this is its first deed.
    """
    if ISOLATED in os.environ:
        return True
    _install(peers)
    _isolate()
    return False


def _install(peers: Sequence[str]) -> None:
    """Make the environment where there is none yet, and install those of `peers` that are missing from it.

    It sees this environment's packages too, so that PyTorch is not fetched again and is the same. A peer that cannot be
    installed will not start either; pip's words on stderr say why.
    """
    if not SITE.is_dir():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        (VENV / ".gitignore").write_text("*\n")  # as venv does itself from Python 3.13 on; ruff goes by it too
        own = sysconfig.get_path("purelib")
        (SITE / "otoscope.pth").write_text(f"import site; site.addsitedir({own!r})\n")
    for requirement in _requirements():
        if requirement.name in peers and not requirement.specifier.contains(version(requirement.name) or "0"):
            print(f"Installing {requirement} into {VENV.name}", file=sys.stderr)
            subprocess.run([PYTHON, "-m", "pip", "install", "-qq", str(requirement)], stdout=sys.stderr)


def version(peer: str) -> str | None:
    """Of the package of that name, as the peers see it."""
    for found in distributions(name=peer, path=[str(SITE)]):
        return found.version
    with suppress(PackageNotFoundError):
        return distribution(peer).version
    return None


def _isolate() -> None:
    """Start this command again in a network namespace with nothing but loopback; returns where none is permitted.

    Some of what the peers bring along listens on every interface.
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
