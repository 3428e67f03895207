"""Where commands look for models."""

from pathlib import Path

import pytest

from shared.config.models_dir import models_dir
from tests.conftest import ROOT


def test_the_folder_of_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed one, unless there is one in the working directory, or a variable names another."""
    monkeypatch.delenv("OTOSCOPE_MODELS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert models_dir() == ROOT / "models"
    (tmp_path / "models").mkdir()
    assert models_dir() == Path("models")
    monkeypatch.setenv("OTOSCOPE_MODELS_DIR", str(tmp_path / "others"))
    assert models_dir() == tmp_path / "others"
