"""Which package may import which other, and other rules that hold for the whole source tree."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PYTHON, ROOT
from tests.support import markers
from tests.support.doc_links import broken_links
from tests.support.text_files import faults

ROOMS = ("api", "worker", "shared", "training", "otoscope", "commands")

FORBIDDEN = {
    "api": {
        *("worker", "training", "commands"),
        *("torch", "torchaudio", "soundfile", "soxr", "av", "safetensors", "celery", "kombu"),
    },
    "worker": {"api", "training", "commands", "fastapi", "uvicorn"},
    "shared": {"api", "worker", "training", "commands", "torch", "torchaudio", "fastapi", "celery", "kombu"},
    "training": {"api", "commands"},
    "otoscope": {"api", "worker", "shared", "training", "commands", "bench", "tests"},
    "commands": set(),
}
"""What no file of a room imports, wherever in the file."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def sources(room: str) -> list[Path]:
    """Modules of a room, without what `pip install ./otoscope` leaves in build/."""
    return sorted(path for path in (ROOT / room).rglob("*.py") if "build" not in path.relative_to(ROOT).parts)


def nested(node: ast.AST) -> list[ast.AST]:
    """The statements in a statement: an import is in no expression."""
    blocks = (ast.stmt, ast.excepthandler, ast.match_case)
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, blocks)]


@cache
def statements(path: Path) -> list[ast.AST]:
    """All of them, wherever in the file."""
    found: list[ast.AST] = [parsed(path)]
    for node in found:
        found += nested(node)
    return found


def imports(path: Path, *, outermost: bool = False) -> Iterator[str]:
    """The top-level package of every import of a file; `outermost` leaves out those that importing it does not run."""
    queue: list[ast.AST] = [parsed(path)]
    while queue:
        node = queue.pop()
        if outermost and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if outermost and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield (node.module or "").split(".")[0]
        queue.extend(nested(node))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    """shared <- api; shared <- worker <- training; the gateway imports neither torch nor libsndfile."""
    assert sources(room), f"{room}/ has no modules: this test needs its new name"
    found = {
        f"{path.relative_to(ROOT)} imports {package}"
        for path in sources(room)
        for package in imports(path)
        if package in FORBIDDEN[room]
    }
    assert not found


@pytest.mark.parametrize("room", ["api", "worker", "shared", "training"])
def test_the_application_takes_only_the_public_contract_from_the_client(room: str) -> None:
    """Errors, wire types, results, exports, samples, safe text; the rest of the client needs what servers lack."""
    allowed = {
        *("otoscope.arithmetic", "otoscope.errors", "otoscope.exports", "otoscope.pcm", "otoscope.results"),
        *("otoscope.text", "otoscope.types"),
    }
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(room)
        for node in statements(path)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"otoscope.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom) and node.module == "otoscope"
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.split(".")[0] == "otoscope" and name not in allowed
    }
    assert not found


def test_training_is_imported_by_the_training_commands_alone() -> None:
    """Inside functions only, and by no other room, so that a server needs none of it."""
    found = {
        f"{path.relative_to(ROOT)}"
        for room in ROOMS
        if room != "training"
        for path in sources(room)
        if "training" in imports(path, outermost=room == "commands")
    }
    assert not found


@pytest.mark.parametrize("image", ["api", "worker"])
def test_an_image_has_every_room_that_its_code_imports(image: str) -> None:
    """What a Dockerfile copies imports no package of this project that it does not copy, except inside functions."""
    copied = set(re.findall(r"^COPY (\w+) \1$", (ROOT / f"Dockerfile.{image}").read_text(), re.MULTILINE))
    rooms = copied & set(ROOMS)
    assert image in rooms
    imported = {name for room in rooms for path in sources(room) for name in imports(path, outermost=True)}
    assert imported & set(ROOMS) <= rooms


def test_the_batcher_is_of_the_standard_library_alone() -> None:
    """It can be reused elsewhere, and tested without other modules of the project."""
    assert set(imports(ROOT / "worker" / "inference" / "batcher.py")) <= sys.stdlib_module_names


def test_celery_is_used_in_one_package() -> None:
    """A new version of Celery or kombu can change nothing outside of `worker/queue/`."""
    found = {
        str(path.relative_to(ROOT))
        for path in sources("worker")
        if path.parent != ROOT / "worker" / "queue" and {"celery", "kombu"} & set(imports(path))
    }
    assert not found


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh process has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([PYTHON, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_gateway_is_light() -> None:
    """A fresh process that imports and builds the gateway has loaded neither torch nor native decoders nor Celery."""
    loaded = loaded_by("import api.main\napi.main.create_app()")
    heavy = {"torch", "torchaudio", "soundfile", "soxr", "av", "safetensors", "httpx2", "typer", "celery", "kombu"}
    assert not loaded & {*heavy, "worker", "training"}


def test_the_decode_process_is_light() -> None:
    """The process that reads untrusted files loads nothing of the network, Redis or Celery, and starts quickly."""
    loaded = loaded_by("import worker.decode.child")
    assert not loaded & {"torch", "torchaudio", "redis", "celery", "kombu", "fastapi", "prometheus_client"}


def test_extras_named_in_messages_exist() -> None:
    """With a command that works: Otoscope is on no package index."""
    texts = [path.read_text() for room in ROOMS for path in sources(room)]
    texts += [path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]]
    assert not [line for text in texts for line in re.findall(r".*pip install '?otoscope.*", text)]
    calls = [call for text in texts for call in re.findall(r"\binstall_command\(([\"'].+?)\)|-e '\.\[(\w.*?)\]'", text)]
    named = {name for call in calls for name in re.findall(r"\w+", "".join(call))}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"onnx", "tracing"} <= named <= extras.keys()


def test_nothing_happens_at_import_time() -> None:
    """Importing a room reads no settings, opens no port and starts no thread."""
    check = "import api.main, worker.app, shared.jobs, threading; assert threading.active_count() == 1"
    nonsense = {"OTOSCOPE_REDIS_URL": "nonsense"}
    done = subprocess.run([PYTHON, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60, env=nonsense)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_import_private_names_of_one_another(room: str) -> None:
    """A module or name that begins with an underscore may change without a thought of other rooms."""
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        for path in sources(room)
        for node in statements(path)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
        if (parts := name.split("."))[0] in {*ROOMS} - {room}
        and any(part.startswith("_") and not part.endswith("__") for part in parts)
    }
    assert not found


def test_markers_are_found_by_names_that_exist() -> None:
    """A function that was renamed would leave its tests without their marker."""
    for name in markers.BY_CALL:
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module or name)
        if attribute and module:
            found = getattr(found, attribute)
            assert f"{found.__module__}.{found.__qualname__}" == name


def test_text_files_end_with_one_newline() -> None:
    """And no line ends with spaces, so that a change shows nothing but itself."""
    folders = (*ROOMS, "bench", "compose", "docs", "examples", "kubernetes", "ops", "tests", ".github")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if "build" not in path.parts]
    suffixes = {".py", ".md", ".js", ".css", ".html", ".yml", ".yaml", ".toml", ".lua", ".json", ".conf"}
    assert not list(faults(path for path in [*found, *ROOT.glob("*")] if path.suffix in suffixes))


def test_links_between_documents_lead_somewhere() -> None:
    """Each file that a Markdown file of the repository links to exists, and so does the heading."""
    assert not list(broken_links())
