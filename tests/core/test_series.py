"""Series: cutting it keeps what it should."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_lebm.series import Series

NAN = math.nan


def series(n: int = 6, t: int = 5, d: int = 2, each: bool = False) -> Series:
    times = torch.arange(float(t))
    covariates = torch.randn(n, t, 3)
    return Series(
        times.expand(n, t).clone() if each else times, torch.randn(n, t, d), covariates=covariates
    )


def test_default_mask_is_what_is_finite() -> None:
    values = torch.tensor([[[1.0, NAN], [math.inf, 2.0]]])
    s = Series(torch.tensor([0.0, 1.0]), values)
    assert s.mask.tolist() == [[[True, False], [False, True]]]
    assert s.filled.tolist() == [[[1.0, 0.0], [0.0, 2.0]]]
    assert (len(s), s.length, s.observed, s.total) == (1, 2, 2, 1)
    assert s.index.tolist() == [0]


def test_filled_keeps_nan_out_of_gradients() -> None:
    s = Series(torch.tensor([0.0, 1.0]), torch.tensor([[[1.0], [NAN]]]))
    mean = torch.zeros(1, 2, 1, requires_grad=True)
    ((s.filled - mean).square() * s.mask).sum().backward()
    assert mean.grad is not None and mean.grad.flatten().tolist() == [-2.0, 0.0]


def test_mask_per_time_point_holds_for_all_features() -> None:
    s = Series(torch.arange(3), torch.randn(1, 3, 2), torch.tensor([[True, False, True]]))
    assert s.mask[0].tolist() == [[True, True], [False, False], [True, True]]


def test_times_take_the_dtype_of_values() -> None:
    s = Series(torch.arange(3), torch.randn(1, 3, 2, dtype=torch.float64))
    assert s.times.dtype == torch.float64


def test_fields_cannot_be_assigned() -> None:
    with pytest.raises(AttributeError):
        series().total = 3  # type: ignore[misc]


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("idx", [torch.tensor([1, 4]), [1, 4], slice(1, 5, 3)])
def test_a_batch_remembers_where_it_came_from(idx: Tensor | list[int] | slice, each: bool) -> None:
    s = series(each=each)
    batch = s.batch(idx)
    assert (len(batch), batch.total, batch.index.tolist()) == (2, 6, [1, 4])
    assert batch.times.shape == ((2, 5) if each else (5,))
    assert batch.covariates is not None and s.covariates is not None
    assert torch.equal(batch.covariates, s.covariates[[1, 4]])
    assert torch.equal(batch.values, s.values[[1, 4]])
    # A batch of a batch still refers to the whole.
    assert batch.batch(1).index.tolist() == [4]


def test_an_item_stands_alone() -> None:
    s = series()
    cut = s[[4, 1]]
    assert (len(cut), cut.total, cut.index.tolist()) == (2, 2, [0, 1])
    assert torch.equal(s[3].values, s.values[3:4])
    assert torch.equal(s[-1].values, s.values[5:])
    with pytest.raises(IndexError):
        s[6]
    assert len(list(iter(s))) == 6


def test_minibatches_visit_each_sequence_once() -> None:
    s = series(n=7)
    batches = list(s.minibatches(3))
    assert [len(b) for b in batches] == [3, 3, 1]
    order = torch.cat([b.index for b in batches])
    assert order.sort().values.tolist() == list(range(7))
    assert torch.equal(torch.cat([b.values for b in batches]), s.values[order])


def test_minibatches_follow_their_generator() -> None:
    def order(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        parts = [b.index for b in series(n=50).minibatches(8, generator)]
        return torch.cat(parts).tolist()

    assert order(1) == order(1) != order(2)


def test_hide_keeps_so_many_observed_points() -> None:
    values = torch.randn(40, 20, 2)
    values[:20, :15] = NAN
    values[:, 17, 0] = NAN
    s = Series(torch.arange(20.0), values)
    given = s.hide(8, torch.Generator().manual_seed(0))
    points = given.mask.any(-1).sum(-1)
    assert points.tolist() == [5] * 20 + [8] * 20
    assert not (given.mask & ~s.mask).any()
    # All features of a kept point stay.
    assert torch.equal(given.mask, s.mask & given.mask.any(-1, keepdim=True))
    # Which points are kept differs between sequences.
    assert len(given.mask[20:].any(-1).unique(dim=0)) > 10


def test_hide_is_uniform_over_points() -> None:
    given = Series(torch.arange(10.0), torch.zeros(4000, 10, 1)).hide(3)
    assert torch.allclose(given.mask.float().mean(0), torch.tensor(0.3), atol=0.03)


def test_hide_a_fraction() -> None:
    values = torch.zeros(2, 10, 1)
    values[1, 4:] = NAN
    given = Series(torch.arange(10.0), values).hide(0.5)
    assert given.mask.sum((1, 2)).tolist() == [5, 2]
    assert Series(torch.arange(10.0), values).hide(0.01).mask.sum((1, 2)).tolist() == [1, 1]


def test_split_at_a_time() -> None:
    s = series(t=5)
    given, target = s.split(2.0)
    assert given.mask[0, :, 0].tolist() == [True, True, True, False, False]
    assert torch.equal(target.mask, s.mask & ~given.mask)
    per_sequence = Series(torch.tensor([[0.0, 1.0], [0.0, 5.0]]), torch.zeros(2, 2, 1))
    assert per_sequence.until(2.0).mask[..., 0].tolist() == [[True, True], [True, False]]


def test_a_cut_keeps_the_beginning_and_each_first_point() -> None:
    times = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.5, 2.5, 4.0, 5.0]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)[..., None]
    covariates = torch.arange(8.0).reshape(2, 4, 1)
    series = Series(times, torch.ones(2, 4, 1), mask, covariates)
    cut = series.cut(1.5)
    # The second sequence has nothing observed by 1.5, and keeps the point at 2.5.
    assert cut.mask[..., 0].tolist() == [[True, True], [False, True]]
    assert cut.times.tolist() == [[0.0, 1.0], [0.5, 2.5]]
    assert cut.values.shape == (2, 2, 1) and cut.covariates is not None
    assert cut.covariates[..., 0].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert series.cut(9.0).length == 4
    assert (cut.index.tolist(), cut.total) == ([0, 1], 2)


def test_only_some_features_stay_observed() -> None:
    s = series(d=3).hide(4)
    for features in (slice(1, None), [1, 2]):
        rest = s.only(features)
        assert not rest.mask[..., 0].any() and torch.equal(rest.mask[..., 1:], s.mask[..., 1:])
        assert torch.equal(rest.values, s.values) and rest.covariates is s.covariates
    part = s.batch([4, 2]).only(slice(1))
    assert (part.index.tolist(), part.total) == ([4, 2], 6)


def test_only_refuses_features_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"features: expected places from 0 to 1, got \[0, 2\]"):
        series().only([0, 2])
    with pytest.raises(ValueError, match=r"features \(\[\]\): expected every sequence"):
        series().only([])


def test_without_is_what_is_left() -> None:
    s = series(t=10)
    given = s.hide(4)
    rest = s.without(given)
    assert torch.equal(rest.mask ^ given.mask, s.mask)
    assert not (rest.mask & given.mask).any()


def test_from_list_pads() -> None:
    a = (torch.tensor([0.0, 1.0]), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
    b = (torch.tensor([0.0, 2.0, 3.0]), torch.tensor([[5.0], [NAN], [7.0]]), torch.zeros(3, 1))
    s = Series.from_list([a, b])
    assert s.times.tolist() == [[0.0, 1.0, 1.0], [0.0, 2.0, 3.0]]
    assert s.mask[..., 0].tolist() == [[True, True, False], [True, False, True]]
    assert s.covariates is not None and s.covariates[0].flatten().tolist() == [3.0, 4.0, 4.0]


def test_a_padded_tail_may_repeat_and_nothing_else_may() -> None:
    values, mask = torch.zeros(1, 4, 1), torch.tensor([[True, True, False, False]])
    Series(torch.tensor([[0.0, 1.0, 1.0, 1.0]]), values, mask)
    Series(torch.tensor([0.0, 1.0, 1.0, 1.0]), values, mask)
    with pytest.raises(ValueError, match="times: expected strictly increasing"):
        Series(torch.tensor([[0.0, 1.0, 1.0, 0.5]]), values, mask)
    with pytest.raises(ValueError, match="times: expected strictly increasing"):
        Series(torch.tensor([[0.0, 0.0, 1.0, 2.0]]), values, mask)
    # A hidden point is no tail while something later is observed.
    with pytest.raises(ValueError, match="times: expected strictly increasing"):
        Series(torch.tensor([[0.0, 1.0, 1.0, 2.0]]), values, mask[:, [0, 2, 3, 1]])


def test_to_another_precision() -> None:
    s = series().batch([2, 3]).to(dtype=torch.float64)
    assert s.values.dtype == s.times.dtype == torch.float64
    assert s.mask.dtype == torch.bool and s.index.tolist() == [2, 3] and s.total == 6


def test_repr_counts() -> None:
    assert repr(series().batch([0])) == "Series(N=1 of 6, T=5, D=2, C=3, observed 10 of 10 entries)"
