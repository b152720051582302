"""A network whose grids, biases and codes can be learned: rounding passes gradients as if it were not there.

A scale is exp(parameter), so that it stays above 0 and a learning rate is a relative change. For x = s v the value on
the grid is s q with q = clamp(round(v)), and its derivative with respect to s is q - v inside the grid, q outside.

Source: LSQ, Esser et al. 2020, arXiv:1902.08153.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import along_channels, quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import insert_at_quantizers
from quant_sweep.graph.operations import Weighted
from quant_sweep.recovery.base import OnGrids

_FROM_CODE = 0.45  # how far a learned code may begin from the code, so that it does not flip at once
_NEAREST = 0.499  # how far it may end from it, in what is handed on


@final
class LearnedNetwork(nn.Module):
    """A network on grids; called with inputs, it returns the outputs.

    Args:
        quantized: is not changed.
        codes: whether the codes of weights can be learned, too.
        device: of the inputs.

    Attributes:
        steps: of activations, by the quantizer's name; its log scale is a parameter.
        scales: log scales of weights, in the order of the graph's weights.
        latents: weights in codes, before they are rounded, in that order; parameters if `codes`.
        biases: of the layers, in the order of their names.
    """

    def __init__(self, quantized: OnGrids, codes: bool, device: torch.device) -> None:
        super().__init__()
        graph, self.quantized, self.codes = quantized.graph, quantized, codes
        grids = {name: grid.to(device) for name, grid in quantized.qparams.items()}
        constants = graph.graph.constants
        self.weight_names = [q.name for q in graph.weights if q.name in grids]
        self.grids = [grids[name] for name in self.weight_names]
        layers = (node for node in graph.graph.nodes if isinstance(node.operation, Weighted))
        self.bias_names = sorted({node.inputs[2] for node in layers if len(node.inputs) > 2} & set(constants))
        self.scales = nn.ParameterList(grid.scale.log() for grid in self.grids)
        weights = [constants[name].to(device) for name in self.weight_names]
        self.codes_before = [quantize(w, grid).float() for w, grid in zip(weights, self.grids, strict=True)]
        self.latents = nn.ParameterList(
            nn.Parameter(_in_codes(w, grid, q, _FROM_CODE), requires_grad=codes)
            for w, grid, q in zip(weights, self.grids, self.codes_before, strict=True)
        )
        self.biases = nn.ParameterList(constants[name].to(device).clone() for name in self.bias_names)
        self.steps = {q.name: _LearnedStep(grids[q.name]) for q in graph.activations if q.name in grids}
        self.network = insert_at_quantizers(graph, self.steps).to(device)

    def forward(self, x: Tensor) -> Any:
        biases = dict(zip(self.bias_names, self.biases, strict=True))
        return self.network.returned(self.network.values(x, constants={**self._weights(), **biases}))

    def _weights(self) -> dict[str, Tensor]:
        weights = {}
        for i, (name, grid) in enumerate(zip(self.weight_names, self.grids, strict=True)):
            q = self.codes_before[i]
            if self.codes:
                inside = self.latents[i].clamp(grid.spec.qmin, grid.spec.qmax)
                q = inside + (inside.round() - inside).detach()
            weights[name] = q * along_channels(self.scales[i].exp(), q, grid.spec.channel_axis)
        return weights

    @torch.no_grad()
    def on_grids(self) -> OnGrids:
        """The network with what was learned; weights beside their grids are nearest to the codes that count."""
        graph, qparams = self.quantized.graph, dict(self.quantized.qparams)
        constants = dict(graph.graph.constants)
        for i, (name, before) in enumerate(zip(self.weight_names, self.grids, strict=True)):
            grid = QParams(self.scales[i].exp().cpu(), before.zero_point.cpu(), before.spec)
            spec = before.spec
            q = self.latents[i].round().clamp(spec.qmin, spec.qmax) if self.codes else self.codes_before[i]
            near = (self.latents[i] - q).clamp(-_NEAREST, _NEAREST) + q
            qparams[name] = grid
            constants[name] = near.cpu() * along_channels(grid.scale, near, spec.channel_axis)
        constants |= {name: bias.detach().cpu() for name, bias in zip(self.bias_names, self.biases, strict=True)}
        for name, step in self.steps.items():
            qparams[name] = replace(qparams[name], scale=step.log_scale.exp().cpu())
        return OnGrids(replace(graph, graph=replace(graph.graph, constants=constants)), qparams)


def _in_codes(weight: Tensor, grid: QParams, codes: Tensor, most: float) -> Tensor:
    off = weight / along_channels(grid.scale, weight, grid.spec.channel_axis) - codes
    return codes + off.clamp(-most, most)


@final
class _LearnedStep(nn.Module):
    """An activation on its grid, whose scale is learned and whose zero-point stays."""

    def __init__(self, grid: QParams) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(grid.scale.log())
        self.lowest, self.highest = (end - int(grid.zero_point) for end in (grid.spec.qmin, grid.spec.qmax))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = _OnGrid.apply(x, self.log_scale.exp(), self.lowest, self.highest)
        return made


@final
class _OnGrid(torch.autograd.Function):
    """s * clamp(round(x / s)), with the derivatives of the module's text."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        v = x / scale
        q = v.round().clamp_(lowest, highest)
        inside = (v >= lowest) & (v <= highest)
        ctx.save_for_backward(inside, q - v.mul_(inside))
        return q.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inside, along = ctx.saved_tensors
        return gradient * inside, torch.dot(gradient.flatten(), along.flatten()), None, None
