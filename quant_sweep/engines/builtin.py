"""PyTorch's own static quantization at 8 bits: fuse, prepare, calibrate, convert to real integer kernels.

All of torch.ao is kept in this file, for it is deprecated upstream. Activations are quint8, weights qint8 per channel;
Conv-BN-ReLU and residual adds are fused by its FX flow. Where a CPU without VNNI runs uint8 x int8 products, sums of
two may saturate at 16 bits, so activations then use half the grid (`reduce_range`).
"""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.base import Flow
from quant_sweep.errors import InputError

_OBSERVERS = {"minmax": "MinMaxObserver", "hist": "HistogramObserver", "moving_average": "MovingAverageMinMaxObserver"}


@final
class Builtin(Flow):
    """torch.ao's FX graph mode quantization.

    Attributes:
        reduce_range: whether activations use 7 of the 8 bits; decided by the CPU.
    """

    bits = 8

    def __init__(self) -> None:
        self.reduce_range = platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_vnni_supported()

    def check(self, observer: str) -> None:
        if observer not in _OBSERVERS:
            raise InputError(
                f"observer={observer}: engine=builtin calibrates with torch.ao's own observers; "
                f"allowed are {', '.join(_OBSERVERS)}"
            )

    def facts(self) -> dict[str, object]:
        return {"reduce_range": self.reduce_range, "torch_engine": torch.backends.quantized.engine}

    def quantize(
        self, model: nn.Module, batches: Callable[[], Iterable[Tensor]], observer: str
    ) -> tuple[nn.Module, dict[str, QParams]]:
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the deprecation is known: see above
            original = copy.deepcopy(model).cpu().eval()
            prepared = None
            for batch in batches():
                if prepared is None:
                    prepared = prepare_fx(original, self._qconfig_mapping(observer), (batch,))
                prepared(batch)
            if prepared is None:
                raise InputError("calibration.images=0: at least one batch is needed")
            activations = _activation_qparams(prepared, QuantSpec(bits=7 if self.reduce_range else 8))
            converted = convert_fx(prepared)
            return converted, activations | _weight_qparams(converted)

    def _qconfig_mapping(self, observer: str) -> Any:
        import torch.ao.quantization as ao

        self.check(observer)
        activation = getattr(ao, _OBSERVERS[observer]).with_args(dtype=torch.quint8, reduce_range=self.reduce_range)
        qconfig = ao.QConfig(activation=activation, weight=ao.default_per_channel_weight_observer)
        return ao.QConfigMapping().set_global(qconfig)


def _activation_qparams(prepared: torch.fx.GraphModule, spec: QuantSpec) -> dict[str, QParams]:
    """Grids of the activations, as torch.ao's observers chose them, by tensor name."""
    qparams = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module" or "activation_post_process" not in str(node.target):
            continue
        source = node.args[0]
        name = "input" if source.op == "placeholder" else f"{_path(source)}.output"
        scale, zero_point = prepared.get_submodule(str(node.target)).calculate_qparams()  # type: ignore[operator]
        scale, zero_point = scale.to(torch.float32).reshape(()), zero_point.to(torch.int32).reshape(())
        qparams[name] = QParams(scale, zero_point, spec)
    return qparams


def _weight_qparams(converted: torch.fx.GraphModule) -> dict[str, QParams]:
    """Grids of the weights in the converted layers, by tensor name."""
    spec = QuantSpec(bits=8, signed=True, symmetric=True, channel_axis=0)
    qparams = {}
    for path, module in converted.named_modules():
        weight = module.weight() if callable(getattr(module, "weight", None)) else None
        if isinstance(weight, Tensor) and weight.is_quantized:
            scale = weight.q_per_channel_scales().to(torch.float32)
            qparams[f"{path}.weight"] = QParams(scale, weight.q_per_channel_zero_points().to(torch.int32), spec)
    return qparams


def _path(node: torch.fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name
