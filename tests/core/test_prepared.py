"""What is kept beside a series: made once, made anew after a change, gone with the series."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from pyro_lebm import Series
from pyro_lebm.observations.prepared import Prepared


def series() -> Series:
    values = torch.arange(12.0).reshape(2, 3, 2)
    values[0, 1, 0] = torch.nan
    return Series(torch.tensor([0.5, 1.0, 2.0]), values)


def test_it_is_made_once() -> None:
    one = series()
    prepared = Prepared.of(one)
    assert Prepared.of(one) is prepared
    assert (prepared.first, prepared.end) == (0.5, 2.0)
    assert torch.equal(prepared.data.values, one.filled)
    assert torch.equal(prepared.data.mask.bool(), one.mask)
    assert Prepared.of(one[:1]) is not prepared
    readout = prepared.readout(0.0, 0.1, torch.float32)
    assert prepared.readout(0.0, 0.1, torch.float32) is readout and readout.steps == 20
    assert prepared.readout(0.0, 0.2, torch.float32).steps == 10


@pytest.mark.parametrize("name", ["times", "values", "mask"])
def test_a_change_in_place_is_seen(name: str) -> None:
    one = series()
    before = Prepared.of(one)
    getattr(one, name)[..., -1] = {"times": 3.0, "values": 7.0, "mask": False}[name]
    after = Prepared.of(one)
    assert after is not before
    assert after.end == float(one.times.max())
    assert torch.equal(after.data.values, one.filled)
    assert torch.equal(after.data.mask.bool(), one.mask)


@pytest.mark.parametrize("name", ["times", "values", "mask"])
def test_another_tensor_in_its_place_is_seen(name: str) -> None:
    one = series()
    before = Prepared.of(one)
    tensor = getattr(one, name)
    tensor.data = tensor.clone()  # PyTorch does not count this
    assert Prepared.of(one) is not before


def test_a_change_of_what_is_kept_is_undone() -> None:
    one = series()
    Prepared.of(one).data.values.zero_()
    assert torch.equal(Prepared.of(one).data.values, one.filled)


def test_it_does_not_keep_data_alive() -> None:
    one = series()
    kept = weakref.ref(Prepared.of(one).data.values)
    assert kept() is not None
    del one
    gc.collect()
    assert kept() is None


def test_what_pytorch_does_not_count_is_not_kept() -> None:
    with torch.inference_mode():
        one = series()
    assert Prepared.of(one) is not Prepared.of(one)
    values = torch.ones(2, 3, 2, requires_grad=True)
    leading = Series(torch.tensor([0.5, 1.0, 2.0]), values)
    assert Prepared.of(leading) is not Prepared.of(leading)
    assert Prepared.of(leading).data.values.requires_grad


def test_what_inference_mode_prepares_can_be_used_outside() -> None:
    one = series()
    with torch.inference_mode():
        prepared = Prepared.of(one)
        readout = prepared.readout(0.0, 0.1, torch.float32)
        columns = prepared.data.columns
    assert not any(
        x.is_inference() for x in (prepared.data.values, readout.weights, columns.values)
    )


def test_counts_factorials_are_those_of_what_is_seen() -> None:
    data = Prepared.of(series()).data
    expected = torch.lgamma(data.values + 1).where(data.mask.bool(), torch.tensor(0.0))
    assert torch.allclose(data.log_factorials, expected.sum((1, 2)))
    assert torch.equal(data.columns.counts, data.mask.sum(1).T.float())
