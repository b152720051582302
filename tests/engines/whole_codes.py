"""What an engine makes of a batch: the code of every quantized tensor, whatever its arithmetic."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines import Engine
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.graph import Network, QuantGraph


@torch.no_grad()
def codes_and_outputs(
    engine: Engine, graph: QuantGraph, qparams: Mapping[str, QParams], batch: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """int32 codes by the tensor's name, and what the network returns."""
    network = engine.build(graph, qparams)
    if isinstance(network, NetworkOfCodes):
        return network.codes(batch), network(batch)
    assert isinstance(network, Network)
    codes: dict[str, Tensor] = {}
    for name, (function, _) in network.inserted.items():
        assert isinstance(function, nn.Module)
        function.register_forward_hook(
            lambda _module, _args, rounded, name=name: codes.update({name: quantize(rounded, qparams[name])})
        )
    outputs = network(batch)
    return codes, outputs
