"""Run a network once, then again with other modules at some of its paths, computing only what these change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, final

from torch import Tensor, fx, nn

Values: TypeAlias = Mapping[fx.Node, Any]


def run(network: fx.GraphModule, images: Tensor) -> tuple[Tensor, Values]:
    """The network's output, and what every node made on the way."""
    interpreter = _Replacing(network, {}, keep=True)
    return interpreter.run(images), interpreter.env


def rerun(network: fx.GraphModule, modules: Mapping[str, nn.Module], values: Values) -> Tensor:
    """The output for the same images, had the network other modules.

    Args:
        network: it is not changed.
        modules: by the path of what they stand for.
        values: as `run` returned them.
    """
    changed = set(_downstream(network.graph, modules))
    unchanged = {node: value for node, value in values.items() if node not in changed}
    output = _Replacing(network, modules, keep=False).run(initial_env=unchanged)
    assert isinstance(output, Tensor)
    return output


def _downstream(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """The nodes that call one of `modules`, all that depend on them, and the output."""
    changed: set[fx.Node] = set()
    for node in graph.nodes:
        calls = node.op == "call_module" and node.target in modules
        if calls or node.op == "output" or not changed.isdisjoint(node.all_input_nodes):
            changed.add(node)
            yield node


@final
class _Replacing(fx.Interpreter):
    """Runs a network with other modules at some of its paths."""

    def __init__(self, network: fx.GraphModule, modules: Mapping[str, nn.Module], keep: bool) -> None:
        super().__init__(network, garbage_collect_values=not keep)
        self.replacements = modules

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.replacements.get(target)
        return super().call_module(target, args, kwargs) if module is None else module(*args, **kwargs)
