"""A network compiled by OpenVINO: the outputs of PyTorch, within the rounding of the arithmetic, in any thread."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope.types import Part
from shared.config.settings import Settings
from tests.conftest import ROOT
from tests.support.worker_harness import SHORT, WorkerHarness
from tests.worker.test_engine import TOLERANCE, close, run_all, sounds
from worker.decode.pool import DecoderPool
from worker.inference.engine import Engine, LoadedModel, Window, read_model
from worker.inference.openvino import OpenVINOBackend
from worker.inference.registry import Registry
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import Model, ModelError
from worker.model.fake_quant import convolutions, quantised
from worker.model.frontend import LogMel

pytest.importorskip("openvino")

CPU = torch.device("cpu")
ARRAYS = frozenset({Part.MAPS, Part.SPECTROGRAM, Part.EMBEDDING, Part.CAM})
KINDS = [
    {"depths": (1, 1), "widths": (8, 16)},
    {"squeeze_excitation": True, "depths": (1, 1), "widths": (16, 32)},
    {"feature_pyramid": True, "pyramid_width": 8, "depths": (1, 1), "widths": (8, 16)},
    {"stem": False, "block": "plain", "depths": (1, 1, 1), "widths": (8, 16, 16)},
    {"type": "mobilenet-v1", "width": 0.25, "patch_frames": 32, "patch_hop": 16},
    {"type": "cnn14", "width": 4, "mels": 32},
    {"type": "cnn9", "width": 4, "mels": 32},
    {
        "type": "parallel",
        "parts": {"a": {"type": "cnn9", "width": 4, "mels": 32}, "b": {"widths": (8,), "depths": (1,)}},
    },
    {"type": "mobilenet-v3", "width": 0.25},
    {"type": "mobilenet-v2", "width": 0.25, "mels": 32},
]


@pytest.fixture(scope="module")
def tiny(tiny_models: Path) -> Model:
    return read_model(tiny_models / "tiny")


def of_kind(tiny: Model, **options: object) -> Model:
    """The tiny model with another network."""
    torch.manual_seed(0)
    config = parse({"type": "resnet", "classes": 5, "dropout": (0.0,), **options})
    network = build_network(config).eval().requires_grad_(False)
    return replace(tiny, network=network, config=tiny.config.model_copy(update={"architecture": config}))


def load(model: Model, choice: str, **options: object) -> tuple[Engine, LoadedModel]:
    engine = Engine(CPU, choice, cores=2, **options)  # type: ignore[arg-type]
    return engine, engine.load(model)


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_outputs_equal_those_of_pytorch(tiny: Model, options: dict[str, object]) -> None:
    """For every kind of network, in batches whose rows request nothing, some parts and all parts."""
    model = of_kind(tiny, **options)
    deep = str(options.get("type")).startswith(("mobilenet-v2", "mobilenet-v3"))
    tolerance = TOLERANCE * (2 if deep else 1)  # 50 layers of bfloat16, one after the other
    requested = [frozenset(), ARRAYS, {Part.MAPS}, {Part.CAM}, frozenset()]
    windows = [Window(sound, frozenset(parts)) for sound, parts in zip(sounds(5), requested, strict=True)]
    reference, answers = (run_all(*load(model, choice), windows) for choice in ("torch", "openvino"))
    for there, here, window in zip(reference, answers, windows, strict=True):
        close(here.probabilities, there.probabilities, tolerance)
        assert list(here.maps) == list(there.maps)
        for layer, values in there.maps.items():
            close(here.maps[layer], values, tolerance)
        assert (here.cam is not None) == (Part.CAM in window.parts)
        for name in ("embedding", "spectrogram"):
            if getattr(there, name) is not None:
                close(getattr(here, name), getattr(there, name), tolerance)
        if there.cam is not None and here.cam is not None:
            assert np.abs(there.cam - here.cam).mean() < 0.05  # a ratio of small differences, so it is rounded most


@pytest.mark.slow
def test_networks_with_spectrograms_of_their_own_run_side_by_side(tiny: Model) -> None:
    """The shown one is the first; a muted tile is muted in both."""
    first = tiny.config.frontend
    other = first.model_copy(update={"n_mels": 16, "hop": 2 * first.hop, "floor_db": -40.0})
    rows = {"a": {"first": 0, "count": first.n_mels}, "b": {"first": first.n_mels, "count": 16, "every": 2}}
    parts = {name: {"type": "resnet", "widths": (8,), "depths": (1,)} for name in rows}
    model = of_kind(tiny, type="parallel", parts=parts, spectrograms=rows)
    frontend = first.model_copy(update={"stacked": (other,)})
    model = replace(
        model, config=model.config.model_copy(update={"frontend": frontend}), frontend=LogMel(frontend).eval()
    )
    sound = sounds(1)[0]
    windows = [Window(sound, ARRAYS), Window(sound, ARRAYS, muted=0), Window(np.zeros_like(sound), ARRAYS)]
    reference, answers = (run_all(*load(model, choice), windows) for choice in ("torch", "openvino"))
    for there, here in zip(reference, answers, strict=True):
        close(here.probabilities, there.probabilities)
        for layer, values in there.maps.items():
            close(here.maps[layer], values)
    whole, muted, silent = answers
    assert whole.spectrogram is not None
    assert len(whole.spectrogram) == first.n_mels
    own, without, silence = (output.maps["b.spectrogram"] for output in (whole, muted, silent))
    assert own.shape == (16, (first.window_frames + 1) // 2)
    changed = own != without
    assert changed[0, 0]
    assert not changed[3:].any()  # of sixteen mels, the lowest of six rows of tiles has three
    assert (without[changed] == silence[changed]).all()


@pytest.mark.slow
def test_all_channels_of_a_layer_can_be_requested(tiny: Model) -> None:
    """PyTorch computes them, for the whole batch, other rows included."""
    windows = [Window(sounds(1)[0], frozenset({Part.MAPS}), "layer1"), Window(sounds(2)[1])]
    reference, answers = (run_all(*load(tiny, choice), windows) for choice in ("torch", "openvino"))
    assert list(answers[0].channels) == list(reference[0].channels) != []
    close(answers[0].channels["layer1"], reference[0].channels["layer1"])
    assert not answers[1].channels


@pytest.mark.slow
def test_threads_do_not_disturb_each_other(tiny: Model) -> None:
    """Each gets the outputs of its own batch, alone on the machine or not."""
    engine, loaded = load(tiny, "openvino")
    inputs = sounds(6)
    expected = [run_all(engine, loaded, [Window(sound)])[0].probabilities for sound in inputs]

    def work(turn: int) -> None:
        for step in range(20):
            at = (turn + step) % len(inputs)
            batch = [Window(inputs[at], ARRAYS if step % 3 == 0 else frozenset()), Window(inputs[0])]
            first, second = run_all(engine, loaded, batch)
            close(first.probabilities, expected[at])
            close(second.probabilities, expected[0])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(4)))


def test_the_weights_of_a_model_that_is_replaced_are_freed(tiny: Model) -> None:
    """Whether as parameters of the network or as constants that were made of them."""
    load(of_kind(tiny, depths=(1, 1), widths=(8, 23)), "openvino")
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    assert [list(tensor.shape) for tensor in tensors if tensor.ndim == 4 and len(tensor) == 23] == []


def test_a_cpu_uses_openvino_if_it_is_installed(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And PyTorch if it is not, unless OpenVINO is configured explicitly."""
    assert load(tiny, "auto")[1].backend.name.startswith("openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert load(tiny, "auto")[1].backend.name.startswith("torch")
    with pytest.raises(ModelError, match=r"pip install -e '.\[openvino\]'"):
        load(tiny, "openvino")


@pytest.mark.parametrize(
    "options",
    [
        {"depths": (2, 2), "widths": (16, 32)},
        pytest.param({"type": "cnn14", "width": 16, "mels": 32}, marks=pytest.mark.slow),
        pytest.param({"type": "mobilenet-v3", "width": 0.5}, marks=pytest.mark.long),
        pytest.param({"type": "mobilenet-v2", "width": 0.5, "mels": 32}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_8_bit_outputs_differ_little(tiny: Model, options: dict[str, object]) -> None:
    """Only a model with measured ranges runs in 8 bits."""
    model = of_kind(tiny, **options)
    # In 17 blocks of random weights the rounding adds up.
    tolerance = 0.15 if options.get("type") == "mobilenet-v2" else 0.05
    inputs = sounds(8)
    (engine, plain), windows = load(model, "openvino", int8=True), [Window(sound) for sound in inputs]
    assert "int8" not in plain.backend.name
    with torch.no_grad():
        features = model.frontend(torch.from_numpy(np.stack(inputs)))
    measured = {name: measure(model, name, features) for name, _ in convolutions(model.network)}
    model = replace(model, config=model.config.model_copy(update={"int8_ranges": measured}))
    eight, small = load(model, "openvino", int8=True)
    assert "int8" in small.backend.name
    assert isinstance(small.backend, OpenVINOBackend)
    integers = [precision for precision in small.backend.precisions if precision in ("u8", "i8")]  # i8 with AMX
    assert len(integers) >= len(measured) - 1, "otherwise it rounds without the speed of integers"
    for exact, rounded in zip(run_all(engine, plain, windows), run_all(eight, small, windows), strict=True):
        assert np.abs(exact.probabilities - rounded.probabilities).max() < tolerance
    with torch.no_grad():
        close(quantised(model.network, measured)(features), model.network(features), tolerance)


def measure(model: Model, name: str, features: torch.Tensor) -> tuple[float, float]:
    """The range of a convolution's input."""
    captured: list[torch.Tensor] = []
    hook = model.network.get_submodule(name).register_forward_pre_hook(
        lambda _module, inputs: captured.append(inputs[0])
    )
    with torch.no_grad():
        model.network(features)
    hook.remove()
    return float(captured[0].min()), float(captured[0].max())


def test_an_occlusion_map_has_one_arithmetic(
    tiny: Model, tiny_models: Path, settings: Settings, decoder: DecoderPool
) -> None:
    """Also with a layer, whose window PyTorch computes: a difference of rounding is no effect of a tile."""
    inputs = torch.from_numpy(np.stack(sounds(8)))
    with torch.no_grad():
        measured = {name: measure(tiny, name, tiny.frontend(inputs)) for name, _ in convolutions(tiny.network)}
    engine, loaded = load(
        replace(tiny, config=tiny.config.model_copy(update={"int8_ranges": measured})), "openvino", int8=True
    )
    registry = Registry(tiny_models, (), lambda _: loaded, describe=lambda _: loaded.card)
    registry.refresh()
    with ExitStack() as stack:
        # One window a batch: on a busy machine others would form, which some processors round to other 8-bit values.
        harness = WorkerHarness(settings.model_copy(update={"batch_size": 1}), engine, registry, decoder, stack)
        options: list[dict[str, str]] = [{}, {"layer": "layer1"}]
        plain, with_layer = (harness.result(SHORT, include=["occlusion"], **more).occlusion for more in options)
    assert plain is not None
    assert with_layer is not None
    np.testing.assert_array_equal(with_layer, plain)


def test_ranges_of_another_network_are_refused(tiny: Model) -> None:
    """They would be applied to the wrong convolutions."""
    with pytest.raises(ValueError, match="other convolutions"):
        quantised(tiny.network, {"stages.7.conv1": (0.0, 1.0)})


def test_no_telemetry_is_sent(tiny_models: Path) -> None:
    """The converter would send an event for each network. In a new process: this one may have imported it already."""
    code = f"""
import sys, multiprocessing
from pathlib import Path
import torch
from worker.inference.engine import Engine, read_model
Engine(torch.device("cpu"), "openvino", cores=1).load(read_model(Path({str(tiny_models / "tiny")!r})))
assert "openvino.tools.ovc.convert_impl" in sys.modules, "adapt this test: the converter is another module now"
print(*sorted(name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module))
print(*multiprocessing.active_children())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
