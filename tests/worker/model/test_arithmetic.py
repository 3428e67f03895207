"""How a number was computed: every operation follows from its inputs, and the first one is the number on the map."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from otoscope.arithmetic import LOGITS, Arithmetic, Cell, Operation, pack
from otoscope.errors import InvalidRequest
from worker.model.architectures.cnn9 import Cnn9, Cnn9Config
from worker.model.architectures.cnn14 import Cnn14, Cnn14Config
from worker.model.architectures.mobilenet_v1 import MobileNetConfig, MobileNetV1
from worker.model.architectures.mobilenet_v2 import MobileNetV2, MobileNetV2Config
from worker.model.architectures.mobilenet_v3 import MobileNetV3, MobileNetV3Config
from worker.model.architectures.parallel import Parallel, ParallelConfig
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.architectures.timm_backbone import TimmConfig, TimmNetwork
from worker.model.arithmetic import INPUT, explain
from worker.model.base import Network
from worker.model.compat.timm import import_timm

FUNCTIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "hardtanh": lambda x: min(max(x, 0.0), 6.0),
    "hardswish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "clamp": lambda x: min(max(x, 0.0), 1.0),
}


def residual(**options: object) -> Network:
    return ResidualCNN(ResNetConfig.model_validate({"classes": 3, "depths": (2, 1), "widths": (8, 16), **options}))


def mobilenet(**options: object) -> Network:
    return MobileNetV1(MobileNetConfig.model_validate({"classes": 3, "width": 0.25, "layers": 4, **options}))


PARTS = {
    "patches": {"type": "mobilenet-v1", "classes": 3, "width": 0.25, "layers": 2},
    "columns": {"type": "cnn14", "classes": 3, "width": 4, "mels": 32},
}
OTHER_PARTS = {
    "patches": PARTS["patches"],
    "columns": {"type": "resnet", "classes": 3, "depths": [1, 1], "widths": [4, 8]},
}
SPECTROGRAMS = {"patches": {"first": 0, "count": 16}, "columns": {"first": 16, "count": 16, "every": 2}}
NETWORKS = {
    "residual": residual,
    "gates": lambda: residual(squeeze_excitation=True),
    "plain": lambda: residual(block="plain"),
    "pyramid": lambda: residual(feature_pyramid=True, pyramid_width=8, stem=False),
    "mobilenet": mobilenet,
    "mobilenet-v2": lambda: MobileNetV2(MobileNetV2Config(classes=3, width=0.25, mels=32)),
    "mobilenet-v3": lambda: MobileNetV3(MobileNetV3Config(classes=3, width=0.25)),
    "cnn14": lambda: Cnn14(Cnn14Config(classes=3, width=4, mels=32)),
    "cnn9": lambda: Cnn9(Cnn9Config(classes=3, width=4, mels=32)),
    "parallel": lambda: Parallel(ParallelConfig.model_validate({"classes": 3, "parts": PARTS})),
    "stacked": lambda: Parallel(
        ParallelConfig.model_validate({"classes": 3, "parts": OTHER_PARTS, "spectrograms": SPECTROGRAMS})
    ),
    "folded": lambda: mobilenet(batch_norm=True, patch_hop=96),
}


def prepared(network: Network) -> Network:
    """Ready to run, with statistics in its batch normalisation as after training."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for statistic in (module.running_mean, module.bias):
                torch.nn.init.normal_(statistic)  # type: ignore[arg-type]
            for positive in (module.running_var, module.weight):
                torch.nn.init.uniform_(positive, 0.5, 1.5)  # type: ignore[arg-type]
    return network.eval()


@torch.no_grad()
def activations(network: Network, x: Tensor) -> dict[str, Tensor]:
    """Every layer of one row, (channels, height, width); the logits under LOGITS."""
    found: dict[str, Tensor] = {}
    logits = network(x, lambda name, activation: found.__setitem__(name, activation[0].clone()))
    return found | {LOGITS: logits[0]}


def computed(operation: Operation, operations: list[Operation]) -> float | None:
    """The value of an operation from its inputs alone; None for one that has none."""
    inputs = [operations[index].value for index in operation.inputs]
    numbers = operation.numbers
    match operation.kind:
        case "convolution" | "linear":
            assert operation.patch is not None
            assert operation.kernel is not None
            assert operation.patch.shape == operation.kernel.shape
            return float((operation.patch * operation.kernel).sum()) + numbers.get("bias", 0.0)
        case "batch_norm":
            normal = (inputs[0] - numbers["mean"]) / math.sqrt(numbers["variance"] + numbers["epsilon"])
            return normal * numbers["weight"] + numbers["bias"]
        case "activation":
            return FUNCTIONS[operation.name](inputs[0])
        case "add":
            return sum(inputs)
        case "subtract":
            return inputs[0] - inputs[1]
        case "multiply":
            return inputs[0] * inputs[1]
        case "divide":
            return inputs[0] / inputs[1]
        case "max_pool":
            assert operation.patch is not None
            return float(operation.patch.max())
        case "mean":
            assert operation.patch is not None
            return float(operation.patch.mean())
    return None


def check(network: Network, x: Tensor, cell: Cell) -> list[Operation]:
    """Every operation follows from its inputs, and cells are those of the layers that they name."""
    layers = activations(network, x)
    operations, logits = explain(network, x, cell)
    place = (cell.channel,) if cell.layer == LOGITS else (cell.channel, cell.row, cell.column)
    assert operations[0].value == pytest.approx(float(layers[cell.layer][place]), abs=1e-4)
    assert logits == (pytest.approx(layers[LOGITS].tolist(), abs=1e-4) if cell.layer == LOGITS else [])
    for index, operation in enumerate(operations):
        value = computed(operation, operations)
        assert value is None or operation.value == pytest.approx(value, rel=1e-4, abs=1e-4), (index, operation)
        assert all(after > index for after in operation.inputs)
        if operation.patch is not None and operation.kind != "mean":
            found = [float(operation.patch.ravel()[position]) for position in operation.positions]
            assert found == pytest.approx([operations[at].value for at in operation.inputs], abs=1e-5)
        if operation.kind == "cell" and operation.place:
            shown = x[0] if operation.name == INPUT else layers[operation.name]
            assert operation.value == pytest.approx(float(shown[tuple(operation.place)]), abs=1e-5)
        if operation.layer and operation.place and operation.kind == "convolution":
            check_patch(operation, x[0] if operation.layer == INPUT else layers[operation.layer])
    return operations


def check_patch(operation: Operation, shown: Tensor) -> None:
    """The patch is what lies at its place in the layer, except where it is zero: there it may be padded."""
    assert operation.patch is not None
    channel, row, column = operation.place
    for of, i, j in np.argwhere(operation.patch != 0):
        at = (channel + int(of), row + int(i), column + int(j))
        assert float(shown[at]) == pytest.approx(float(operation.patch[of, i, j]), abs=1e-5)


DEEP = ("mobilenet-v2", "mobilenet-v3")  # one pass a layer: more than a second
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in NETWORKS]


@pytest.mark.parametrize("name", EACH)
def test_every_operation_follows_from_its_inputs(name: str) -> None:
    """In each layer of each architecture, at corners, in the middle and at the joint of two patches."""
    network, x = prepared(NETWORKS[name]()), torch.randn(1, 1, 32, 200)
    for layer, activation in activations(network, x).items():
        if layer == LOGITS:
            check(network, x, Cell(LOGITS, 1))
        elif activation.ndim == 3:
            channels, height, width = activation.shape
            for place in ((0, 0, 0), (channels // 2, height // 2, width // 2), (channels - 1, height - 1, width // 3)):
                operations = check(network, x, Cell(layer, *place))
                assert operations[0].kind != "cell", layer


def kinds(operations: list[Operation]) -> list[str]:
    return [operation.kind for operation in operations]


def test_a_maximum_over_time_leads_to_its_cells() -> None:
    """A feature of CNN9 is the largest of means over the frequencies of its last layer."""
    network, x = prepared(NETWORKS["cnn9"]()), torch.randn(1, 1, 32, 64)
    operations = check(network, x, Cell(LOGITS, 1))
    features = [operations[index] for index in operations[0].inputs]
    assert features
    for feature in features:
        assert feature.kind == "max_pool"
        [mean] = [operations[index] for index in feature.inputs]
        assert (mean.kind, mean.layer, mean.value) == ("mean", "layer4.block2", feature.value)


def test_a_residual_block_is_two_convolutions_and_a_shortcut() -> None:
    """ReLU of a sum of normalised convolution and shortcut; the second convolution leads to the first, and that to the
    layer before."""
    network, x = prepared(residual()), torch.randn(1, 1, 32, 100)
    operations = check(network, x, Cell("layer2.block1", 3, 1, 4))
    assert kinds(operations)[:4] == ["activation", "add", "batch_norm", "convolution"]
    second = operations[3]
    assert second.name == "stages.1.0.conv2.0"
    assert second.patch is not None
    assert second.patch.shape == (16, 3, 3)
    first = next(operation for operation in operations if operation.name == "stages.1.0.conv1.0")
    assert first.layer == "layer1.block2"
    shortcut = operations[operations[1].inputs[1]]
    assert shortcut.kind == "batch_norm"
    assert operations[shortcut.inputs[0]].layer == "layer1.block2"


def test_a_depthwise_convolution_has_the_patch_of_its_own_channel() -> None:
    """A depthwise separable layer: 1 × 1 over all channels, and behind each term 3 × 3 over one of them."""
    network, x = prepared(mobilenet()), torch.randn(1, 1, 32, 200)
    operations = check(network, x, Cell("layer2.block1", 5, 2, 7))
    assert kinds(operations)[:2] == ["activation", "convolution"]
    pointwise = operations[1]
    assert pointwise.kernel is not None
    assert pointwise.kernel.shape == (16, 1, 1)
    depthwise = operations[operations[pointwise.inputs[0]].inputs[0]]
    assert depthwise.kernel is not None
    assert depthwise.kernel.shape == (1, 3, 3)
    assert depthwise.place[0] == pointwise.positions[0]


def test_the_network_stays_as_it_was() -> None:
    """The same weights and results after as before, in-place functions included."""
    network, x = prepared(residual()), torch.randn(1, 1, 32, 100)
    before, weights = network(x), [p.clone() for p in network.parameters()]
    explain(network, x, Cell("stem", 0, 0, 0))
    assert torch.equal(before, network(x))
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))


@pytest.mark.slow
def test_timm_networks_are_explained_as_far_as_their_functions_are_known() -> None:
    """A network whose code is not ours."""
    try:
        import_timm()
    except ImportError:
        pytest.skip("needs timm")
    network = prepared(TimmNetwork(TimmConfig(classes=3, backbone="tf_efficientnet_lite0")))
    operations = check(network, torch.randn(1, 1, 64, 96), Cell("layer2", 3, 2, 2))
    assert "convolution" in kinds(operations)
    assert "batch_norm" in kinds(operations)


@pytest.mark.parametrize(
    "text", ["stem", "stem:1:2", "stem:1:2:x", "stem:-1:2:3", "stem:1:2:3:4", "logits:cat", ":::", "stem:²:1:1"]
)
def test_a_malformed_cell_is_refused(text: str) -> None:
    """With the form that is accepted, or the class that is missing."""
    with pytest.raises(InvalidRequest, match="cell"):
        Cell.parse(text, ["dog"])


def test_a_cell_outside_of_its_layer_is_refused() -> None:
    """Also by the worker, whose model may have changed meanwhile."""
    network = prepared(residual())
    with pytest.raises(InvalidRequest, match="outside"):
        explain(network, torch.randn(1, 1, 32, 100), Cell("stem", 8, 0, 0))
    with pytest.raises(InvalidRequest, match="no layer"):
        explain(network, torch.randn(1, 1, 32, 100), Cell("layer9", 0, 0, 0))


def test_what_is_packed_is_read_back() -> None:
    """Operations with and without arrays, and a field that a newer worker added is ignored."""
    network, x = prepared(residual()), torch.randn(1, 1, 32, 100)
    operations, _ = explain(network, x, Cell("stem", 0, 0, 0))
    tree = Arithmetic("stem:0:0:0", operations, temperature=1.5).tree(pack)
    tree["operations"][0]["later"] = 1
    again = Arithmetic.of_tree(tree)
    assert again.cell == "stem:0:0:0"
    assert again.temperature == 1.5
    assert [one.kind for one in again.operations] == [one.kind for one in operations]
    for there, here in zip(operations, again.operations, strict=True):
        assert there.inputs == here.inputs
        assert there.numbers == here.numbers
        if there.patch is not None:
            assert here.patch is not None
            assert np.array_equal(there.patch, here.patch)
