"""Networks that nobody here wrote: captured, compared with the model, and quantized beside an independent reference.

    python -m benchmarks.networks                      # all of them, into docs/networks.md
    python -m benchmarks.networks resnet18d vit_tiny_patch16_224

Weights are random, BatchNorm statistics those of a forward in training mode. The reference knows nothing of graphs: it
intercepts every convolution and linear function that the model calls and rounds its input (min-max over the
calibration images, unsigned, per tensor) and its weight (min-max, signed, per output channel) to 8 bits.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.engines import Int8, Simulate
from quant_sweep.engines.onednn import why_not_exact
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Network, capture_float, with_quantizers
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.graph.operations import BatchNorm, Weighted
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
BITS = 8
TIMM = (  # noqa: SIM905
    "resnet18d resnext50_32x4d legacy_seresnet18 seresnet50 regnetx_002 regnety_002 mobilenetv2_050 "
    "mobilenetv3_small_100 mobilenetv4_conv_small mobileone_s0 repvgg_a0 efficientnet_lite0 tf_efficientnet_lite0 "
    "efficientnet_b0 ghostnet_100 mnasnet_050 hardcorenas_a fbnetc_100 lcnet_050 tinynet_e mixnet_s rexnet_100 "
    "dla34 dla46_c hrnet_w18_small densenet121 ese_vovnet19b_dw cspdarknet53 darknet53 convnext_atto "
    "convmixer_768_32 inception_v3 inception_v4 xception41 legacy_xception eca_nfnet_l0 nf_regnet_b0 resnetv2_50 "
    "resnetv2_18 resnetv2_50x1_bit mixer_s32_224 vit_tiny_patch16_224 fastvit_t8 efficientvit_b0 efficientvit_m0 "
    "edgenext_xx_small skresnet18 res2net50_26w_4s resnest14d gernet_s selecsls42 dpn68 levit_128s poolformer_s12 "
    "repghostnet_050 mobilevit_xxs repvit_m0_9 efficientformerv2_s0 vgg11_bn visformer_tiny "
    "swin_tiny_patch4_window7_224 starnet_s1 ghostnetv2_100 tresnet_m "
).split()
TORCHVISION = (  # noqa: SIM905
    "resnet18 mobilenet_v2 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x0_5 squeezenet1_1 googlenet "
    "densenet121 regnet_x_400mf mnasnet0_5 convnext_tiny vit_b_32 swin_t maxvit_t alexnet vgg11_bn fcn_resnet50 "
    "deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large r3d_18 mc3_18 r2plus1d_18 s3d mvit_v1_b "
).split()
_SIZES = {"inception_v3": 299, "inception_v4": 299, "xception41": 299, "legacy_xception": 299}
_IMAGES = {"torchvision/mvit_v1_b": 1}  # at once; 8 of all others
_FIXED_SIZE = ("vit", "swin", "mixer", "levit", "visformer", "efficientformer", "maxvit", "mvit", "convmixer")


@dataclass(frozen=True)
class Row:
    """One network. `apart`: relative difference of the float graph to the model; `sqnr`, `reference`: of the logits at
    8 bits, dB; `int8`: share of images to which int8 and simulate give the same class, percent."""

    name: str
    refused: str = ""
    seconds: float = 0.0
    apart: float = 0.0
    layers: int = 0
    norms: int = 0
    folded: int = 0
    float_weights: int = 0
    sqnr: float = 0.0
    reference: float = 0.0
    int8: float | None = None


class _EachLayerAlone(TorchFunctionMode):
    """Rounds what each call of a layer reads: watches the ranges of inputs first, then rounds."""

    functions: ClassVar = {
        F.conv1d,
        F.conv2d,
        F.conv3d,
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        F.linear,
        torch._C._nn.linear,
    }
    transposed: ClassVar = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[list[float]] = []
        self.watching, self.call = True, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.functions and func not in self.transposed:
            return func(*args, **kwargs)
        names = dict(zip(("input", "weight"), args, strict=False))
        x, weight = (kwargs.pop(name, names.get(name)) for name in ("input", "weight"))
        position, self.call = self.call, self.call + 1
        if self.watching:
            lo, hi = (float(end) for end in x.aminmax())
            if position == len(self.ranges):
                self.ranges.append([lo, hi])
            seen = self.ranges[position]
            seen[0], seen[1] = min(seen[0], lo), max(seen[1], hi)
        else:
            lo, hi = (torch.tensor(end) for end in self.ranges[position])
            x = fake_quantize(x, qparams_from_range(lo, hi, QuantSpec(BITS)))
            axis = 1 if func in self.transposed else 0
            rows = weight.transpose(0, axis).flatten(1)
            spec = QuantSpec(BITS, signed=True, symmetric=True, narrow_range=True, channel_axis=axis)
            weight = fake_quantize(weight, qparams_from_range(rows.amin(1), rows.amax(1), spec))
        return func(x, weight, *args[2:], **kwargs)


@torch.no_grad()
def reference_outputs(model: nn.Module, calibration: list[Tensor], x: Tensor) -> Tensor:
    """What the model returns for x with each layer's input and weight rounded alone."""
    with _EachLayerAlone() as mode:
        for batch in calibration:
            mode.call = 0
            model(batch)
        mode.watching, mode.call = False, 0
        return first_tensor(model(x))


def first_tensor(outputs: Any) -> Tensor:
    """The first tensor of whatever a model returns."""
    found = torch.utils._pytree.tree_leaves(outputs)[0]
    assert isinstance(found, Tensor)
    return found


def sqnr_db(reference: Tensor, rounded: Tensor) -> float:
    noise = (reference.double() - rounded.double()).square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))


def build(name: str, **changes: Any) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with random weights and BatchNorm statistics of real activations, and the shape of an image.

    Args:
        changes: to what timm makes of a name, such as a smaller depth.
    """
    torch.manual_seed(0)
    if name.startswith("torchvision/"):
        import torchvision

        kind = name.partition("/")[2]
        more = {"init_weights": True} if kind in {"googlenet", "inception_v3"} else {}
        backbone = {"weights_backbone": None} if kind.startswith(("fcn", "deeplab", "lraspp")) else {}
        model = torchvision.models.get_model(kind, weights=None, **more, **backbone)
        video = kind in {"r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b"}
        shape = (3, 16, 112, 112) if video else (3, 224, 224)
        shape = (3, 16, 224, 224) if kind in {"s3d", "mvit_v1_b"} else shape
    else:
        import timm

        model = timm.create_model(name, pretrained=False, num_classes=10, **changes)
        side = _SIZES.get(name, 224 if name.startswith(_FIXED_SIZE) else 128)
        shape = (3, side, side)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        model.train()(torch.randn(_IMAGES.get(name, 8), *shape))
        for module in model.modules():  # some start with a head of zeros, whose logits say nothing
            if isinstance(module, nn.Linear) and not bool(module.weight.any()):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return model.eval(), shape


def measure(name: str, **changes: Any) -> Row:
    """Capture and quantize one network; `changes` as `build` takes them."""
    model, shape = build(name, **changes)
    generator = torch.Generator().manual_seed(1)
    calibration = [torch.randn(_IMAGES.get(name, 8), *shape, generator=generator) for _ in range(2)]
    x = torch.randn(_IMAGES.get(name, 8), *shape, generator=generator)
    began = time.process_time()
    try:
        captured = capture_float(model, x[:2])
        graph = with_quantizers(captured, Fusion.conv_bn_relu)
    except InputError as error:
        return Row(name, refused=str(error))
    seconds = time.process_time() - began
    with torch.no_grad():
        expected = model(x)
        apart = relative_difference(Network(graph.graph)(x), expected)
        quantized = quantize(calibrate(graph, calibration), bits=BITS, observer=MinMax(), engine=Simulate())
        simulated = first_tensor(quantized.network(x))
        int8 = None
        if why_not_exact(255, 127) is None:
            own = first_tensor(Int8().build(graph, quantized.qparams)(x))
            int8 = 100.0 * float((own.argmax(1) == simulated.argmax(1)).float().mean())
        reference = reference_outputs(model, calibration, x)
    norms = sum(isinstance(node.operation, BatchNorm) for node in captured.graph.nodes)
    return Row(
        name,
        seconds=seconds,
        apart=apart,
        layers=sum(isinstance(node.operation, Weighted) for node in graph.graph.nodes),
        norms=norms,
        folded=norms - sum(isinstance(node.operation, BatchNorm) for node in graph.graph.nodes),
        float_weights=len(graph.float_weights),
        sqnr=sqnr_db(first_tensor(expected), simulated),
        reference=sqnr_db(first_tensor(expected), reference),
        int8=int8,
    )


def rows(names: list[str], show: Callable[[Row], None]) -> Iterator[Row]:
    for name in names:
        try:
            row = measure(name)
        except Exception as error:  # a network more or less; the table says so
            row = Row(name, refused=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        show(row)
        yield row


def table(found: list[Row]) -> str:
    head = [
        "| network | capture, CPU s | float graph apart | layers | BatchNorms folded | float weights "
        "| 8 bits, dB | each layer alone, dB | int8 = simulate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        if row.refused:
            head.append(f"| {row.name} | {row.refused} | | | | | | | |")
            continue
        same = "" if row.int8 is None else f"{row.int8:.0f} %"
        head.append(
            f"| {row.name} | {row.seconds:.1f} | {row.apart:.1e} | {row.layers} | {row.folded} of {row.norms} "
            f"| {row.float_weights} | {row.sqnr:.1f} | {row.reference:.1f} | {same} |"
        )
    return "\n".join(head)


def page(found: list[Row]) -> str:
    """docs/networks.md."""
    captured = [row for row in found if not row.refused]
    near = sum(row.apart < 1e-5 for row in captured)
    furthest = max((row.apart for row in captured), default=0.0)
    close = sum(row.sqnr > row.reference - 1.5 for row in captured)
    return f"""# Networks

Networks that nobody here wrote: architectures of timm and torchvision with random weights, BatchNorm statistics of
one forward in training mode, and random images. `make networks` measures all {len(found)} of them and writes this page.

- {len(captured)} are captured. The float graph with BatchNorm folded is within 1e-5 (relative) of the model on {near};
  on the rest at most {furthest:.1g} apart, where the network amplifies the rounding of its own float32 numbers as much.
- `8 bits` is the SQNR of the logits of `engine=simulate` with `minmax` and `fusion=conv_bn_relu`; `each layer alone`
  that of an independent reference, which rounds what each convolution and linear layer reads and nothing else.
  {close} are within 1.5 dB of it, or above. The others round what the reference has in float: the input of an
  activation that integers look up (SiLU, GELU, leaky ReLU), and the operands of residual sums, which an integer
  engine adds on a grid.
- A BatchNorm that is not folded has no layer directly before it, or one whose output others read too.

{table(found)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks")
    parser.add_argument("names", nargs="*", help="timm architectures, or torchvision/<name>; all of both if none")
    chosen = parser.parse_args().names
    names = chosen or [*TIMM, *(f"torchvision/{name}" for name in TORCHVISION)]
    warnings.simplefilter("ignore")
    found = list(rows(names, lambda row: print(row, file=sys.stderr, flush=True)))
    print(table(found))
    if not chosen:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
