"""The parts of a result: everything about them follows from their declaration in otoscope/results.py."""

import subprocess
from pathlib import Path
from typing import get_args

import httpx2
import pytest

from otoscope.exports import FORMATS, media_type
from otoscope.results import PARTS, WARNINGS, Part, PartInfo
from otoscope.types import JobOptions, Verdict
from tests.conftest import PYTHON, ROOT


def table_row(name: str, info: PartInfo) -> str:
    """The row of a part in docs/api.md."""
    of = "each layer" if info.per_layer else info.of
    shape = f"({', '.join(info.axes)})" if info.axes else ""
    return f"| `{name}` | {of} | {shape} | {info.unit} | {info.description} |"


@pytest.mark.parametrize("name", PARTS)
def test_the_documentation_lists_every_part(name: str) -> None:
    """docs/api.md has this row in its table."""
    assert table_row(name, PARTS[name]) in (ROOT / "docs" / "api.md").read_text().splitlines()


def test_the_documentation_lists_options_warnings_verdicts_and_formats() -> None:
    """docs/api.md has a row for each option, warning and format, and names each verdict."""
    text = (ROOT / "docs" / "api.md").read_text()
    lines = text.splitlines()
    assert all(f"| `{code}` | {meaning} |" in lines for code, meaning in WARNINGS.items())
    assert [name for name in JobOptions.model_fields if f"\n| `{name}` | " not in text] == []
    assert [name for name in FORMATS if f"\n| `{name}` | `{media_type(name).partition(';')[0]}` | " not in text] == []
    assert [verdict for verdict in get_args(Verdict) if f"`{verdict}`: " not in text] == []


def test_openapi_lists_every_part(http: httpx2.Client) -> None:
    """In the schema of results, in the description of `include`, and as an image where it is a matrix over time."""
    document = http.get("/openapi.json").json()
    schemas, paths = document["components"]["schemas"], document["paths"]
    assert schemas["ResultJSON"]["properties"].keys() >= set(Part)
    form = paths["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert all(part in form["properties"]["include"]["description"] for part in Part)
    images = {path.removeprefix("/v1/jobs/{job_id}/") for path in paths if path.endswith(".png")}
    assert images == {
        "spectrogram.png", "full_spectrogram.png", "ltsa.png", "cam.png", "maps/{layer}.png", "occlusion.png",
    }  # fmt: skip


NEW_PART = """
import asyncio, io, json, sys, types
from pathlib import Path

source = Path("otoscope/results.py").read_text()
field = 'toy: Array | None = field(default=None, metadata=_part("a toy", "rows", "columns", unit="m", image=True))'
anchor = "    channels: dict[str, Array] = field("
assert anchor in source
import otoscope
results = types.ModuleType("otoscope.results")
sys.modules["otoscope.results"] = results
exec(source.replace(anchor, f"    {field}\\n{anchor}"), results.__dict__)

import numpy as np
from api.main import create_app
from api.rendering.results import JSON, NPZ, render_result
from otoscope.types import JobOptions, ResultJSON
from shared.results import pack_result

assert JobOptions(include=["toy"]).include == (results.Part.TOY,)
assert results.Part.TOY.info.summary == "a toy, (rows, columns) in m"
values = np.array([[1.0, 2.0]], np.float16)
single = ("tiny", [("dog", 1.0)], 1.0, 8_000, [], "single window", 0)
packed = pack_result(results.Result(*single, toy=values, parts=["toy"]))
assert (results.unpack_result(packed).toy == values).all()
text = b"".join(asyncio.run(render_result(packed, JSON)))
assert ResultJSON.model_validate_json(text).toy.values == [[1.0, 2.0]]
with np.load(io.BytesIO(b"".join(asyncio.run(render_result(packed, NPZ))))) as file:
    assert (file["toy"] == values).all() and "toy" not in json.loads(str(file["meta"]))
document = create_app().openapi()
assert "/v1/jobs/{job_id}/toy.png" in document["paths"]
assert "a toy" in str(document["components"]["schemas"]["ResultJSON"]["properties"]["toy"])
"""


def test_a_new_part_is_one_declaration(tmp_path: Path) -> None:
    """With one more field in `Result` the gateway accepts, stores, renders and documents the part."""
    script = tmp_path / "new_part.py"
    script.write_text(NEW_PART)
    command = [PYTHON, "-c", "import sys; exec(open(sys.argv[1]).read())", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
