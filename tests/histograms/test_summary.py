"""Collecting batches, and weights channel by channel."""

import pytest
import torch
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Collector, _flat, summarize_channels


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(0))


def test_total_and_batches(images: Tensor) -> None:
    collector = Collector(bins=64)
    for batch in images.split([1, 3, 2]):
        collector.update(batch)
    summary = collector.summary()
    at_once = Histogram.of(images.reshape(1, -1), 64)
    assert torch.equal(summary.total.counts, at_once.counts)
    assert [int(batch.total) for batch in summary.recent] == [60, 180, 120]
    for kept, batch in zip(summary.recent, images.split([1, 3, 2]), strict=True):
        alone = Histogram.of(batch.reshape(1, -1), 64)
        for field in ("lo", "hi", "exponent", "first", "counts"):
            found, expected = getattr(kept, field), getattr(alone, field)
            assert found.dtype == expected.dtype
            assert torch.equal(found.reshape(expected.shape), expected)
    assert (summary.total.lo, summary.total.hi) == (images.min(), images.max())


def test_parts_of_a_batch_are_one_batch_in_any_order(images: Tensor) -> None:
    whole, parts = Collector(bins=64), Collector(bins=64)
    for batch in (images, images * 3):
        whole.update(batch)
        for part in (batch[4:], batch[:1], batch[1:4]):
            parts.add(part)
        parts.end_batch()
    for kept, expected in zip(parts.summary().recent, whole.summary().recent, strict=True):
        assert torch.equal(kept.counts, expected.counts)
        assert torch.equal(kept.exponent, expected.exponent)
    assert torch.equal(parts.summary().total.counts, whole.summary().total.counts)


def test_memory_layout_does_not_matter(images: Tensor) -> None:
    plain, channels_last, strided = Collector(), Collector(), Collector()
    plain.update(images)
    channels_last.update(images.to(memory_format=torch.channels_last))
    strided.update(images.transpose(2, 3))
    for other in (channels_last, strided):
        assert torch.equal(plain.summary().total.counts, other.summary().total.counts)


def test_values_are_counted_where_they_lie(images: Tensor) -> None:
    for x in (images, images.to(memory_format=torch.channels_last), images[0], images.flatten()):
        assert _flat(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 7), (2, 3, 4, 5, 6)])
def test_strided_tensors_of_any_number_of_axes(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    strided = (values.transpose(0, 1).contiguous().transpose(0, 1), values.repeat_interleave(2, 0)[::2], values.mT)
    whole = Collector()
    whole.update(values)
    for other in strided:
        assert not other.is_contiguous()
        collector = Collector()
        collector.update(other)
        found = collector.summary().total
        assert torch.equal(found.counts, whole.summary().total.counts)
        assert (found.lo, found.hi) == (values.min(), values.max())


def test_summary_is_a_snapshot(images: Tensor) -> None:
    collector = Collector()
    collector.update(images[:1])
    before = collector.summary()
    collector.update(images[1:])
    assert len(before.recent) == 1
    assert int(before.total.total) == images[:1].numel()


def test_histograms_of_the_last_batches_and_the_ends_of_all() -> None:
    collector = Collector(bins=16)
    for i in range(100):
        collector.update(torch.tensor([-1.0, i + 1.0, i + 2.0]))
    summary = collector.summary()
    assert [batch.hi.item() for batch in summary.recent] == [i + 2.0 for i in range(36, 100)]
    assert summary.batch_hi.flatten().tolist() == [i + 2.0 for i in range(100)]
    assert summary.batch_lo.flatten().tolist() == [-1.0] * 100
    assert int(summary.total.total) == 300


def test_counts_of_old_batches_are_let_go() -> None:
    """What is kept does not grow after twice the 64 batches that a summary wants."""
    collector, kept = Collector(bins=16), list[int]()
    for i in range(260):
        collector.update(torch.full((4,), float(i)))
        kept.append(sum(counts.nbytes for counts in collector._counts))
    assert max(kept) == kept[127]


def test_values_that_require_a_gradient_can_be_observed() -> None:
    collector = Collector()
    collector.update(torch.ones(3, requires_grad=True))
    assert not collector.summary().total.lo.requires_grad


def test_no_batch() -> None:
    with pytest.raises(InputError, match="at least one"):
        Collector().summary()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_batch_leaves_no_trace(value: float) -> None:
    collector = Collector()
    collector.update(torch.ones(2))
    with pytest.raises(InputError, match="NaN or infinity"):
        collector.update(torch.tensor([value]))
    assert collector.summary().total.total.tolist() == [2]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_channels_along_any_axis(images: Tensor, axis: int) -> None:
    summary = summarize_channels(images, axis, bins=32)
    assert summary.total.counts.shape == (images.shape[axis], 32)
    for c in range(images.shape[axis]):
        alone = summarize_channels(images.select(axis, c), None, bins=32).total
        assert torch.equal(summary.total.counts[c], alone.counts[0])
        assert (summary.total.lo[c], summary.total.hi[c]) == (alone.lo[0], alone.hi[0])


def test_whole_weight_is_one_channel_and_one_batch(images: Tensor) -> None:
    summary = summarize_channels(images, None)
    assert summary.total.total.tolist() == [images.numel()]
    assert summary.recent == (summary.total,)
