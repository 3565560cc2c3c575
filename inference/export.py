"""Posterior draws, predictions and data to ArviZ, whichever way they were drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import torch
from pyro.infer import MCMC
from torch import Tensor

from pyro_lebm.series import Series

from .draws import Draws
from .predict import Model, log_likelihood, posterior_predict, prior_draws

# Statistics by the names that ArviZ and its users know.
_STATS = {
    "acceptance": "acceptance_rate",
    "acceptance rate": "acceptance_rate",
    "accept_prob": "acceptance_rate",
    "divergences": "diverging",
    "divergence": "diverging",
    "log_joint": "lp",
    "num_steps": "n_steps",
    "step size": "step_size",
}
_CONDITIONAL = (
    "log p(x_n | z_n) of each sequence given its own latents: conditional, not marginal. "
    "Not for leave-one-out comparison of models or parameters."
)
_Groups = dict[str, dict[str, np.ndarray]]
_Dims = dict[str, list[str]]


def to_arviz(
    draws: Draws | MCMC,
    *,
    model: Model | None = None,
    series: Series | None = None,
    times: Tensor | None = None,
    covariates: Tensor | None = None,
    num_prior_draws: int | None = None,
    deterministics: Mapping[str, Tensor] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    batch_size: int | None = None,
) -> Any:
    """Everything known about a posterior as one ``arviz.InferenceData`` (ArviZ 1: a ``DataTree``).

    Groups: ``posterior``; ``sample_stats`` if there are any; with a series ``observed_data``
    (hidden entries NaN) and ``constant_data`` (times, mask, covariates); with a model as well
    ``posterior_predictive`` and ``log_likelihood`` (of each sequence, conditional on its latents);
    with new times ``predictions`` and ``predictions_constant_data``; ``prior`` on demand.
    Dimensions are named sequence, time, prediction_time, feature, covariate and latent.

    Args:
        draws: of any guide or kernel, or a finished ``pyro.infer.MCMC``.
        model: the generative program.
        series: the data that the draws are for, in the draws' order.
        times: new times to predict at, ``(T,)`` or ``(N, T)``.
        covariates: ``(N, T, C)`` at the new times, if the series has covariates.
        num_prior_draws: how many draws of the latent sites from the model's prior to add.
        deterministics: further variables for the posterior, ``(chains, draws, ...)``.
        coords: labels by dimension, such as ``{"feature": ["height", "angle"]}``.
        batch_size: draws that the model sees at a time; None: all at once.

    Raises:
        TypeError: if draws are neither ``Draws`` nor ``MCMC`` (a point estimate is no posterior).
        ValueError: if a group is asked for whose model or series is missing, or shapes disagree.

    Example:
        >>> to_arviz(Draws({"z0": torch.randn(4, 50, 3, 2)})).posterior["z0"].dims
        ('chain', 'draw', 'sequence', 'latent')
    """
    if (times is not None or num_prior_draws is not None) and (model is None or series is None):
        raise ValueError("model, series: expected both for predictions or prior draws")
    if covariates is not None and times is None:
        raise ValueError("covariates: expected none without times, the series has its own")
    groups, dims, method = _posterior(draws, series)
    labels: dict[str, Any] = {}
    if series is not None:
        _add_data(groups, dims, labels, series)
    if model is not None and series is not None:
        sample = draws if isinstance(draws, Draws) else _per_sequence(groups["posterior"], series)
        _add_predictions(groups, dims, model, sample, series, times, covariates, batch_size)
        if num_prior_draws is not None:
            before = prior_draws(model, series, num_prior_draws, batch_size=batch_size)
            groups["prior"] = {name: _array(value) for name, value in before.samples.items()}
    for name, value in (deterministics or {}).items():
        groups["posterior"][name] = _array(value)
    return _from_dict(groups, dims, {**labels, **(coords or {})}, _attrs(draws, groups, method))


def write_netcdf(data: Any, path: str | os.PathLike[str]) -> Path:
    """Write to NetCDF: beside the target, then renamed, so that no half file is ever there.

    Args:
        data: what :func:`to_arviz` returned.
        path: read it again with ``arviz.from_netcdf(path, engine="h5netcdf")``.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> data = to_arviz(Draws({"z0": torch.randn(4, 50, 3, 2)}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_netcdf(data, folder + "/posterior.nc").name
        'posterior.nc'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        data.to_netcdf(str(beside), engine="h5netcdf")
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def _posterior(draws: Draws | MCMC, series: Series | None) -> tuple[_Groups, _Dims, str]:
    if isinstance(draws, MCMC):
        return _posterior_of_mcmc(draws, series)
    if not isinstance(draws, Draws):
        raise TypeError(f"draws: expected Draws or pyro.infer.MCMC, got {type(draws).__name__}")
    if series is not None and draws.num_sequences != len(series):
        raise ValueError(
            f"draws: expected draws for the {len(series)} sequences of series, "
            f"got {draws.num_sequences}"
        )
    groups: _Groups = {"posterior": {k: _array(v) for k, v in draws.samples.items()}}
    dims = {name: _site_dims(name, value.dim() - 3) for name, value in draws.samples.items()}
    if draws.stats:
        groups["sample_stats"] = {_STATS.get(k, k): _array(v) for k, v in draws.stats.items()}
        dims |= {_STATS.get(k, k): ["sequence"] for k, v in draws.stats.items() if v.dim() == 3}
    return groups, dims, draws.method


def _posterior_of_mcmc(mcmc: MCMC, series: Series | None) -> tuple[_Groups, _Dims, str]:
    samples = mcmc.get_samples(group_by_chain=True)
    if not samples:
        raise ValueError("draws: expected a finished MCMC run, got one without samples")
    groups: _Groups = {"posterior": {name: _array(value) for name, value in samples.items()}}
    dims = {
        name: _site_dims(name, value.dim() - 3)
        for name, value in samples.items()
        if series is not None and value.shape[2:3] == (len(series),)
    }
    chains, num_draws = next(iter(samples.values())).shape[:2]
    groups["sample_stats"] = _stats_of_mcmc(mcmc, chains, num_draws)
    return groups, dims, f"MCMC, {type(mcmc.kernel).__name__}"


def _stats_of_mcmc(mcmc: MCMC, chains: int, num_draws: int) -> dict[str, np.ndarray]:
    """Which draws diverged, and whatever else the kernel reports one number per draw of."""
    found = {"diverging": np.zeros((chains, num_draws), dtype=bool)}
    # Pyro computes R-hat on the way to the diagnostics and fails on fewer than four draws.
    diagnostics = mcmc.diagnostics() if num_draws >= 4 else {}
    names = [f"chain {c}" for c in range(chains)]
    for key, value in diagnostics.items():
        if not isinstance(value, Mapping) or set(value) != set(names):
            continue
        if key == "divergences":
            for c, name in enumerate(names):
                found["diverging"][c, list(value[name])] = True
        elif all(np.shape(value[name]) == (num_draws,) for name in names):
            found[_STATS.get(key, key)] = np.stack([np.asarray(value[name]) for name in names])
    return found


def _attrs(draws: Draws | MCMC, groups: _Groups, method: str) -> dict[str, dict[str, Any]]:
    attrs: dict[str, dict[str, Any]] = {
        "posterior": {"inference_library": "pyro_lebm", "method": method}
    }
    if "log_likelihood" in groups:
        attrs["log_likelihood"] = {"conditional_on_latents": "true", "note": _CONDITIONAL}
    if isinstance(draws, MCMC) and groups["sample_stats"]["diverging"].shape[1] >= 4:
        # One number a chain, such as Pyro's mean acceptance rate, is no statistic of a draw.
        attrs["sample_stats"] = {
            f"{_STATS.get(key, key)}_by_chain": [float(v) for v in value.values()]
            for key, value in draws.diagnostics().items()
            if isinstance(value, Mapping)
            and all(k.startswith("chain ") and np.shape(v) == () for k, v in value.items())
        }
    return attrs


def _per_sequence(posterior: Mapping[str, np.ndarray], series: Series) -> Draws:
    for name, value in posterior.items():
        if value.shape[2:3] != (len(series),):
            raise ValueError(
                f"draws: expected site {name!r} of shape (chains, draws, {len(series)}, ...) to "
                f"predict for the sequences of series, got {value.shape}"
            )
    return Draws({k: torch.as_tensor(v).to(series.values.device) for k, v in posterior.items()})


def _site_dims(name: str, event_dim: int) -> list[str]:
    event = ["latent"] if event_dim == 1 else [f"{name}_dim_{i}" for i in range(event_dim)]
    return ["sequence", *event]


def _add_data(groups: _Groups, dims: _Dims, labels: dict[str, Any], series: Series) -> None:
    shared = series.times.dim() == 1
    hidden = torch.where(series.mask, series.values, torch.nan)
    groups["observed_data"] = {"x": _array(hidden)}
    groups["constant_data"] = {"times": _array(series.times), "mask": _array(series.mask)}
    dims["x"] = dims["mask"] = ["sequence", "time", "feature"]
    dims["times"] = ["time"] if shared else ["sequence", "time"]
    if series.covariates is not None:
        groups["constant_data"]["covariates"] = _array(series.covariates)
        dims["covariates"] = ["sequence", "time", "covariate"]
    labels["sequence"] = _array(series.index)
    if shared:
        labels["time"] = _array(series.times)


def _add_predictions(
    groups: _Groups,
    dims: _Dims,
    model: Model,
    draws: Draws,
    series: Series,
    times: Tensor | None,
    covariates: Tensor | None,
    batch_size: int | None,
) -> None:
    paths = posterior_predict(model, draws, series, batch_size=batch_size)
    density = log_likelihood(model, draws, series, batch_size=batch_size)
    groups["posterior_predictive"] = {"x": _array(paths)}
    # Another name than the data's: ArviZ would give both the same dimensions.
    groups["log_likelihood"] = {"x_given_latents": _array(density)}
    dims["x_given_latents"] = ["sequence"]
    if times is None:
        return
    paths = posterior_predict(
        model, draws, series, times, covariates=covariates, batch_size=batch_size
    )
    groups["predictions"] = {"x": _array(paths)}
    # Other names than in constant_data: ArviZ 0.23 gives a variable one set of dimensions.
    known = {"prediction_times": _array(times)}
    dims["prediction_times"] = ["sequence", "prediction_time"][-known["prediction_times"].ndim :]
    if covariates is not None:
        known["prediction_covariates"] = _array(covariates)
        dims["prediction_covariates"] = ["sequence", "prediction_time", "covariate"]
    groups["predictions_constant_data"] = known


def _from_dict(
    groups: _Groups, dims: _Dims, coords: dict[str, Any], attrs: dict[str, dict[str, Any]]
) -> Any:
    """``arviz.from_dict`` of both generations: groups as keywords (0.23) or nested (1.x)."""
    times = groups.get("predictions_constant_data", {}).get("prediction_times")
    if times is not None and times.ndim == 1:
        coords = {"prediction_time": times, **coords}
    pred_dims = {**dims, "x": ["sequence", "prediction_time", "feature"]}
    shared: dict[str, Any] = {"coords": coords, "dims": dims, "pred_dims": pred_dims}
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups, **shared, pred_coords=coords, attrs=attrs)
    named: dict[str, Any] = {f"{group}_attrs": value for group, value in attrs.items()}
    return arviz.from_dict(**{**groups, **shared, **named})


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
