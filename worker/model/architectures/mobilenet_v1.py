"""MobileNet-v1 (`type: mobilenet-v1`): depthwise separable convolutions on patches of the spectrogram (Howard et al.,
2017, arXiv:1704.04861), as in YAMNet (https://github.com/tensorflow/models/tree/master/research/audioset/yamnet).

The network sees a fixed number of frames at a time. A longer spectrogram is cut into patches that overlap, each patch
passes through the convolutions on its own, and the embedding is the mean over the patches: over the whole spectrogram
at once, the zeros that pad its ends would be missing in between, and YAMNet's weights depend on them.

Patches that overlap by half compute the frames that they share twice. The zeros at their ends make the results differ:
in the first five layers near the ends only, from the eighth on in every cell. The first five have a third of the
multiplications, so that sharing their inner columns would save a sixth at most, in small pieces; it is not done. A
`patch_hop` of `patch_frames` halves the work.
"""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from otoscope.types import LayerKind
from worker.model.architectures import register
from worker.model.base import ActivationHook, ArchitectureConfig, Network, Node, make_head, need_of, receptive_field

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
"""Output channels and number of the depthwise separable convolutions of each resolution. The first of each stage but
the first one has a stride of 2. Before them is a plain convolution with a stride of 2."""

_LAYERS = tuple(
    (f"layer{stage}", f"layer{stage}.block{block}", channels, 2 if stage > 1 and block == 1 else 1)
    for stage, (channels, blocks) in enumerate(_STAGES, start=1)
    for block in range(1, blocks + 1)
)
"""Stage, name, output channels and stride of each depthwise separable convolution."""

_STEM = 32  # channels of the first convolution
_TOTAL_STRIDE = 32


class MobileNetConfig(ArchitectureConfig):
    """Everything needed to build the network except its weights."""

    type: Literal["mobilenet-v1"] = "mobilenet-v1"
    dropout: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0,)  # one before each linear layer of the head
    width: float = Field(default=1.0, gt=0, le=4)  # factor of the channels of every layer
    batch_norm: bool = False  # YAMNet's are folded into its convolutions; needed for random initial weights
    layers: int = Field(default=len(_LAYERS), ge=1, le=len(_LAYERS))  # depthwise separable convolutions, the first ones
    patch_frames: PositiveInt = 96
    patch_hop: PositiveInt = 48  # frames from the start of one patch to the next

    @model_validator(mode="after")
    def _patches(self) -> "MobileNetConfig":
        if self.patch_frames % _TOTAL_STRIDE or self.patch_frames % self.patch_hop:
            raise ValueError(f"patch_frames {self.patch_frames} must be a multiple of {_TOTAL_STRIDE} and of patch_hop")
        return self

    def fine_tuned_as(self, wanted: ArchitectureConfig) -> ArchitectureConfig:
        """With its head, its dropout and its hop between patches, and without its last layers if it wants fewer."""
        if not isinstance(wanted, MobileNetConfig):
            return self
        chosen = {name: getattr(wanted, name) for name in ("head", "dropout", "patch_hop")}
        return self.model_copy(update={**chosen, "layers": min(self.layers, wanted.layers)})

    @property
    def title(self) -> str:
        return "MobileNet-v1"

    @property
    def summary(self) -> str:
        width = "" if self.width == 1 else f" of {self.width:g} × the channels"
        return f"MobileNet-v1{width}, {self.layers} depthwise separable convolutions on patches of {self.patch_frames}"


@register(MobileNetConfig)
class MobileNetV1(Network):
    """Takes any number of frames; if fewer than a patch, the last one is repeated.

    Activations of successive patches lie side by side: the hook gets every patch that does not overlap the one before,
    and zeros for frames behind the last of them, so that the columns cover the spectrogram and time is linear in them.
    """

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = max(8, round(_STEM * config.width))
        self.stem = _convolution(config, 1, channels, 2)
        self.layers = nn.ModuleList()
        for _, _, full_width, stride in _LAYERS[: config.layers]:
            outputs = max(8, round(full_width * config.width))
            self.layers.append(
                nn.Sequential(
                    _convolution(config, channels, channels, stride, groups=channels),
                    _convolution(config, channels, outputs, 1, kernel=1),
                )
            )
            channels = outputs
        self.head = make_head(channels, config)

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        x, patches, frames = self._cut(x)  # (batch × patches, 1, mels, patch frames)
        x = self.stem(x)  # (batch × patches, width, mels / 2, patch frames / 2)
        if hook is not None:
            self._report(hook, ["stem"], x, patches, frames)
        for (stage, name, _, _), layer in zip(_LAYERS, self.layers, strict=False):
            x = layer(x)  # in the end (batch × patches, width, mels / 32, patch frames / 32)
            if hook is not None:
                self._report(hook, [name, stage] if name == self._last_of(stage) else [name], x, patches, frames)
        of_patches = x.mean(dim=(2, 3))  # (batch × patches, width)
        embedding = of_patches.reshape(-1, patches, of_patches.shape[1]).mean(dim=1)  # (batch, width)
        if hook is not None:
            hook("embedding", embedding)
        logits: Tensor = self.head(embedding)  # (batch, classes)
        return logits

    def _report(self, hook: ActivationHook, names: list[str], x: Tensor, patches: int, frames: int) -> None:
        """`x` (batch × patches, width, height, columns) under its names. All channels are rearranged only if they are
        needed: that takes about as long as their computation."""
        needs = {need_of(hook, name) for name in names}
        if needs == {"nothing"}:
            return
        if "channels" not in needs:
            x = x.mean(dim=1, keepdim=True, dtype=torch.float32)
        shown = self._side_by_side(x, patches, frames)
        for name in names:
            hook(name, shown)

    def _cut(self, x: Tensor) -> tuple[Tensor, int, int]:
        """(batch, 1, mels, frames) -> patches (batch × patches, 1, mels, patch frames), patches of a row, frames."""
        size, hop, mels, frames = self.config.patch_frames, self.config.patch_hop, x.shape[2], x.shape[3]
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            mels, frames = int(mels), int(frames)  # they are tensors then
        patches: int = torch.sym_max(frames - size, 0) // hop + 1  # type: ignore[no-untyped-call]
        first = torch.arange(patches, device=x.device) * hop
        index = (first[:, None] + torch.arange(size, device=x.device)).clamp_max(frames - 1)  # (patches, patch frames)
        cut = x[..., index].permute(0, 3, 1, 2, 4)  # (batch, patches, 1, mels, patch frames)
        return cut.reshape(-1, 1, mels, size), patches, frames

    def _side_by_side(self, x: Tensor, patches: int, frames: int) -> Tensor:
        """(batch × patches, width, height, columns of a patch) -> (batch, width, height, columns of all frames)."""
        step, stride = self.config.patch_frames // self.config.patch_hop, self.config.patch_frames // x.shape[3]
        apart = x.reshape(-1, patches, *x.shape[1:])[:, ::step]  # (batch, patches apart, width, height, columns)
        shown = apart.permute(0, 2, 3, 1, 4).flatten(3)
        return nn.functional.pad(shown, (0, -(-frames // stride) - shown.shape[3]))  # cuts off what is too long

    def structure(self) -> dict[str, Node]:
        def node(kind: LayerKind, inputs: tuple[str, ...]) -> Node:
            field = receptive_field(path).model_copy(update={"patch": self.config.patch_frames})
            return Node(kind, inputs, field)

        path = [(3, 2, 0)]
        nodes = {"stem": node("stem", ())}
        before = "stem"
        for stage, name, _, stride in _LAYERS[: self.config.layers]:
            path.append((3, stride, 0 if stride > 1 else 1))
            nodes[name] = node("plain", (before,))
            before = name
            if name == self._last_of(stage):
                nodes[stage] = node("stage", (name,))
                before = stage
        return nodes

    def _last_of(self, stage: str) -> str:
        """The name of the last block of a stage."""
        return [name for of, name, _, _ in _LAYERS[: self.config.layers] if of == stage][-1]

    def pool(self, levels: list[Tensor]) -> Tensor:
        """The embedding up to a factor, which gradients for CAM do not need: of the patches that the hook gets, and
        with the zeros behind them."""
        return levels[-1].mean(dim=(2, 3))

    @property
    def pooled_layers(self) -> tuple[str, ...]:
        return (_LAYERS[self.config.layers - 1][0],)

    def trunk(self) -> list[nn.Module]:
        return [self.stem, *self.layers]


def _convolution(
    config: MobileNetConfig, inputs: int, outputs: int, stride: int, *, kernel: int = 3, groups: int = 1
) -> nn.Sequential:
    """Convolution and ReLU. The padding is TensorFlow's `SAME`: with a stride of 2, zeros at the end only."""
    parts: list[nn.Module] = [nn.ZeroPad2d((0, 1, 0, 1))] if stride > 1 else []
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=not config.batch_norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu")
    parts.append(conv)
    if config.batch_norm:
        parts.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*parts, nn.ReLU(inplace=True))
