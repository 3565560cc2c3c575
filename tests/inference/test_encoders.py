from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.inference.guides.encoders import GRUEncoder, ODERNNEncoder, pack
from pyro_lebm.series import Series

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "gru": GRUEncoder,
    "ode-rnn": ODERNNEncoder,
    "ode-rnn, euler": partial(ODERNNEncoder, method="euler", substeps=2),
}
every_encoder = pytest.mark.parametrize("make", ENCODERS.values(), ids=list(ENCODERS))
shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])


def irregular(shared: bool = True, n: int = 5, length: int = 9, observed: int = 2) -> Series:
    """Sequences with different numbers of observed points, hidden entries NaN, covariates."""
    size = (length,) if shared else (n, length)
    times = torch.rand(size, dtype=torch.float64).cumsum(-1)
    values = torch.randn(n, length, observed, dtype=torch.float64)
    mask = torch.rand(n, length, observed) < torch.linspace(0.1, 0.4, n)[:, None, None]
    mask[:, 3] = True
    covariates = torch.randn(n, length, 1, dtype=torch.float64)
    return Series(times, values.where(mask, torch.nan), mask, covariates)


def refilled(series: Series, fill: float) -> Series:
    values = series.values.where(series.mask, torch.tensor(fill, dtype=torch.float64))
    return Series(series.times, values, series.mask, series.covariates)


def built(make: Callable[..., nn.Module], t0: float | None = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return make(observed=2, hidden=6, features=4, covariates=1, t0=t0).double()


def gradients(encoder: nn.Module, series: Series) -> list[Tensor]:
    return list(torch.autograd.grad(encoder(series).square().sum(), list(encoder.parameters())))


def by_hand(series: Series, n: int) -> list[tuple[float, int]]:
    """(gap down to the next, position) of sequence n's observed points, latest first."""
    times = series.times.expand(len(series), series.length)[n]
    seen = [t for t in reversed(range(series.length)) if bool(series.mask[n, t].any())]
    below = [*[float(times[t]) for t in seen[1:]], 0.0]
    return [(float(times[t]) - b, t) for t, b in zip(seen, below, strict=True)]


@shared_or_not
def test_pack_keeps_observed_points_backward_with_their_gaps(shared: bool) -> None:
    torch.manual_seed(0)
    series = irregular(shared)
    packed = pack(series)
    assert packed.inputs.shape[1] == int(series.mask.any(-1).sum(1).max()) < series.length
    for n in range(len(series)):
        points = by_hand(series, n)
        assert int(packed.length[n]) == len(points) == int(packed.valid[n].sum())
        for k, (gap, t) in enumerate(points):
            assert series.covariates is not None
            row = [series.filled[n, t], series.mask[n, t].double(), series.covariates[n, t]]
            assert torch.equal(packed.inputs[n, k], torch.cat(row))
            assert float(packed.gaps[n, k]) == pytest.approx(gap)
        assert not packed.inputs[n, len(points) :].any()
        assert not packed.gaps[n, len(points) :].any()


def test_gap_to_the_latent_state_follows_t0() -> None:
    torch.manual_seed(0)
    series = irregular(shared=False)
    first = series.times[:, 0]
    moved = pack(series, t0=-1.0).gaps.sum(1) - pack(series, t0=0.0).gaps.sum(1)
    assert torch.allclose(moved, torch.ones(5, dtype=torch.float64))
    own = pack(series, t0=0.0).gaps.sum(1) - pack(series, t0=None).gaps.sum(1)
    assert torch.allclose(own, first)


@shared_or_not
def test_gru_equals_a_loop_over_the_observed_points(shared: bool) -> None:
    torch.manual_seed(0)
    series = irregular(shared)
    encoder: Any = built(GRUEncoder)
    for n in range(len(series)):
        assert series.covariates is not None
        steps = [
            [series.filled[n, t], series.mask[n, t].double(), series.covariates[n, t], [gap]]
            for gap, t in by_hand(series, n)
        ]
        inputs = torch.stack([torch.cat([torch.as_tensor(p).double() for p in s]) for s in steps])
        _, last = encoder.gru(inputs[:, None])
        assert torch.allclose(encoder(series)[n], encoder.readout(last[0, 0]), atol=1e-12)


@every_encoder
@shared_or_not
def test_hidden_entries_never_matter(make: Callable[..., nn.Module], shared: bool) -> None:
    torch.manual_seed(0)
    series = irregular(shared)
    encoder = built(make)
    for fill in (0.0, 1e30, float("inf")):
        other = refilled(series, fill)
        assert torch.equal(encoder(series), encoder(other))
        for a, b in zip(gradients(encoder, series), gradients(encoder, other), strict=True):
            assert torch.isfinite(a).all()
            assert torch.equal(a, b)


@every_encoder
def test_observed_entries_times_and_covariates_matter(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    series = irregular()
    encoder = built(make)
    base = encoder(series)
    assert series.covariates is not None
    louder = Series(series.times, series.values * 2, series.mask, series.covariates)
    slower = Series(series.times * 2, series.values, series.mask, series.covariates)
    driven = Series(series.times, series.values, series.mask, series.covariates + 1)
    for changed in (louder, slower, driven):
        assert ((encoder(changed) - base).abs().amax(-1) > 1e-6).all()


@every_encoder
@shared_or_not
def test_permuting_sequences_permutes_features(
    make: Callable[..., nn.Module], shared: bool
) -> None:
    torch.manual_seed(0)
    series = irregular(shared)
    encoder = built(make)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(encoder(series[order]), encoder(series)[order], atol=1e-12)


@every_encoder
@pytest.mark.parametrize("t0", [0.0, None])
def test_padding_never_matters(make: Callable[..., nn.Module], t0: float | None) -> None:
    torch.manual_seed(0)
    series = irregular(shared=False)
    assert series.covariates is not None
    encoder = built(make, t0)

    def padded(x: Tensor, tail: Tensor) -> Tensor:
        return torch.cat([x, tail], 1)

    longer = Series(
        padded(series.times, series.times[:, -1:].expand(-1, 4)),
        padded(series.values, torch.full((5, 4, 2), torch.nan, dtype=torch.float64)),
        padded(series.mask, torch.zeros(5, 4, 2, dtype=torch.bool)),
        padded(series.covariates, torch.full((5, 4, 1), 7.0, dtype=torch.float64)),
    )
    assert torch.allclose(encoder(longer), encoder(series), atol=1e-12)
    for n in range(len(series)):  # alone, a short sequence has no neighbour's padding either
        assert torch.allclose(encoder(series[n])[0], encoder(series)[n], atol=1e-12)


def test_ode_rnn_crosses_gaps_by_its_field() -> None:
    """With the field dh/ds = -h the state decays by exp(-gap) after each update."""
    torch.manual_seed(0)
    times = torch.tensor([0.5, 2.0], dtype=torch.float64)
    series = Series(times, torch.randn(1, 2, 1, dtype=torch.float64))
    encoder = ODERNNEncoder(1, 3, features=3, substeps=50).double()
    encoder.field = torch.nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        encoder.field.weight.copy_(-torch.eye(3))
    x = [torch.tensor([[float(v), 1.0]], dtype=torch.float64) for v in series.values[0, :, 0]]
    state = encoder.cell(x[1], torch.zeros(1, 3, dtype=torch.float64)) * torch.exp(-times.diff())
    state = encoder.cell(x[0], state) * torch.exp(-times[0])
    assert torch.allclose(encoder(series), encoder.readout(state), atol=1e-9)


@every_encoder
def test_single_precision_and_no_covariates(make: Callable[..., nn.Module]) -> None:
    encoder = make(observed=1, features=3)
    series = Series(torch.linspace(0, 1, 4), torch.randn(2, 4, 1))
    assert encoder(series).shape == (2, 3)
    assert encoder(series).dtype == torch.float32


@every_encoder
@shared_or_not
def test_a_batch_with_nothing_observed_has_features(
    make: Callable[..., nn.Module], shared: bool
) -> None:
    torch.manual_seed(0)
    series = irregular(shared)
    nothing = series.without(series)
    encoder = built(make)
    assert torch.isfinite(encoder(nothing)).all()
    assert all(torch.isfinite(g).all() for g in gradients(encoder, nothing))
    # Such a sequence gets the same features beside others that have something observed.
    mixed = series._with(mask=series.mask & (torch.arange(5) > 0)[:, None, None])
    assert torch.allclose(encoder(mixed)[0], encoder(nothing)[0], atol=1e-12)


@every_encoder
def test_bad_input_is_refused(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="series: expected 2 observed features, got 3"):
        built(make)(irregular(observed=3))
    with pytest.raises(ValueError, match="series: expected 0 covariates, got 1"):
        make(observed=2, features=1).double()(irregular())
    for name in ("observed", "hidden", "features"):
        sizes = {"observed": 1, "hidden": 1, "features": 1} | {name: 0}
        with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
            make(**sizes)


def test_bad_ode_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="substeps: expected at least 1, got 0"):
        ODERNNEncoder(1, features=1, substeps=0)
    with pytest.raises(ValueError, match="field_hidden: expected at least 1, got 0"):
        ODERNNEncoder(1, features=1, field_hidden=0)
    with pytest.raises(ValueError, match="method: expected 'euler' or 'rk4', got 'heun'"):
        ODERNNEncoder(1, features=1, method="heun")
