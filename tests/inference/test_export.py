from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_lebm import EnergyBased, MLPEnergy
from pyro_lebm.inference import MALA, VectorizedMCMC, export
from pyro_lebm.inference.draws import Draws, PointEstimate
from pyro_lebm.inference.export import to_arviz, write_netcdf
from pyro_lebm.series import Series
from straight_lines import Lines, lines, posterior

arviz: Any = importlib.import_module("arviz")  # much of it is not annotated
NEW = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)


def drawn(series: Series, chains: int = 4, draws: int = 50) -> Draws:
    stats = {
        "lp": torch.randn(chains, draws, len(series)),
        "acceptance": torch.rand(chains, draws),
        "diverging": torch.rand(chains, draws) < 0.1,
    }
    return Draws({"z0": posterior(series).sample((chains, draws))}, stats, "exact")


def everything(shared: bool = True) -> tuple[Series, Draws, Any]:
    torch.manual_seed(0)
    series = lines(shared=shared).hide(4)
    draws = drawn(series)
    times = NEW if shared else NEW.expand(4, 3)
    return (
        series,
        draws,
        to_arviz(
            draws, model=Lines(), series=series, times=times, num_prior_draws=20, batch_size=64
        ),
    )


class Finished(MCMC):
    """A run whose results are given, as Pyro's MCMC hands them out."""

    def __init__(self, samples: dict[str, Tensor], diagnostics: dict[str, Any]) -> None:
        self.samples, self.found, self.kernel = samples, diagnostics, object()

    def get_samples(self, num_samples: int | None = None, group_by_chain: bool = False) -> Any:
        return (
            self.samples
            if group_by_chain
            else {k: v.flatten(0, 1) for k, v in self.samples.items()}
        )

    def diagnostics(self) -> dict[str, Any]:
        return self.found


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_groups_dims_and_coordinates(shared: bool) -> None:
    series, _, data = everything(shared)
    assert set(data.groups()) == {
        "posterior", "sample_stats", "posterior_predictive", "predictions", "log_likelihood",
        "observed_data", "constant_data", "predictions_constant_data", "prior",
    }  # fmt: skip
    cd, path = ("chain", "draw"), ("sequence", "time", "feature")
    assert data.posterior["z0"].dims == (*cd, "sequence", "latent")
    assert data.prior["z0"].dims == (*cd, "sequence", "latent")
    assert data.prior["z0"].shape == (1, 20, 4, 2)
    assert data.sample_stats["lp"].dims == (*cd, "sequence")
    assert data.sample_stats["acceptance_rate"].dims == cd
    assert data.posterior_predictive["x"].dims == (*cd, *path)
    assert data.log_likelihood["x_given_latents"].dims == (*cd, "sequence")
    assert data.observed_data["x"].dims == data.constant_data["mask"].dims == path
    assert data.predictions["x"].dims == (*cd, "sequence", "prediction_time", "feature")
    own: tuple[str, ...] = () if shared else ("sequence",)
    assert data.constant_data["times"].dims == (*own, "time")
    assert data.predictions_constant_data["prediction_times"].dims == (*own, "prediction_time")
    if shared:
        assert np.array_equal(data.observed_data["time"], series.times)
        assert np.array_equal(data.predictions["prediction_time"], NEW)


def test_values_are_those_given() -> None:
    series, draws, data = everything()
    assert np.array_equal(data.posterior["z0"], draws["z0"])
    assert np.array_equal(data.sample_stats["diverging"], draws.stats["diverging"])
    assert np.array_equal(np.isnan(data.observed_data["x"]), ~series.mask)
    assert np.array_equal(data.observed_data["x"].values[series.mask], series.values[series.mask])
    assert data.posterior.attrs["method"] == "exact"
    assert data.log_likelihood.attrs["conditional_on_latents"] == "true"
    line = draws["z0"][..., :1] + draws["z0"][..., 1:] * NEW
    assert abs(data.predictions["x"].values[..., 0] - line.numpy()).std() < 1
    assert abs(data.predictions["x"].values[..., 0] - line.numpy()).max() > 0


def test_diagnostics_run_on_it() -> None:
    _, _, data = everything()
    assert arviz.rhat(data)["z0"].max() < 1.1
    assert arviz.ess(data)["z0"].shape == (4, 2)
    summary = arviz.summary(data, var_names=["z0"])
    assert len(summary) == 8
    assert "z0[0, 1]" in summary.index


def test_round_trip_through_netcdf(tmp_path: Path) -> None:
    _, _, data = everything()
    path = write_netcdf(data, tmp_path / "runs" / "posterior.nc")
    back = arviz.from_netcdf(str(path), engine="h5netcdf")
    assert set(back.groups()) == set(data.groups())
    for group in data.groups():
        xarray.testing.assert_equal(back[group], data[group])
    assert back.log_likelihood.attrs["conditional_on_latents"] == "true"
    assert [p.name for p in path.parent.iterdir()] == ["posterior.nc"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    path.write_text("the old one")

    class Broken:
        def to_netcdf(self, name: str, engine: str) -> None:
            Path(name).write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_netcdf(Broken(), path)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_covariates_labels_and_deterministics() -> None:
    torch.manual_seed(0)
    series = lines(driven=True)
    draws = drawn(series)
    data = to_arviz(
        draws,
        model=Lines(),
        series=series,
        times=NEW,
        covariates=torch.zeros(4, 3, 1, dtype=torch.float64),
        deterministics={"slope": draws["z0"][..., 1]},
        coords={"feature": ["height"], "latent": ["level", "slope"]},
    )
    assert data.constant_data["covariates"].dims == ("sequence", "time", "covariate")
    new = data.predictions_constant_data["prediction_covariates"]
    assert new.dims == ("sequence", "prediction_time", "covariate")
    assert list(data.posterior["latent"].values) == ["level", "slope"]
    assert list(data.predictions["feature"].values) == ["height"]
    assert np.array_equal(data.posterior["slope"], draws["z0"][..., 1])


def test_draws_alone_are_enough() -> None:
    data = to_arviz(Draws({"z0": torch.randn(2, 10, 3, 5), "scale": torch.rand(2, 10, 3)}))
    assert set(data.groups()) == {"posterior"}
    assert data.posterior["scale"].dims == ("chain", "draw", "sequence")


def test_more_than_ten_chains_of_mcmc_stay_in_order() -> None:
    torch.manual_seed(0)
    series = lines()
    z0 = torch.arange(12.0, dtype=torch.float64)[:, None, None, None].expand(12, 14, 4, 2)
    chains = [f"chain {c}" for c in range(12)]
    diagnostics = {
        "z0": {"n_eff": torch.ones(4, 2), "r_hat": torch.ones(4, 2)},
        "divergences": {c: [2, 5] if c == "chain 10" else [] for c in chains},
        "acceptance rate": {c: i / 12 for i, c in enumerate(chains)},
        "energy": {c: torch.full((14,), float(i)) for i, c in enumerate(chains)},
    }
    data = to_arviz(Finished({"z0": z0}, diagnostics), model=Lines(), series=series)
    assert np.array_equal(data.posterior["z0"][:, 0, 0, 0], np.arange(12))
    assert np.array_equal(data.sample_stats["energy"][:, 3], np.arange(12))
    where = np.argwhere(data.sample_stats["diverging"].values)
    assert where.tolist() == [[10, 2], [10, 5]]
    assert data.sample_stats.attrs["acceptance_rate_by_chain"][6] == 0.5
    assert data.log_likelihood["x_given_latents"].shape == (12, 14, 4)


def test_a_run_of_pyro_mcmc() -> None:
    pyro.set_rng_seed(0)
    series = lines(n=2)
    run = MCMC(
        NUTS(Lines(), max_tree_depth=3), num_samples=12, warmup_steps=8, disable_progbar=True
    )
    run.run(series)
    data = to_arviz(run, model=Lines(), series=series, times=NEW)
    assert data.posterior["z0"].dims == ("chain", "draw", "sequence", "latent")
    assert data.predictions["x"].shape == (1, 12, 2, 3, 1)
    assert data.posterior.attrs["method"] == "MCMC, NUTS"
    assert to_arviz(run).posterior["z0"].shape == (1, 12, 2, 2)


def test_a_likelihood_without_its_constant_is_told() -> None:
    pyro.set_rng_seed(0)
    energy = MLPEnergy(1, (4,))

    def model(log_z: float | None) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        base = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        pyro.sample("x", EnergyBased(energy, base, log_z=log_z), obs=torch.zeros(1))

    run = VectorizedMCMC(MALA(model), 4, 4, num_chains=2, progress=False)
    run.run(None)
    with pytest.warns(UserWarning, match="log likelihood of x lacks log_z"):
        to_arviz(run)
    run.run(0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        to_arviz(run)


def nested(
    data: dict[str, dict[str, np.ndarray]],
    *,
    name: str | None = None,
    sample_dims: Any = None,
    save_warmup: Any = None,
    index_origin: Any = None,
    coords: Any = None,
    dims: Any = None,
    pred_dims: Any = None,
    pred_coords: Any = None,
    check_conventions: bool = True,
    attrs: Any = None,
) -> xarray.DataTree:
    """``from_dict`` of ArviZ 1.x as far as dimensions, coordinates and attributes go."""
    groups = {}
    for group, values in data.items():
        lead = [] if "data" in group else ["chain", "draw"]
        names, labels = (pred_dims, pred_coords) if "predictions" in group else (dims, coords)
        named = {k: ([*lead, *names.get(k, [])], v) for k, v in values.items()}
        used = {d for key, _ in named.values() for d in key}
        known = {k: v for k, v in labels.items() if k in used}
        groups[group] = xarray.Dataset(named, known, attrs.get(group))
    assert set(attrs) <= set(data)
    return xarray.DataTree.from_dict(groups)


def test_arviz_1_gets_nested_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, _, old = everything()
    fake = SimpleNamespace(__version__="1.3.1", from_dict=nested)
    monkeypatch.setattr(export, "arviz", fake)
    _, _, tree = everything()
    assert isinstance(tree, xarray.DataTree)
    assert set(tree.children) == set(old.groups())
    for group in old.groups():
        for name, value in old[group].data_vars.items():
            assert tree[group][name].dims == value.dims
            assert np.array_equal(tree[group][name], value, equal_nan=value.dtype.kind == "f")
    path = write_netcdf(tree, tmp_path / "posterior.nc")
    with xarray.open_datatree(path, engine="h5netcdf") as back:
        assert set(back.children) == set(old.groups())


def test_bad_input_is_refused() -> None:
    torch.manual_seed(0)
    series = lines()
    draws = drawn(series)
    with pytest.raises(TypeError, match=r"draws: expected Draws, pyro.infer.MCMC, .* got PointEst"):
        to_arviz(PointEstimate({"z0": torch.zeros(4, 2)}, torch.zeros(4), "best"))
    with pytest.raises(ValueError, match=r"draws: expected draws for the 2 sequences .* got 4"):
        to_arviz(draws, series=series[:2])
    with pytest.raises(ValueError, match="model, series: expected both for predictions"):
        to_arviz(draws, series=series, times=NEW)
    with pytest.raises(ValueError, match="model, series: expected both for predictions"):
        to_arviz(draws, model=Lines(), num_prior_draws=3)
    with pytest.raises(ValueError, match="covariates: expected none without times"):
        to_arviz(draws, model=Lines(), series=series, covariates=torch.zeros(4, 3, 1))
    other = Finished({"z0": torch.zeros(1, 3, 5, 2)}, {})
    with pytest.raises(ValueError, match=r"expected site 'z0' of shape \(chains, draws, 4, ...\)"):
        to_arviz(other, model=Lines(), series=series)
    with pytest.raises(ValueError, match="draws: expected a finished MCMC run"):
        to_arviz(Finished({}, {}))
