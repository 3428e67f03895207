"""Archives with symbolic links; other paths that leave the folder are in test_download.py."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from training.data.download import DatasetError, _unpack

TOP = "ESC-50-master"


@pytest.mark.parametrize("name", ["audio/1-0-A-0.wav", "meta/esc50.csv", "meta", "elsewhere"])
@pytest.mark.parametrize("target", ["../../../evil", "/etc/passwd", "esc50.csv"])
def test_archive_with_a_symlink_is_rejected(name: str, target: str, tmp_path: Path) -> None:
    """Wherever the link is and points to: nothing is unpacked."""
    link = zipfile.ZipInfo(f"{TOP}/{name}")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{TOP}/README.md", "sounds")
        archive.writestr(link, target)
    (tmp_path / "a.zip").write_bytes(packed.getvalue())
    with pytest.raises(DatasetError, match=f"contains a symbolic link: '{TOP}/{name}'"):
        _unpack(tmp_path / "a.zip", tmp_path / "unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
