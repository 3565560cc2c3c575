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
from .sampling.finished import STATS, Finished, finished, recorded
from .sampling.run import Run

_CONDITIONAL = (
    "log p(x_n | z_n) of each sequence given its own latents: conditional, not marginal. "
    "Not for leave-one-out comparison of models or parameters."
)
_Groups = dict[str, dict[str, np.ndarray]]
_Dims = dict[str, list[str]]


def to_arviz(
    draws: Draws | MCMC | Run,
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
        draws: of any guide, or a finished run: Pyro's ``MCMC`` with any kernel, `VectorizedMCMC`,
            `NumPyroMCMC`. Of a run without a series the program is run again at the draws, for
            deterministics, log likelihoods and data; its plates name the dimensions.
        model: the generative program.
        series: the data that the draws are for, in the draws' order.
        times: new times to predict at, ``(T,)`` or ``(N, T)``.
        covariates: ``(N, T, C)`` at the new times, if the series has covariates.
        num_prior_draws: how many draws of the latent sites from the model's prior to add.
        deterministics: further variables for the posterior, ``(chains, draws, ...)``.
        coords: labels by dimension, such as ``{"feature": ["height", "angle"]}``.
        batch_size: draws that the model sees at a time; None: all at once.

    Raises:
        TypeError: if draws are none of these (a point estimate is no posterior).
        ValueError: if a group is asked for whose model or series is missing, or shapes disagree.

    Example:
        >>> to_arviz(Draws({"z0": torch.randn(4, 50, 3, 2)})).posterior["z0"].dims
        ('chain', 'draw', 'sequence', 'latent')
    """
    if (times is not None or num_prior_draws is not None) and (model is None or series is None):
        raise ValueError("model, series: expected both for predictions or prior draws")
    if covariates is not None and times is None:
        raise ValueError("covariates: expected none without times, the series has its own")
    run: Finished | None = None
    if isinstance(draws, Draws):
        (groups, dims), method = _posterior(draws, series), draws.method
    else:
        run = finished(_checked(draws))
        (groups, dims), method = _posterior_of(run, series), run.method
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
    if run is not None and series is None and run.model is not None:
        _add_recorded(groups, dims, run)
    attrs = _attrs(groups, method)
    if run is not None:
        attrs["sample_stats"] = run.attrs
    return _from_dict(groups, dims, {**labels, **(coords or {})}, attrs)


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


def _checked(draws: Any) -> MCMC | Run:
    if not isinstance(draws, MCMC | Run):
        raise TypeError(
            "draws: expected Draws, pyro.infer.MCMC, VectorizedMCMC or NumPyroMCMC, got "
            f"{type(draws).__name__}"
        )
    return draws


def _posterior(draws: Draws, series: Series | None) -> tuple[_Groups, _Dims]:
    if series is not None and draws.num_sequences != len(series):
        raise ValueError(
            f"draws: expected draws for the {len(series)} sequences of series, "
            f"got {draws.num_sequences}"
        )
    groups: _Groups = {"posterior": {k: _array(v) for k, v in draws.samples.items()}}
    dims = {name: _site_dims(name, value.dim() - 3) for name, value in draws.samples.items()}
    if draws.stats:
        groups["sample_stats"] = {STATS.get(k, k): _array(v) for k, v in draws.stats.items()}
        dims |= {STATS.get(k, k): ["sequence"] for k, v in draws.stats.items() if v.dim() == 3}
    return groups, dims


def _posterior_of(run: Finished, series: Series | None) -> tuple[_Groups, _Dims]:
    groups: _Groups = {"posterior": {name: _array(v) for name, v in run.samples.items()}}
    groups["sample_stats"] = run.stats
    dims = {
        name: _site_dims(name, value.dim() - 3)
        for name, value in run.samples.items()
        if series is not None and value.shape[2:3] == (len(series),)
    }
    return groups, dims


def _add_recorded(groups: _Groups, dims: _Dims, run: Finished) -> None:
    """What the program itself says at the draws: deterministics, likelihood, data, plates."""
    said = recorded(run)
    groups["posterior"] |= {name: _array(v) for name, v in said.deterministics.items()}
    if said.observed:
        groups["observed_data"] = {name: _array(v) for name, v in said.observed.items()}
        # Another name than the data's, whose event dimensions it lacks.
        named = {f"{name}_given_latents": v for name, v in said.log_likelihood.items()}
        groups["log_likelihood"] = {name: _array(v) for name, v in named.items()}
        for name, value in said.log_likelihood.items():
            dims[f"{name}_given_latents"] = said.dims[name][: value.dim() - 2]
    dims |= {name: said.dims[name] for name in said.dims}


def _attrs(groups: _Groups, method: str) -> dict[str, dict[str, Any]]:
    attrs: dict[str, dict[str, Any]] = {
        "posterior": {"inference_library": "pyro_lebm", "method": method}
    }
    if "log_likelihood" in groups:
        attrs["log_likelihood"] = {"conditional_on_latents": "true", "note": _CONDITIONAL}
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
