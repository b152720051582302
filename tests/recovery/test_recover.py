"""The stage: methods in their order, judged on inputs that they did not see."""

import logging
import time
from dataclasses import replace

import pytest
import torch
from layer_networks import on_grids, rounded_weight
from small_networks import SlowTwin, images, tiny
from torch import Tensor

from quant_sweep import MSE, Bias, Distill, Reconstruct, calibrate, quantize
from quant_sweep.engines import Engine, Int8, Simulate
from quant_sweep.errors import InputError
from quant_sweep.evaluation.logit_damage import logit_kl
from quant_sweep.graph import Fusion, Network, QuantGraph, capture
from quant_sweep.recovery import OnGrids, Recovery, recover, split_off
from quant_sweep.recovery.recover import damages


@pytest.mark.parametrize("sizes", [[20], [8, 8, 4], [3] * 6 + [2], [1] * 20])
def test_every_8th_input_is_kept_out_however_they_are_batched(sizes: list[int]) -> None:
    inputs = torch.arange(20.0)[:, None]
    seen, kept_out = split_off(inputs.split(sizes))
    assert torch.cat(kept_out).flatten().tolist() == [7, 15]
    assert torch.cat(seen).flatten().tolist() == [i for i in range(20) if i not in (7, 15)]
    assert all(len(batch) for batch in seen)


@pytest.mark.parametrize("sizes", [[8], [4, 4], [1] * 8])
def test_8_inputs_are_enough(sizes: list[int]) -> None:
    seen, kept_out = split_off(torch.arange(8.0)[:, None].split(sizes))
    assert (len(torch.cat(seen)), torch.cat(kept_out).tolist()) == (7, [[7.0]])


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(InputError, match=r"calibration\.images=7: .*allowed: 8 or more"):
        split_off([torch.zeros(4, 1), torch.zeros(3, 1)])


class Worse(Recovery):
    """Sets the last bias far off."""

    def recover(self, original, quantized, batches):  # noqa: ARG002
        graph = quantized.graph.graph
        constants = {**graph.constants, "linear.bias": graph.constants["linear.bias"] + torch.tensor([9.0, 0, 0, 0])}
        return OnGrids(_with_constants(quantized.graph, constants), quantized.qparams)


class Seen(Recovery):
    """Notes what it is given."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []
        self.original: QuantGraph | None = None

    def recover(self, original, quantized, batches):
        self.given, self.original = list(batches), original
        return quantized


def _with_constants(graph: QuantGraph, constants: dict[str, torch.Tensor]) -> QuantGraph:
    return replace(graph, graph=replace(graph.graph, constants=constants))


def test_what_makes_unseen_inputs_worse_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    original, quantized = on_grids(tiny(), images(32), bits=3)
    began = time.process_time()
    with caplog.at_level(logging.INFO):
        made = recover(original, quantized, [images(32)], {"bias": Bias(), "worse": Worse(), "seen": Seen()})
    assert 0 <= sum(step.seconds for step in made.steps.values()) <= time.process_time() - began
    assert {name: step.kept for name, step in made.steps.items()} == {"bias": True, "worse": False, "seen": True}
    assert made.steps["worse"].before == made.steps["bias"].after == made.steps["seen"].before
    assert made.steps["worse"].after > made.steps["worse"].before
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("recovery ")]
    assert [line.split(":")[0].split()[-1] for line in lines] == ["bias", "worse", "seen"]
    assert [("kept" in line, "left out" in line) for line in lines] == [(True, False), (False, True), (True, False)]
    only = recover(original, quantized, [images(32)], {"bias": Bias()})
    for name, value in only.quantized.graph.graph.constants.items():
        assert torch.equal(value, made.quantized.graph.graph.constants[name])


def test_a_method_does_not_see_what_it_is_judged_on() -> None:
    original, quantized = on_grids(tiny(), images(32), bits=3)
    seen = Seen()
    recover(original, quantized, images(32).split(5), {"seen": seen})
    assert torch.equal(torch.cat(seen.given), torch.cat([b[:7] for b in images(32).split(8)]))


class Moves(Recovery):
    """Does what another does, and says that methods after it compare with another float network."""

    def __init__(self, other: Recovery, network: QuantGraph) -> None:
        self.other, self.network = other, network

    def recover(self, original, quantized, batches):
        return self.other.recover(original, quantized, batches)

    def same_network(self, original):  # noqa: ARG002
        return self.network


def test_the_next_method_compares_with_the_network_of_what_was_kept() -> None:
    original, quantized = on_grids(tiny(), images(32), bits=3)
    other = replace(original)
    seen = Seen()
    for method, compared in ((Moves(Bias(), other), other), (Moves(Worse(), other), original), (Bias(), original)):
        recover(original, quantized, [images(32)], {"first": method, "seen": seen})
        assert seen.original is compared


def test_the_result_has_its_weights_on_their_grids() -> None:
    original, quantized = on_grids(tiny(), images(32), bits=3)
    made = recover(original, quantized, [images(32)], {"reconstruct": Reconstruct(rows=500, sweeps=1)})
    beside, on = made.quantized.graph.graph.constants, made.on_grids()
    assert on.qparams is made.quantized.qparams
    weights = {q.name for q in original.weights}
    for name, value in on.graph.graph.constants.items():
        assert torch.equal(value, rounded_weight(made.quantized, name) if name in weights else beside[name])
        assert torch.equal(value, beside[name]) == (name not in weights)


def test_damage_is_the_divergence_of_the_classes() -> None:
    original, quantized = on_grids(tiny(), images(16), bits=3)
    x = images(12, seed=4)
    twin = SlowTwin(quantized.graph, quantized.qparams)
    expected = 16 * float(logit_kl(Network(original.graph)(x) / 4, twin.run(x) / 4).mean())  # at temperature 4
    assert damages(original, [quantized], x.split(5))[0] == pytest.approx(expected, rel=1e-5)


# -- the library --


def test_quantize_has_what_learns_see_more_inputs() -> None:
    """And what does not learn the inputs of the calibration; a tensor that is read by numbers will do."""
    seen: list[Tensor] = []

    class More:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, numbers: Tensor) -> Tensor:
            seen.append(numbers)
            return images(100, seed=8)[numbers]

    calibration = calibrate(capture(tiny(), images(8), Fusion.conv_bn_relu), list(images(32).split(16)))
    methods = [Bias(), Distill(steps=3, batch_size=20)]
    quantized = quantize(calibration, bits=3, observer=MSE(), recovery=methods, more=More())
    assert len(torch.cat(seen[-3:]).unique()) == 60
    again = quantize(calibration, bits=3, observer=MSE(), recovery=methods, more=images(100, seed=8))
    assert quantized.recovery[1].after == again.recovery[1].after
    without = quantize(calibration, bits=3, observer=MSE(), recovery=methods)
    assert without.recovery[1].after != again.recovery[1].after
    assert without.recovery[0].after == again.recovery[0].after


def test_quantize_recovers() -> None:
    graph = capture(tiny(), images(8), Fusion.conv_bn_relu)
    calibration = calibrate(graph, list(images(32).split(16)))
    plain = quantize(calibration, weight_bits=3, activation_bits=8, observer=MSE())
    recovered = quantize(calibration, weight_bits=3, activation_bits=8, observer=MSE(), recovery=[Reconstruct()])
    (step,) = recovered.recovery
    assert step.kept
    assert step.after < step.before
    assert plain.recovery == ()
    assert recovered.qparams["conv1.weight"].spec.bits == 3
    assert recovered.qparams["input"].spec.bits == 8
    wanted, test = Network(graph.graph), images(64, seed=9)
    off = [float(logit_kl(wanted(test), made.network(test)).mean()) for made in (recovered, plain)]
    assert off[0] < off[1]


def test_batches_that_can_be_read_once_are_refused() -> None:
    calibration = calibrate(capture(tiny(), images(8), Fusion.conv_bn_relu), iter(images(16).split(8)))
    quantize(calibration, bits=4, observer=MSE())
    with pytest.raises(InputError, match=r"give calibrate\(\) a list"):
        quantize(calibration, bits=4, observer=MSE(), recovery=[Bias()])


def test_the_library_takes_the_engine_that_the_command_takes(exact_int8: int) -> None:
    calibration = calibrate(capture(tiny(), images(8), Fusion.conv_bn_relu), [images(8)])

    def kind(bits: int, engine: Engine | None = None) -> type:
        return type(quantize(calibration, bits=bits, observer=MSE(), engine=engine).network)

    assert kind(min(exact_int8, 4)) is kind(4, Int8())
    assert kind(9) is kind(9, Simulate()) is Network
