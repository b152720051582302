"""What the graph tests share: random BatchNorm statistics, and a rounding that leaves a visible mark."""

import torch
from torch import Tensor, nn

from quant_sweep.graph import Fusion, QuantGraph, insert_at_points, quantizable

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def randomize_batch_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode; fresh statistics (0 and 1) would make folding too easy."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def coarse(x: Tensor) -> Tensor:
    """Three significant bits: a grid of any scale, on which 0 and powers of two lie. Sums and means leave it."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 8) / 8, exponent)


class Coarse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return coarse(x)


def is_coarse(x: Tensor) -> bool:
    return torch.equal(coarse(x), x)


@torch.no_grad()
def run_on_coarse_grids(graph: QuantGraph, x: Tensor) -> tuple[dict[str, bool], Tensor]:
    """Run with a coarse grid at every point.

    Returns:
        For each call of a convolution or linear layer, by its path, whether all inputs lay on the grid; the output.
    """
    network = insert_at_points(graph, {point.name: Coarse() for point in graph.activations})
    seen: dict[str, bool] = {}
    for path, module in network.named_modules():
        if isinstance(module, WEIGHTED):
            module.register_forward_hook(
                lambda _module, args, _output, path=path: seen.update(
                    {path: seen.get(path, True) and is_coarse(args[0])}
                )
            )
    output = network(x)
    return seen, output


def point_names(model: nn.Module, fusion: Fusion) -> list[str]:
    return [point.name for point in quantizable(model, fusion).activations]
