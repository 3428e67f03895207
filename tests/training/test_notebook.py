"""The notebook in examples/ runs from top to bottom, in a kernel of its own."""

from pathlib import Path

import pytest

from tests.conftest import ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # of the packages
def test_own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network, loss, optimizer and augmentation train a model that recognises the sounds; it is stored without
    outputs, which would go out of date."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "own_parts.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    )
    assert "bands for 3 classes of sound, trained from scratch on sounds" in printed
    share = next(line for line in printed.splitlines() if line.endswith("test windows"))
    assert int(share.partition("%")[0]) > 80, printed
    (model,) = tmp_path.glob("otoscope-notebook-*/model")
    recipe = (model / "recipe.yaml").read_text()
    for name in ("focal", "rmsprop", "polarity", "bands"):
        assert name in recipe
