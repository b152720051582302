"""What every engine promises, whatever its arithmetic: an engine named in `engines.__all__` is tested here unasked."""

import inspect

import pytest
import torch
from small_networks import SlowTwin, cifar_resnet20, images, tiny

from quant_sweep import engines
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Engine
from quant_sweep.graph import Fusion, Network, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

CLASSES = [getattr(engines, name) for name in engines.__all__]
ENGINES = [c for c in CLASSES if issubclass(c, Engine) and not inspect.isabstract(c)]


def test_an_engine_was_found() -> None:
    assert ENGINES


@pytest.fixture(params=[tiny, cifar_resnet20], ids=lambda make: make.__name__, scope="module")
def quantizable_network(request: pytest.FixtureRequest, exact_int8: int):
    batch = images(8)
    graph = capture(request.param(), batch, Fusion.conv_bn_relu)
    specs = assign_specs(graph, AFFINE, BitWidths(exact_int8, 8, {}))
    return graph, batch, choose_qparams(calibrate(graph, [batch]), specs, MinMax(), MinMax())


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
class TestEngine:
    def test_checks_pass_what_is_built(self, engine, quantizable_network) -> None:
        graph, _, qparams = quantizable_network
        engine().check(graph, {name: grid.spec for name, grid in qparams.items()})

    def test_leaves_the_graph_as_it_was(self, engine, quantizable_network) -> None:
        graph, batch, qparams = quantizable_network
        state = {name: value.clone() for name, value in graph.graph.constants.items()}
        code = graph.graph.described()
        with torch.no_grad():
            engine().build(graph, qparams)(batch)
        assert graph.graph.described() == code
        assert graph.graph.constants.keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in graph.graph.constants.items())

    def test_gives_finite_logits_the_same_each_time(self, engine, quantizable_network) -> None:
        graph, batch, qparams = quantizable_network
        with torch.no_grad():
            logits = engine().build(graph, qparams)(batch)
            again = engine().build(graph, qparams)(batch)
        assert logits.dtype == torch.float32
        assert logits.shape == Network(graph.graph)(batch).shape
        assert bool(logits.isfinite().all())
        assert torch.equal(logits, again)

    def test_agrees_with_the_slow_twin_and_at_8_bits_with_float(self, engine, quantizable_network) -> None:
        graph, batch, qparams = quantizable_network
        with torch.no_grad():
            logits = engine().build(graph, qparams)(batch)
            twin, original = SlowTwin(graph, qparams).run(batch), Network(graph.graph)(batch)
        assert relative_error(logits, twin) < 0.02
        assert relative_error(logits, original) < 0.1


def relative_error(x: torch.Tensor, reference: torch.Tensor) -> float:
    return float((x - reference).norm() / reference.norm())
