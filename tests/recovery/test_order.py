"""The order of execution."""

from layer_networks import on_grids, several
from small_networks import images

from quant_sweep.recovery.order import in_order


def test_what_is_added_to_a_layer_comes_before_it() -> None:
    graph, _ = on_grids(several(), images(8), bits=8)
    names = [node.name for node in in_order(graph.graph)]
    assert sorted(names) == sorted(graph.graph.node)
    assert names.index("shortcut.output") < names.index("grouped.output")
    for node in graph.graph.nodes:
        for read in graph.graph.computed_inputs(node):
            assert read == "input" or names.index(read) < names.index(node.name)
