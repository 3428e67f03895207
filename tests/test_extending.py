"""docs/extending.md is true: each recipe is applied to a copy of the code, checked by ruff, and run in a process."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import PYTHON, ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
COPIED = ("api", "otoscope", "shared", "worker", "docs/operations.md", "pyproject.toml")


@dataclass(frozen=True)
class Block:
    """A fenced block of a recipe: a new file, or changes of an existing one."""

    path: str
    kind: str  # "python" for a new file, "diff"
    text: str


def recipes() -> dict[str, list[Block]]:
    """The blocks of each section of the page."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^(?:New file|In) `([^`]+)`:\n\n```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        found[section.partition("\n")[0]] = [Block(*block) for block in blocks]
    return found


RECIPES = recipes()


def apply(block: Block, root: Path) -> None:
    """Each part of a diff, up to a line `@@`, has to fit the file in exactly one place."""
    file = root / block.path
    if block.kind != "diff":
        assert not file.exists(), f"{block.path} is there already"
        file.write_text(block.text)
        return
    text = file.read_text()
    for part in re.split(r"^@@\n", block.text, flags=re.MULTILINE):
        lines = part.splitlines(keepends=True)
        before, after = (
            "".join(line[1:] for line in lines if line[0] != added_or_removed) for added_or_removed in ("+", "-")
        )
        assert f"\n{text}".count(f"\n{before}") == 1, f"{block.path} has not exactly one place like this:\n{before}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    file.write_text(text)


CLASSIFY = """
import asyncio, io, json, time, types, wave
from pathlib import Path
import numpy as np, torch
from api.rendering.results import JSON, render_result
from otoscope.types import JobOptions, Timings
from shared.jobs.records import ClaimedJob
from shared.results import pack_result
from worker.decode.pool import DecoderPool
from worker.fetch.fetcher import Fetcher
from worker.inference.batcher import Batcher
from worker.inference.engine import Engine
from worker.model.checkpoint import load_model
from worker.pipeline.classify import Classifier
from worker.pipeline.inflight import InFlightJob
from worker.telemetry.metrics import WorkerMetrics

def classify(samples, **options):
    engine, metrics = Engine(torch.device("cpu"), "torch"), WorkerMetrics(torch.device("cpu"))
    loaded = engine.load(load_model(Path(MODEL)))
    batcher = Batcher(engine.run, size=4, window=0)
    batcher.start()
    registry = types.SimpleNamespace(get=lambda name: loaded)
    decoder = DecoderPool(1, 30.0, 60.0)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(16_000)
        sound.writeframes((samples * 32_767).astype("<i2").tobytes())
    job = ClaimedJob("a", "esc50-light", JobOptions(**options), 0.0, 60.0, file.getvalue())
    classifier = Classifier(registry, decoder, batcher, metrics, 4, Fetcher((), 2**20, 10))
    result = classifier.classify(job, InFlightJob("a", time.monotonic() + 60), Timings())
    batcher.stop()
    decoder.close()
    return json.loads(b"".join(asyncio.run(render_result(pack_result(result), JSON)))), metrics.registry
""".replace("MODEL", repr(str(ROOT / "models" / "esc50-light")))

CHECKS = {
    "A new audio container": """
        import io, numpy as np, soundfile
        from shared.audio.decode import decode, is_plain
        from shared.audio.probe import probe
        from shared.audio.limits import AudioLimits
        from otoscope.errors import AudioUnsupported

        sound = 0.5 * np.sin(np.linspace(0, 900, 16_000)).astype(np.float32)
        for subtype, tolerance in {"PCM_16": 1e-4, "PCM_32": 1e-6, "FLOAT": 0, "ULAW": 0.02, "ALAW": 0.02}.items():
            for endian in ("BIG", "LITTLE"):
                made = io.BytesIO()
                soundfile.write(made, sound, 16_000, format="IRCAM", subtype=subtype, endian=endian)
                file = made.getvalue()
                header = probe(file)
                assert (header.container, header.rate, header.channels, header.frames) == ("IRCAM", 16_000, 1, 16_000)
                assert abs(decode(file, 16_000).waveform - sound).max() <= tolerance, subtype
                assert is_plain(file, 16_000) and decode(b"stray" + file[:-200], 16_000).seconds > 0.98
        assert "IRCAM" in AudioLimits().formats
        try:
            probe(file[:12] + bytes(4) + file[16:])
        except AudioUnsupported as error:
            assert "0x0" in error.detail
        else:
            raise AssertionError("an unknown encoding is accepted")
    """,
    "A new include= part": """
        sound = np.zeros(16_000, np.float32)
        sound[8_000::2], sound[8_001::2] = 0.5, -0.5
        result, _ = classify(sound, include=["levels"])
        levels = np.array(result["levels"]["values"])
        assert levels.ndim == 1 and 40 <= len(levels) <= 50
        assert levels[:20].max() < -60 and abs(levels[-20:] - 20 * np.log10(0.5)).max() < 0.1
        assert "levels" not in classify(sound)[0]
        from otoscope.results import Part
        assert Part.LEVELS.info.summary.endswith("(frames) in dBFS")
    """,
    "A new worker metric": """
        result, registry = classify(np.zeros(12 * 16_000, np.float32), include=["windows"])
        assert registry.get_sample_value("otoscope_worker_windows_total") == len(result["windows"]) > 1
    """,
    "A new network architecture": """
        import tempfile, torch
        from pathlib import Path
        from otoscope.types import Part
        from training.recipe import load_recipe
        from worker.inference.engine import Engine, Window
        from worker.model.architectures import build_network
        from worker.model.checkpoint import ModelConfig, load_model, save_model
        from worker.model.frontend import FrontendConfig

        folder = Path(tempfile.mkdtemp())
        recipe = folder / "recipe.yaml"
        recipe.write_text("name: mine\\nnetwork: {type: tiny, width: 64}\\n")
        config = load_recipe(str(recipe)).network.with_classes(3)
        assert (config.type, config.width) == ("tiny", 64)
        network = build_network(config)
        description = ModelConfig(name="m", architecture=config, frontend=FrontendConfig(), classes=("a", "b", "c"))
        save_model(folder / "m", network, description)
        engine = Engine(torch.device("cpu"), "torch")
        loaded = engine.load(load_model(folder / "m"))
        assert [layer.name for layer in loaded.card.layers] == ["conv1", "conv2"]
        assert loaded.card.layers[1].receptive_field.stride == 8
        samples = torch.randn(loaded.model.config.frontend.window_samples).numpy()
        (output,) = engine.run(loaded, [Window(samples, frozenset({Part.MAPS, Part.EMBEDDING, Part.CAM}), "conv1", 0)])
        assert output.embedding.shape == (64,) and output.maps.keys() == {"conv1", "conv2"}
        assert output.cam.shape == output.maps["conv2"].shape and output.channels["conv1"].shape[0] == 64
    """,
    "A new error code": """
        from struct import pack
        from api.http.problems import STATUS, problem
        from otoscope.errors import BY_CODE, AudioProtected
        from shared.audio.probe import probe

        def box(name, *content):
            return pack(">I4s", 8 + sum(map(len, content)), name) + b"".join(content)

        entry = bytes(12) + pack(">4s16xH6xH", b"drms", 2, 44_100)
        media = box(b"mdia", box(b"hdlr", bytes(8) + b"soun"), box(b"mdhd", bytes(12) + pack(">II", 44_100, 441_000)),
                    box(b"minf", box(b"stbl", box(b"stsd", entry))))
        file = box(b"ftyp", b"M4A ") + box(b"moov", box(b"trak", media))
        try:
            probe(file)
        except AudioProtected as error:
            assert problem(error)["status"] == 422
            assert problem(error)["code"] == "audio_protected"
        else:
            raise AssertionError("a protected file is accepted")
        assert BY_CODE["audio_protected"] is AudioProtected and STATUS.keys() == BY_CODE.keys()
    """,
}


def test_every_recipe_is_checked() -> None:
    assert RECIPES.keys() == CHECKS.keys()
    assert all(RECIPES.values())


@pytest.mark.parametrize("name", CHECKS)
def test_a_recipe_works(name: str, tmp_path: Path) -> None:
    """Its blocks fit the code as it is, and the extension does what the recipe says."""
    for path in COPIED:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(
                ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__", "sounds", "build")
            )
        else:
            shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    for block in RECIPES[name]:
        apply(block, tmp_path)
    changed = [block.path for block in RECIPES[name] if block.path.endswith(".py")]
    ruff = subprocess.run([PYTHON, "-m", "ruff", "check", "--no-cache", *changed], cwd=tmp_path, capture_output=True)
    assert ruff.returncode == 0, ruff.stdout.decode()
    own = "import os, shared\nassert shared.__file__.startswith(os.getcwd())\n"
    check = "\n".join(line.removeprefix(" " * 8) for line in CHECKS[name].splitlines())
    done = subprocess.run(
        [PYTHON, "-c", own + (CLASSIFY if "classify(" in check else "") + check],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_files_that_recipes_name_exist() -> None:
    """Besides those that a recipe creates."""
    new = {block.path for blocks in RECIPES.values() for block in blocks if block.kind != "diff"}
    named = set(re.findall(r"`((?:api|docs|ops|otoscope|shared|tests|training|worker)/[\w./]+)`", PAGE)) - new
    assert len(named) > 15
    assert not [path for path in named if not (ROOT / path).exists()]
    for target, anchor in re.findall(r"\]\(([\w.]+\.md)?#([\w-]+)\)", PAGE):
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / target).read_text() if target else PAGE, re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{target}#{anchor}"
