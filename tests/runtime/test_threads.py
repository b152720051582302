"""Images shared out among threads give what they give one after the other."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import captured, cifar_resnet20, images

from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.engines import Int8
from quant_sweep.engines.int8 import IntegerNetwork
from quant_sweep.graph import Fusion
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize
from quant_sweep.runtime.threads import FEWEST_IMAGES, Workers, _number_of_parts


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network(exact_int8: int) -> IntegerNetwork:
    calibration = calibrate(captured(cifar_resnet20, Fusion.conv_bn_relu), [images(8)])
    made = quantize(calibration, bits=min(4, exact_int8), observer=MinMax(), engine=Int8()).network
    assert isinstance(made, IntegerNetwork)
    return made


def test_every_thread_computes_alone_and_the_caller_keeps_its_threads() -> None:
    counts = Workers().map(lambda _: torch.tensor(torch.get_num_threads()), [torch.empty(0)] * 9)
    assert [int(count) for count in counts] == [1] * 9
    assert torch.get_num_threads() == 3


def test_results_come_in_order() -> None:
    parts = [torch.tensor(i) for i in range(50)]
    workers = Workers()
    for _ in range(3):
        assert torch.equal(torch.stack(workers.map(lambda part: part * 2, parts)), torch.arange(50) * 2)


def test_a_single_part_is_given_all_threads() -> None:
    (count,) = Workers().map(lambda _: torch.tensor(torch.get_num_threads()), [torch.empty(0)])
    assert int(count) == 3


@pytest.mark.parametrize("count", [1, 16, 47, 48, 131])
def test_the_same_for_any_number_of_images(network: IntegerNetwork, count: int) -> None:
    """Codes and sums; the last layer's sums times its scale plus its bias are rounded once or twice, as the kernel for
    so many images does it."""
    batch = images(count, seed=1)
    alone = torch.cat([network._run(image, lambda _name, _value: None)[0] for image in batch.split(1)])
    one_rounding = 2.0**-22 * float(alone.abs().max())
    with torch.inference_mode():
        assert float((network(batch) - alone).abs().max()) <= one_rounding
    assert float((copy.deepcopy(network)(batch) - alone).abs().max()) <= one_rounding
    together = network.codes(batch)
    each = [network.codes(image) for image in batch.split(1)]
    for name, codes in together.items():
        assert torch.equal(codes, torch.cat([one[name] for one in each])), name


@pytest.mark.parametrize("enabled", [False, True])
def test_threads_have_gradients_where_the_caller_has_them(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        assert Workers().map(lambda _: torch.is_grad_enabled(), range(5)) == [enabled] * 5


def test_numbers_in_runs_one_a_thread() -> None:
    assert [list(run) for run in Workers().runs(7)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [list(run) for run in Workers().runs(2)] == [[0], [1]]
    assert Workers(torch.device("cuda")).runs(5) == [range(5)]


def test_beside_a_gpu_the_caller_computes() -> None:
    assert Workers(torch.device("cuda")).map(lambda _: torch.get_num_threads(), range(4)) == [3] * 4


def test_what_fails_in_a_thread_fails(network: IntegerNetwork) -> None:
    batch = images(64)
    batch[50] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        network(batch)


@given(images=st.integers(0, 5000), at_once=st.integers(FEWEST_IMAGES, 64), threads=st.integers(1, 64))
def test_parts_are_neither_too_large_nor_needlessly_small(images: int, at_once: int, threads: int) -> None:
    parts = _number_of_parts(images, at_once, threads)
    sizes = [len(part) for part in torch.empty(images).tensor_split(parts)]
    assert max(sizes) <= at_once
    assert min(sizes) >= min(images, FEWEST_IMAGES // 2)
    if images >= threads * FEWEST_IMAGES:
        assert parts % threads == 0 or min(sizes) < 2 * FEWEST_IMAGES
