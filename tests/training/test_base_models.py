"""`otoscope models add`: files of other frameworks become model directories with the same scores."""

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from otoscope.cli.main import app
from tests.support.tensor_bundle import write_saved_model
from training.base_models.add import add, downloaded, find_source, given
from training.base_models.audioset import audioset_classes, parents, yamnet_classes
from training.base_models.registry import BASE_MODELS, YAMNET, OfficialFile, base_model
from training.base_models.sources import Affine, fold_batch_norm
from training.base_models.yamnet import CLASSES, FRONTEND, convert
from training.errors import BaseModelError, DownloadError
from worker.model.checkpoint import load_model
from worker.model.frontend import LogMel

# Outputs and stride of the separable convolutions, as https://github.com/tensorflow/models/ has them.
SEPARABLE = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1_024, 2), (1_024, 1)]


def blocks() -> list[tuple[str, tuple[int, ...], int]]:
    """Name, kernel (outputs, inputs, time, frequency) and stride of each convolution."""
    found: list[tuple[str, tuple[int, ...], int]] = [("layer1/conv", (32, 1, 3, 3), 2)]
    inputs = 32
    for number, (outputs, stride) in enumerate(SEPARABLE, start=2):
        found.append((f"layer{number}/depthwise_conv", (inputs, 1, 3, 3), stride))
        found.append((f"layer{number}/pointwise_conv", (outputs, inputs, 1, 1), 1))
        inputs = outputs
    return found


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The state dictionary of the PyTorch port, with random values that keep activations in range."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    values: dict[str, Tensor] = {}
    for name, kernel, _ in blocks():
        own = name.replace("layer1/conv", "layer1/fused").replace("/", ".")
        fan_in = kernel[1] * kernel[2] * kernel[3]
        values[f"{own}.conv.weight"] = noise(*kernel) * (2 / fan_in) ** 0.5
        values[f"{own}.bn.weight"] = torch.ones(kernel[0])
        values[f"{own}.bn.bias"] = noise(kernel[0]) * 0.1
        values[f"{own}.bn.running_mean"] = noise(kernel[0]) * 0.1
        values[f"{own}.bn.running_var"] = noise(kernel[0]).square() + 0.5
    return {**values, "classifier.weight": noise(CLASSES, 1_024) * 0.05, "classifier.bias": noise(CLASSES)}


@pytest.fixture(scope="module")
def pytorch_file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "yamnet.pth"
    torch.save(state, path)
    return path


@torch.no_grad()
def reference(state: dict[str, Tensor], patch: Tensor) -> Tensor:
    """The port's arithmetic: (1, 1, time, frequency) -> scores, with TensorFlow's padding."""
    x = patch
    for name, kernel, stride in blocks():
        own = name.replace("layer1/conv", "layer1/fused").replace("/", ".")
        before, after = ((1, 1) if stride == 1 else (0, 1)) if kernel[2] == 3 else (0, 0)
        groups = kernel[0] if "depthwise" in name else 1
        x = torch.nn.functional.pad(x, (before, after, before, after))
        x = torch.nn.functional.conv2d(x, state[f"{own}.conv.weight"], stride=stride, groups=groups)
        x = torch.nn.functional.batch_norm(
            x, *(state[f"{own}.bn.{each}"] for each in ("running_mean", "running_var", "weight", "bias")), eps=1e-4
        ).relu()
    return torch.nn.functional.linear(
        x.mean(dim=(2, 3)), state["classifier.weight"], state["classifier.bias"]
    ).sigmoid()


def features() -> Tensor:
    """(2, 1, mels, frames)"""
    waves = torch.randn(2, FRONTEND.window_samples, generator=torch.Generator().manual_seed(1)) * 0.1
    return LogMel(FRONTEND)(waves)


@torch.no_grad()
@pytest.mark.slow
def test_weights_of_pytorch_give_the_same_scores(state: dict[str, Tensor], pytorch_file: Path) -> None:
    """Also after their batch normalisation has become part of the convolutions."""
    x = features()
    scores = convert(pytorch_file)(x).sigmoid()
    torch.testing.assert_close(scores, reference(state, x.transpose(2, 3)), rtol=0, atol=1e-4)
    assert scores.std() > 0.05


@pytest.mark.slow
@torch.no_grad()
def test_weights_of_keras_give_the_same_scores(state: dict[str, Tensor], pytorch_file: Path, tmp_path: Path) -> None:
    """The layout of HDF5 that Keras writes: kernels (time, frequency, inputs, outputs), no scale."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "yamnet.h5", "w") as file:
        for name, _, _ in blocks():
            own = name.replace("layer1/conv", "layer1/fused").replace("/", ".")
            depthwise = "depthwise" in name
            axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            kernel = state[f"{own}.conv.weight"].permute(axes).numpy()
            file[f"{name}/{name}/{'depthwise_kernel' if depthwise else 'kernel'}:0"] = kernel
            for keras, torchs in (
                ("beta", "bias"),
                ("moving_mean", "running_mean"),
                ("moving_variance", "running_var"),
            ):
                file[f"{name}/bn/{name}/bn/{keras}:0"] = state[f"{own}.bn.{torchs}"].numpy()
        file["dense/dense/kernel:0"] = state["classifier.weight"].T.numpy()
        file["dense/dense/bias:0"] = state["classifier.bias"].numpy()
    x = features()
    torch.testing.assert_close(convert(tmp_path / "yamnet.h5")(x), convert(pytorch_file)(x))


def saved_model(state: dict[str, Tensor], prefix: str) -> dict[str, NDArray[np.float32]]:
    """Variables as the SavedModel of YAMNet names them: numbered layers, in which batch normalisation has no scale."""
    variables: dict[str, NDArray[np.float32]] = {}
    for number, (name, _, _) in enumerate(blocks()):
        own = name.replace("layer1/conv", "layer1/fused").replace("/", ".")
        depthwise = "depthwise" in name
        kernel = state[f"{own}.conv.weight"].permute((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        layer, norm = (f"{prefix}layer_with_weights-{2 * number + each}" for each in (0, 1))
        variables[f"{layer}/{'depthwise_kernel' if depthwise else 'kernel'}"] = kernel.numpy()
        for keras, torchs in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            variables[f"{norm}/{keras}"] = state[f"{own}.bn.{torchs}"].numpy()
    variables[f"{prefix}layer_with_weights-54/kernel"] = state["classifier.weight"].T.numpy()
    variables[f"{prefix}layer_with_weights-54/bias"] = state["classifier.bias"].numpy()
    return variables


@pytest.mark.slow
def test_a_saved_model_gives_the_same_weights(state: dict[str, Tensor], pytorch_file: Path, tmp_path: Path) -> None:
    """As part of a larger model with a layer of its own, given as its folder or its index."""
    variables = saved_model(state, "layer-1/layer/_func/_yamnet/")
    variables["layer_with_weights-0/kernel"] = np.zeros((1_024, 3), np.float32)
    folder = write_saved_model(tmp_path / "yamnet_base", variables)
    added = add(YAMNET, given(YAMNET, folder), tmp_path)
    expected = convert(pytorch_file).state_dict()
    own = load_model(tmp_path / "yamnet").network.state_dict()
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(own[name], value.half().float() if value.ndim > 1 else value, rtol=0, atol=0)
    values = (folder / "variables/variables.data-00000-of-00001").read_bytes()
    assert added.config.training["source"]["from"] == "yamnet_base"
    assert added.config.training["source"]["sha256"] == hashlib.sha256(values).hexdigest()
    assert added.config.licence == YAMNET.licence
    index = given(YAMNET, folder / "variables/variables.index")
    assert (index.path, index.origin) == (added.source.path, "variables.index")


def test_a_saved_model_that_is_no_yamnet_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Without its layers, with two of them, with others; and a folder that is no SavedModel."""
    zeros = {name: np.zeros((1,) * value.ndim, np.float32) for name, value in saved_model(state, "").items()}
    last = "layer_with_weights-54/kernel"
    wrong: dict[str, dict[str, NDArray[np.float32]]] = {
        "it has 0 classifiers": {},
        "it has 2 classifiers": {**zeros, f"other/{last}": zeros[last]},
        "it has no variable layer_with_weights-0/kernel of float32": {last: zeros[last]},
        "it also has layer_with_weights-1/gamma": {**zeros, "layer_with_weights-1/gamma": np.ones(1, np.float32)},
        "not YAMNet: the shapes of its 28 layers": zeros,
        "not YAMNet: the kernel of layer1/conv has 1 dimensions": {
            **zeros,
            "layer_with_weights-0/kernel": np.ones(1, np.float32),
        },
        r"shape \[2\] does not fit the kernel \[1, 1, 1, 1\]": {
            **zeros,
            "layer_with_weights-1/beta": np.ones(2, np.float32),
        },
        "variance of a batch normalisation is negative": {
            **zeros,
            "layer_with_weights-1/moving_variance": -np.ones(1, np.float32),
        },
    }
    for number, (message, variables) in enumerate(wrong.items()):
        folder = write_saved_model(tmp_path / str(number), variables)
        with pytest.raises(BaseModelError, match=message):
            convert(given(YAMNET, folder).path)
    with pytest.raises(BaseModelError, match=r"no SavedModel: it has no .*variables\.data-00000-of-00001"):
        given(YAMNET, tmp_path)


def quantised_onnx(layers: list[Affine], path: Path) -> None:
    """The layers as an 8-bit export: rounded weights, input, first activation and output."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def rounded(name: str, scale: float, zero: int, kind: Any = np.uint8) -> str:
        constants[f"{name}_scale"], constants[f"{name}_zero_point"] = np.float32(scale), kind(zero)
        quantisation = [f"{name}_scale", f"{name}_zero_point"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *quantisation], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *quantisation], [f"{name}_dq"]))
        return f"{name}_dq"

    constants["audio_scale"], constants["audio_zero_point"] = np.float32(0.05), np.uint8(140)
    nodes.append(helper.make_node("DequantizeLinear", ["audio", "audio_scale", "audio_zero_point"], ["x"]))
    x = "x"
    for number, ((name, kernel, stride), layer) in enumerate(zip(blocks(), layers[:-1], strict=True)):
        constants[f"w{number}"], constants[f"b{number}"] = layer.weight, layer.bias
        weight = rounded(f"w{number}", float(np.abs(layer.weight).max() / 127), 0, np.int8)
        pads = ([1] * 4 if stride == 1 else [0, 0, 1, 1]) if kernel[2] == 3 else [0] * 4
        nodes.append(
            helper.make_node(
                "Conv", [x, weight, f"b{number}"], [f"c{number}"], strides=[stride] * 2, pads=pads,
                group=kernel[0] if "depthwise" in name else 1,
            )
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        x = rounded("r0", 0.05, 0) if number == 0 else f"r{number}"
    constants["w"], constants["b"] = layers[-1].weight, layers[-1].bias
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    weight = rounded("w", float(np.abs(layers[-1].weight).max() / 127), 0, np.int8)
    nodes.append(helper.make_node("Gemm", ["flat", weight, "b"], ["logits"], transB=1))
    constants["scores_scale"], constants["scores_zero_point"] = np.float32(0.1), np.uint8(128)
    nodes.append(helper.make_node("QuantizeLinear", ["logits", "scores_scale", "scores_zero_point"], ["scores"]))
    graph = helper.make_graph(
        nodes, "yamnet",
        [helper.make_tensor_value_info("audio", onnx.TensorProto.UINT8, [1, 1, 96, 64])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.UINT8, [1, CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture(scope="module")
def onnx_archive(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An 8-bit export in a zip archive."""
    layers = []
    for name, _, _ in blocks():
        own = name.replace("layer1/conv", "layer1/fused").replace("/", ".")
        weight, mean, variance, offset = (
            state[f"{own}.{each}"].numpy() for each in ("conv.weight", "bn.running_mean", "bn.running_var", "bn.bias")
        )
        layers.append(fold_batch_norm(weight, mean, variance, offset, epsilon=1e-4))
    layers.append(Affine(state["classifier.weight"].numpy(), state["classifier.bias"].numpy()))
    folder = tmp_path_factory.mktemp("onnx")
    quantised_onnx(layers, folder / "model.onnx")
    with zipfile.ZipFile(folder / "yamnet.onnx.zip", "w") as packed:
        packed.write(folder / "model.onnx", "export/model.onnx")
    return folder / "yamnet.onnx.zip"


@pytest.mark.slow
def test_an_8_bit_export_is_converted_and_compared(onnx_archive: Path, tmp_path: Path) -> None:
    """The directory states where the weights came from; it is loaded like any other model."""
    pytest.importorskip("onnxruntime")
    added = add(YAMNET, given(YAMNET, onnx_archive), tmp_path)
    assert added.difference is not None
    assert added.difference.largest_unrounded < 1e-3
    assert added.difference.largest_unrounded < added.difference.largest < 0.5
    model = load_model(tmp_path / "yamnet")
    assert model.config.multi_label
    assert model.config.classes[0] == "Speech"
    assert model.config.parents["Bark"] == ("Dog",)
    assert model.config.training["source"]["from"] == onnx_archive.name
    assert model.config.licence.startswith("Apache-2.0")


@pytest.mark.slow
def test_a_conversion_that_is_wrong_is_not_written(onnx_archive: Path, pytorch_file: Path, tmp_path: Path) -> None:
    """Scores that differ from the source, here because of another source, are an error."""
    pytest.importorskip("onnxruntime")

    def other(path: Path, inputs: NDArray[np.float32], *, rounding: bool = True) -> NDArray[np.float32] | None:
        scores = YAMNET.run(onnx_archive, inputs, rounding=rounding)
        return None if scores is None else scores[:, ::-1]

    with pytest.raises(BaseModelError, match="differs by"):
        add(replace(YAMNET, run=other), given(YAMNET, pytorch_file), tmp_path)
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> bytes:
    return path.read_bytes()[:100_000]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("yamnet.pth", cut, "cannot be read as weights of PyTorch"),
        ("yamnet.zip", cut, "not a complete zip archive"),
        ("yamnet.onnx", cut, "cannot be read as ONNX|not YAMNet"),
        ("yamnet.txt", cut, r"are \.h5, \.pth, \.onnx, \.zip"),
        ("yamnet.h5", cut, "cannot be read as HDF5|needs h5py"),
    ],
)
def test_a_file_that_is_no_yamnet_is_refused(
    name: str, content: Callable[[Path], bytes], message: str, pytorch_file: Path, tmp_path: Path
) -> None:
    """Damaged files, and other formats."""
    (tmp_path / name).write_bytes(content(pytorch_file))
    with pytest.raises(BaseModelError, match=message):
        convert(tmp_path / name)


def test_weights_of_another_network_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A layer less, or of another shape."""
    torch.save({name: value for name, value in state.items() if "layer9" not in name}, tmp_path / "less.pth")
    with pytest.raises(BaseModelError, match=r"it has no layer9\."):
        convert(tmp_path / "less.pth")
    torch.save({**state, "classifier.weight": torch.zeros(10, 1_024)}, tmp_path / "other.pth")
    with pytest.raises(BaseModelError, match="not YAMNet: the shapes"):
        convert(tmp_path / "other.pth")
    for name, value, message in (
        ("classifier.bias", torch.zeros(10), "not YAMNet: the shapes"),
        ("classifier.bias", torch.full((CLASSES,), torch.nan), "not finite"),
    ):
        torch.save({**state, name: value}, tmp_path / "other.pth")
        with pytest.raises(BaseModelError, match=message):
            convert(tmp_path / "other.pth")


@pytest.fixture
def site(pytorch_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has the file."""
    for name in ("NO_PROXY", "no_proxy"):  # a proxy from the environment could not reach the local server
        monkeypatch.setenv(name, "127.0.0.1")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(pytorch_file.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{pytorch_file.name}"
        server.shutdown()
        thread.join()


def test_the_official_file_is_downloaded_once(site: str, pytorch_file: Path, tmp_path: Path) -> None:
    """Into the cache; a file with another checksum does not stay there."""
    digest = hashlib.sha256(pytorch_file.read_bytes()).hexdigest()
    source = downloaded(YAMNET, OfficialFile(site, digest, "CC0"), tmp_path)
    assert (source.origin, source.licence) == (site, "CC0")
    assert source.path.read_bytes() == pytorch_file.read_bytes()
    with pytest.raises(DownloadError, match=f"not the expected one: its SHA-256 is {digest}"):
        downloaded(YAMNET, OfficialFile(site, "0" * 64, "CC0"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_source_is_the_official_file_or_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network and package the error names the address."""
    monkeypatch.setattr("training.download.MAX_ATTEMPTS", 1)
    monkeypatch.setattr("training.download.BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("training.base_models.add.default_cache", lambda: tmp_path)
    monkeypatch.setattr("training.base_models.add.find_spec", lambda name: None)
    nowhere = replace(YAMNET, download=OfficialFile("http://127.0.0.1:1/yamnet.h5", "0" * 64, "none"))
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/yamnet\.h5 cannot be fetched"):
        find_source(nowhere, None)
    with pytest.raises(BaseModelError, match="sead is not installed"):
        find_source(nowhere, "package")
    with pytest.raises(BaseModelError, match="is not a file"):
        find_source(nowhere, str(tmp_path / "none.h5"))
    with pytest.raises(BaseModelError, match="known: yamnet"):
        base_model("vggish")


def test_classes_and_ontology_of_audioset() -> None:
    """521 of the 527 classes that have labels; every class leads to one of the seven roots."""
    assert (len(yamnet_classes()), len(audioset_classes())) == (521, 527)
    assert yamnet_classes()[:2] == ("Speech", "Child speech, kid speaking")
    assert yamnet_classes()[-1] == audioset_classes()[-1] == "Field recording"
    above = parents(audioset_classes())
    roots = {name for names in above.values() for name in names} - set(above)
    assert roots == {
        "Human sounds", "Animal", "Music", "Natural sounds", "Sounds of things", "Source-ambiguous sounds",
        "Channel, environment and background",
    }  # fmt: skip
    assert set(above) | roots >= set(audioset_classes())
    assert above["Growling"] == ("Dog", "Cat", "Roaring cats (lions, tigers)", "Canidae, dogs, wolves")


@pytest.mark.parametrize(
    ("name", "options", "folder"),
    [("yamnet", (), "served"), ("yamnet", ("--into", "models"), "models"), ("aisfx", (), "runs")],
)
def test_folder_of_a_base_model(
    name: str, options: tuple[str, ...], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default that of the served models, or `runs` for a network whose classes have no names."""
    monkeypatch.setenv("OTOSCOPE_MODELS_DIR", "served")
    monkeypatch.setattr("training.base_models.add.find_source", lambda *_: None)
    asked: list[Path] = []

    def stop(_model: object, _source: object, into: Path) -> None:
        asked.append(into)
        raise BaseModelError("not converted here")

    monkeypatch.setattr("training.base_models.add.add", stop)
    CliRunner().invoke(app, ["models", "add", name, *options])
    assert asked == [Path(folder)]


def test_the_command_lists_every_base_model() -> None:
    """Its help has their names, without importing torch."""
    shown = CliRunner().invoke(app, ["models", "add", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in shown for name in BASE_MODELS)
