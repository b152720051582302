"""The calibration draw: size, balance, seed, independence of global state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant_sweep.data import calibration_indices
from quant_sweep.data.subset import balanced_shares
from quant_sweep.errors import InputError


@st.composite
def draws(draw: st.DrawFn) -> tuple[list[int], int]:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) >= 2))
    return sizes, draw(st.integers(2, sum(sizes)))


@given(draws())
def test_shares_sum_to_count_and_are_level_among_classes_that_are_not_used_up(case: tuple[list[int], int]) -> None:
    sizes, count = case
    shares = balanced_shares(sizes, count)
    assert sum(shares) == count
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    for share, size in zip(shares, sizes, strict=True):
        if share < size:  # could give more, so nobody may give over one more
            assert max(shares) <= share + 1


@given(draws(), st.integers(0, 2**31))
def test_draw_has_the_shares_without_replacement(case: tuple[list[int], int], seed: int) -> None:
    sizes, count = case
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    indices = calibration_indices(labels, count, seed)
    assert indices.dtype == torch.int64
    assert len(indices.unique()) == len(indices) == count
    assert labels[indices].bincount(minlength=len(sizes)).tolist() == balanced_shares(sizes, count)


def test_draw_depends_on_the_seed_alone() -> None:
    labels = torch.arange(10).repeat(30)
    torch.manual_seed(1)
    first = calibration_indices(labels, 50, seed=7)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again = calibration_indices(labels, 50, seed=7)
    assert torch.equal(first, again)
    assert not torch.equal(first, calibration_indices(labels, 50, seed=8))
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())  # the draw took nothing from the global state


def test_every_batch_mixes_classes_even_when_the_labels_are_sorted() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    drawn = labels[calibration_indices(labels, 320, seed=0)]
    assert all(len(batch.unique()) >= 7 for batch in drawn.split(32))


def test_a_small_class_gives_all_and_the_rest_is_shared_out() -> None:
    labels = torch.tensor([0] * 3 + [1] * 50 + [2] * 50)
    assert labels[calibration_indices(labels, 43, seed=0)].bincount().tolist() == [3, 20, 20]


@pytest.mark.parametrize("count", [-1, 0, 1, 31, 8.5, True, "8"])
def test_a_count_that_cannot_be_drawn_names_the_key(count: int) -> None:
    with pytest.raises(InputError, match=rf"^calibration\.images={count}: .*allowed: a whole number from 2 to 30"):
        calibration_indices(torch.arange(3).repeat(10), count, seed=0)
