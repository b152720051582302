"""The library without a command: calibrate once, quantize many times, evaluate."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import images, tiny

from quant_sweep.calibration.one_pass import Calibration, calibrate
from quant_sweep.data import calibration_indices, digits
from quant_sweep.engines import Engine
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.errors import InputError
from quant_sweep.evaluation.evaluate import evaluate
from quant_sweep.graph import Fusion, Network, capture
from quant_sweep.models import resnet20
from quant_sweep.observers import MSE, FakeHist
from quant_sweep.quantization.quantize import quantize
from quant_sweep.quantization.scheme import Scheme


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(capture(tiny(), images(8), Fusion.conv_bn_relu), [images(8)])


def test_digits_from_images_to_accuracy(tmp_path: Path) -> None:
    data = digits(name="digits", size=8, mean=[0.3], std=[0.38], cache_dir=str(tmp_path), test_fraction=0.25, seed=0)
    torch.manual_seed(0)
    model = resnet20(num_classes=10, in_channels=1).eval()
    original = evaluate(model, data, data.test, batch_size=128)
    chosen = data.train.images[calibration_indices(data.train.labels, 128, seed=0)]
    calibration = calibrate(
        capture(model, data.normalize(chosen[:2]), Fusion.conv_bn_relu), map(data.normalize, chosen.split(64))
    )
    agreements = []
    for bits in (8, 6, 4, 3):
        quantized = quantize(calibration, bits=bits, observer=FakeHist(percentile=99.99), weight_observer=MSE())
        evaluation = evaluate(quantized.network, data, data.test, batch_size=128)
        agreements.append(evaluation.agreement(original))
        assert quantized.qparams["input"].spec.bits == bits
        assert 0 <= evaluation.accuracy <= 100
    assert agreements[0] > 90
    assert agreements[0] == max(agreements)


def test_more_bits_are_nearer_to_float(calibration: Calibration) -> None:
    batch = images(16, seed=5)
    with torch.no_grad():
        original = Network(calibration.graph.graph)(batch)
        errors = [
            float((quantize(calibration, bits=bits, observer=MSE()).network(batch) - original).norm())
            for bits in (16, 8, 6, 4, 2)
        ]
    assert errors == sorted(errors)
    assert errors[0] < 1e-2 * errors[-1]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_widths_is_as_good_as_a_mapping(calibration: Calibration, tmp_path: Path, kind: type) -> None:
    (tmp_path / "widths.yaml").write_text("input: 8\nlinear: 3\nrelu: float\n")
    found = quantize(calibration, bits=4, observer=MSE(), overrides=kind(tmp_path / "widths.yaml")).qparams
    same = quantize(calibration, bits=4, observer=MSE(), overrides={"input": 8, "linear": 3, "relu": "float"}).qparams
    assert {name: grid.spec for name, grid in found.items()} == {name: grid.spec for name, grid in same.items()}
    assert (found["input"].spec.bits, found["linear.weight"].spec.bits) == (8, 3)
    assert "relu.output" not in found


def test_settings_reach_the_grids(calibration: Calibration) -> None:
    signed = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)
    qparams = quantize(
        calibration, bits=4, observer=MSE(), scheme=signed, overrides={"input": 8, "linear": 7, "linear.weight": 6}
    ).qparams
    assert {name: grid.spec.bits for name, grid in qparams.items()} == {
        **dict.fromkeys(calibration.graph.names, 4),
        "input": 8,
        "linear.weight": 6,
    }
    assert all(grid.spec.signed and grid.scale.dim() == 0 and int(grid.zero_point) == 0 for grid in qparams.values())


def test_an_engine_of_ones_own(calibration: Calibration) -> None:
    class Original(Engine):
        def build(self, graph, qparams):  # noqa: ARG002
            return Network(graph.graph)

    network = quantize(calibration, bits=4, observer=MSE(), engine=Original()).network
    assert isinstance(network, Network)
    assert network.graph is calibration.graph.graph


def test_integers_compute_where_the_images_are_on_the_cpu(calibration: Calibration, exact_int8: int) -> None:
    bits = min(7, exact_int8)
    for batches, integers in ((calibration.batches, True), (None, True), ([images(8).to("meta")], False)):
        given = replace(calibration, batches=batches)
        network = quantize(given, bits=bits, observer=MSE()).network
        assert isinstance(network, NetworkOfCodes) is integers


@pytest.mark.parametrize("bits", [0, -1, 1, 17, 33, 8.5, "8", True, None])
def test_bad_widths(calibration: Calibration, bits: object) -> None:
    with pytest.raises(InputError, match="whole numbers 2 to 16"):
        quantize(calibration, bits=bits, observer=MSE())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 to 16"):
        quantize(calibration, bits=8, observer=MSE(), overrides={"input": bits})  # type: ignore[dict-item]


def test_override_that_names_nothing(calibration: Calibration) -> None:
    with pytest.raises(InputError, match=r"overrides\.nonsense: .*there are input, "):
        quantize(calibration, bits=8, observer=MSE(), overrides={"nonsense": 8})
