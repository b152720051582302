"""The same network as everybody runs it: a function from a batch of images to logits for each way."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.subjects import calibrated, images
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines import Builtin, Engine, Int8, Simulate
from quant_sweep.graph import Fusion, insert_at_quantizers, weights_on_grid
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize
from quant_sweep.quantization.scheme import Scheme

Runs = Callable[[Tensor], object]

_SYMMETRIC = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)


def ours(model: nn.Module, engine: Engine, bits: int) -> Runs:
    """An engine of this package, everything fused."""
    return quantize(calibrated(model), bits=bits, observer=MinMax(), engine=engine).network


def round_and_clamp(model: nn.Module, bits: int) -> Runs:
    """Float convolutions between round and clamp, written out as the original study has them, nothing fused."""
    calibration = calibrated(model, Fusion.none)
    qparams = quantize(calibration, bits=bits, observer=MinMax(), scheme=_SYMMETRIC).qparams
    graph = calibration.graph
    rounding = {q.name: _RoundAndClamp(qparams[q.name]) for q in graph.activations}
    return insert_at_quantizers(graph, rounding, weights_on_grid(graph, qparams))


class _RoundAndClamp(nn.Module):
    def __init__(self, grid: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point, self.spec = grid.scale, grid.zero_point, grid.spec

    def forward(self, x: Tensor) -> Tensor:
        q = torch.clamp(torch.round(x / self.scale) + self.zero_point, self.spec.qmin, self.spec.qmax)
        return (q - self.zero_point) * self.scale


def compiled(model: nn.Module) -> Runs:
    """torch.compile with its defaults."""
    return torch.compile(copy.deepcopy(model), dynamic=False)


def fx_int8(model: nn.Module) -> Runs:
    """PyTorch's FX graph mode quantization."""
    return Builtin().quantize(model, lambda: [images(32)], "minmax")[0]


def onnxruntime_float(model: nn.Module) -> Runs:
    """onnxruntime on the exported float network."""
    return _session(_exported(model))


def onnxruntime_int8(model: nn.Module) -> Runs:
    """onnxruntime on its own QDQ quantization of the exported network, prepared as its guide says."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, batches: Iterable[Tensor]) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    exported = _exported(model)
    prepared, quantized = exported.with_name("prepared.onnx"), exported.with_name("quantized.onnx")
    quant_pre_process(str(exported), str(prepared))
    quantize_static(str(prepared), str(quantized), Reader([images(32)]), quant_format=QuantFormat.QDQ, per_channel=True)
    return _session(quantized)


def _exported(model: nn.Module) -> Path:
    path = Path(tempfile.mkdtemp()) / "float.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images(1),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )
    return path


def _session(path: Path) -> Runs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"images": batch.numpy()})


def brevitas_fake_quant(model: nn.Module) -> Runs:
    """Brevitas' own 8-bit quantization, calibrated."""
    from brevitas.graph.calibrate import calibration_mode

    quantized = brevitas_network(model)
    with torch.no_grad(), calibration_mode(quantized):
        quantized(images(32))
    return quantized


def brevitas_network(model: nn.Module) -> nn.Module:
    """With Brevitas' quantizers, not calibrated yet."""
    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brevitas.graph.quantize import preprocess_for_quantize
        from brevitas.graph.quantize import quantize as brevitas_quantize

        network: nn.Module = brevitas_quantize(preprocess_for_quantize(copy.deepcopy(model)))
    return network.eval()


def everybody(model: nn.Module) -> dict[str, Callable[[], Runs]]:
    """By name, what makes each contestant."""
    return {
        "int8, 8 bits": lambda: ours(model, Int8(), 8),
        "int8, 4 bits": lambda: ours(model, Int8(), 4),
        "simulate, 4 bits": lambda: ours(model, Simulate(), 4),
        "float32 eager": lambda: model,
        "float32 compiled": lambda: compiled(model),
        "float32 onnxruntime": lambda: onnxruntime_float(model),
        "PyTorch FX int8": lambda: fx_int8(model),
        "onnxruntime int8 QDQ": lambda: onnxruntime_int8(model),
        "Brevitas fake-quant, 8 bits": lambda: brevitas_fake_quant(model),
        "convolution + round/clamp, 4 bits": lambda: round_and_clamp(model, 4),
    }
