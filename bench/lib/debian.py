"""Sounds in packages of Debian, which are downloaded and unpacked; nothing is installed."""

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path


def unpacked(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Download packages and unpack each into a folder of its own below `folder`, unless it exists.

    Returns the folders by package. A package that cannot be downloaded is left out, with a message.
    """
    found = {}
    for name in names:
        target = folder / name
        if not target.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as download:
                done = subprocess.run(
                    ["apt-get", "download", "-qq", name], cwd=download, capture_output=True, text=True
                )
                packages = list(Path(download).glob("*.deb"))
                if done.returncode or not packages:
                    print(f"{name} cannot be downloaded: {done.stderr.strip()[:200]}", file=sys.stderr)
                    continue
                subprocess.run(["dpkg-deb", "-x", packages[0], Path(download) / "files"], check=True)
                (Path(download) / "files").rename(target)  # complete, or not there
        found[name] = target
    return found
