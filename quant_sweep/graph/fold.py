"""Folding of BatchNorm into the layer before it.

In evaluation mode BN(y) = gamma * (y - mean) / sqrt(var + eps) + beta is affine per channel, and so is a convolution:
one convolution can do both (Jacob et al. 2018, section 3.2). The weight maths is torch's; this is the walk.
"""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(traced: fx.GraphModule) -> None:
    """Fold every BatchNorm that directly follows a convolution or linear layer, and take it out of the graph.

    A BatchNorm stays a float layer where folding would change another consumer: the layer's output has a second
    reader, or the layer or the BatchNorm is called more than once. Others follow a concatenation or keep no running
    statistics.

    Raises:
        ValueError: the model is in training mode, where BatchNorm depends on the batch.
    """
    if any(module.training for module in traced.modules() if isinstance(module, _BATCH_NORMS)):
        raise ValueError("BatchNorm folds in evaluation mode only; call .eval() first")
    modules = dict(traced.named_modules())
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        layer = _layer_to_fold_into(node, modules, calls)
        if layer is None:
            continue
        linear, norm = modules[str(layer.target)], modules[str(node.target)]
        fuse = fuse_conv_bn_eval if isinstance(linear, _CONVOLUTIONS) else fuse_linear_bn_eval
        folded = fuse(linear, norm)
        _replace_module(traced, str(layer.target), folded)
        modules[str(layer.target)] = folded  # another BatchNorm may follow
        node.replace_all_uses_with(layer)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()


def _layer_to_fold_into(node: fx.Node, modules: dict[str, nn.Module], calls: list[str]) -> fx.Node | None:
    """The node of the layer that BatchNorm `node` can be folded into."""
    if node.op != "call_module" or not isinstance(modules[str(node.target)], _BATCH_NORMS):
        return None
    layer = node.all_input_nodes[0]
    if layer.op != "call_module" or len(layer.users) != 1:
        return None
    if calls.count(str(layer.target)) != 1 or calls.count(str(node.target)) != 1:
        return None
    norm, module = modules[str(node.target)], modules[str(layer.target)]
    if norm.running_mean is None:
        return None
    # Behind a linear layer BatchNorm1d may also normalise axis 1 of (n, length, features).
    two_dimensional = (
        isinstance(module, nn.Linear) and isinstance(norm, nn.BatchNorm1d) and module.out_features == norm.num_features
    )
    return layer if isinstance(module, _CONVOLUTIONS) or two_dimensional else None


def _replace_module(traced: fx.GraphModule, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(traced.get_submodule(parent), name, module)
