"""One mechanism for all that looks at, or changes, the tensors at the quantizers; and one for weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph.graph import Graph
from quant_sweep.graph.interpret import Network
from quant_sweep.graph.quantizers import QuantGraph


def insert_at_quantizers(
    graph: QuantGraph, functions: Mapping[str, Callable[[Tensor], Tensor]], float_graph: Graph | None = None
) -> Network:
    """The network with a function standing at each activation quantizer.

    Args:
        graph: it is not changed.
        functions: by the quantizer's name; each maps a tensor to one of its shape, and only the quantizer's readers see
            the result. Quantizers without a function are left out.
        float_graph: with other constants than the graph's, or other operations under the same names.
    """
    inserted = {q.name: (functions[q.name], q.readers) for q in graph.activations if q.name in functions}
    return Network(float_graph or graph.graph, inserted)


@torch.no_grad()
def weights_on_grid(graph: QuantGraph, qparams: Mapping[str, QParams]) -> Graph:
    """The float graph with the nearest values of their grids for weights.

    Args:
        qparams: by tensor name; a weight without an entry stays as it is.
    """
    weights = {q.name: graph.graph.constants[q.name] for q in graph.weights if q.name in qparams}
    rounded = {name: fake_quantize(weight, qparams[name]) for name, weight in weights.items()}
    return replace(graph.graph, constants={**graph.graph.constants, **rounded})
