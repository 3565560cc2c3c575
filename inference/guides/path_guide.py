"""A guide for models that go step by step: the noise of each step given the state before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.number_checks import check_numbers, check_whole
from pyro_lebm.programs.program import Model, Program
from pyro_lebm.series import Series, check_series

from ..draws import Draws
from .guide import Guide, check_draws, viewed
from .noised_path import NoisedPath, TargetedPath, Walk
from .path_encoder import PathEncoder

WIDE = 0.5413  # softplus of it is 1
Training = Literal["samples", "diffusion"]


class Offered(NamedTuple):
    """What of a minibatch the guide is given, what the model is scored on, and how much it counts.

    See `PathGuide.offered`.
    """

    given: Series
    scored: Series
    weight: float


class PathGuide(Guide):
    r"""Amortised inference along a path, step by step.

    .. math:: q(z_1 \mid x) \prod_k q(\varepsilon_k \mid z_{k-1}, h_k), \qquad
              z_k = f(z_{k-1}, \Delta_k, \varepsilon_k)

    with Gaussians whose means and scales are networks of the state before and of features
    :math:`h_k` of the observations: those of the past (``history``), and those of the future
    as well (``look_ahead``), which the true posterior depends on; with neither the guide is
    Markovian, :math:`q(z_k \mid z_{k-1}, x_k)`. Steps after which a sequence has nothing observed
    are the prior's. It is trained by the ELBO, with the divergence of each step in closed form as
    far as there is one (``TraceMeanField_ELBO``).

    Args:
        model: the Pyro program, with sites ``z0``, event ``(S,)``, and ``noise``, event ``(K - 1,
            M)``, and a method ``step``, such as a `pyro_lebm.models.DiffusionProcess` or
            `LangevinFlow`.
        series: the training data, values ``(N, K, D)``.
        hidden: width of the networks.
        history: whether a step is told of the past; False alone is the Markovian guide.
        look_ahead: whether it is told of the future; default as ``history``.
        encoder: module ``Series -> (N, K, features)`` with an attribute ``features``; default
            `PathEncoder`.
        training: ``"samples"``, Gaussians over the noise, through whatever sampler the model has;
            ``"diffusion"``, Gaussians over the states and the diffusion-based bound, for a model
            whose ``stochasticity`` is above 0 (the two algorithms of Rezaei 2023, arXiv
            2306.07077).
        dropout: share of entries hidden from the encoder at each step of `fit`, and the only ones
            that the likelihood then counts, as many times as they are few: coordinated dropout
            (Keshtkaran & Pandarinath 2019, arXiv 1908.07896), which keeps a guide from copying its
            input.
        view: what the encoder may see of a training sequence, on the same times; default everything
            observed. New sequences are seen whole.
        unit: a typical gap, in the series' unit.

    Raises:
        TypeError: for a ``series`` that is no Series, a width that is no whole number, a dropout or
            unit that is no number; when called: for a view that returns no Series; from
            ``posterior``: for any option.
        ValueError: for a model with other latent sites or without ``step``, a dropout outside [0,
            1) or of a model whose density is drawn at random, both ``dropout`` and ``view``,
            another training, one by diffusion at stochasticity 0, a unit that is not positive, an
            encoder without ``features``; when called: for an encoder that returns another shape, a
            view on other times, a series or model of another dtype, or a model whose steps draw
            other numbers than when this was built.

    Example:
        >>> class Walk(pyro.nn.PyroModule):
        ...     noise = 1
        ...
        ...     def step(self, z, gap, noise, u=None):
        ...         return z + noise
        ...
        ...     def forward(self, series):
        ...         with pyro.plate("sequences", series.total, subsample=series.index):
        ...             z = pyro.sample("z0", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        ...             e = pyro.sample("noise", dist.Normal(torch.zeros(4, 1), 1.0).to_event(2))
        ...             path = torch.cat([z[..., None, :], z[..., None, :] + e.cumsum(-2)], -2)
        ...             pyro.sample("x", dist.Normal(path, 1.0).to_event(2), obs=series.values)
        >>> series = Series(torch.arange(5.0), torch.zeros(3, 5, 1))
        >>> guide = PathGuide(Walk(), series)
        >>> guide.posterior(series, draws=8)["noise"].shape
        torch.Size([1, 8, 3, 4, 1])
    """

    elbo = TraceMeanField_ELBO

    def __init__(
        self,
        model: Model,
        series: Series,
        hidden: int = 64,
        *,
        history: bool = True,
        look_ahead: bool | None = None,
        encoder: nn.Module | None = None,
        training: Training = "samples",
        dropout: float = 0.0,
        view: Callable[[Series], Series] | None = None,
        unit: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_series(series)
        super().__init__(Program.read(model, series, **kwargs))
        _check(self.program, training)
        _check_options(self.program, hidden, dropout, view, unit)
        if encoder is None:
            channels = 0 if series.covariates is None else series.covariates.shape[-1]
            encoder = PathEncoder(
                series.observed,
                hidden,
                history=history,
                look_ahead=history if look_ahead is None else look_ahead,
                covariates=channels,
                unit=unit,
            )
        self.encoder, self.targets = encoder, training == "diffusion"
        self.dropout, self.view, self.unit = dropout, view, unit
        self.state = self._state()
        features: Any = getattr(encoder, "features", None)
        if not isinstance(features, int):
            raise ValueError("encoder: expected an attribute features, how many a time has")
        self._drawn = self._model.noise
        size = self.state if self.targets else self._drawn
        self.first = nn.Linear(features, 2 * self.state)
        # Of the features of all steps at once, and of the state before each: never concatenated.
        self.told = nn.Linear(features + 1, hidden)
        self.stood = nn.Linear(self.state, hidden, bias=False)
        self.last = nn.Linear(hidden, 2 * size)
        nn.init.normal_(self.last.weight, std=0.01)  # at first the prior, near enough
        nn.init.zeros_(self.last.bias)
        self.to(device=series.values.device, dtype=series.values.dtype)

    @property
    def _model(self) -> Any:
        return self.program.model

    def _state(self) -> int:
        site = next(site for site in self.program.sites if site.name == "z0")
        return int(site.event[-1])

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: how it is trained."""
        training = "diffusion" if self.targets else "samples"
        return {"training": f"{training}, dropout {self.dropout:g}, unit {self.unit:g}"}

    def forward(self, series: Series, **kwargs: Any) -> None:
        """The guide: the first state, and the noise of each step."""
        self._check_series(series)
        program = self.program.rebind(series, **kwargs)
        if self.view is not None:
            series = _viewed(self.view, series)
        features = self._features(series)
        with program.inside(program.common):
            z0 = pyro.sample("z0", self._first(features).to_event(1))
            if series.length > 1:
                pyro.sample("noise", self._noise(series, features, z0))

    def encode(self, series: Series) -> dist.Normal:
        """The variational posterior of the first state, batch shape ``(N, S)``."""
        self._check_series(series)
        return self._first(self._features(series))

    def posterior(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """Draws of the guide itself: an approximation, whatever its training.

        Args:
            series: N sequences, ``(N, K, D)``.
            draws: how many of each.
            options: none.

        Returns:
            ``z0`` ``(1, draws, N, S)`` and, where K > 1, ``noise`` ``(1, draws, N, K - 1, M)``.

        Raises:
            TypeError: for options: they are those of guides that sample by chains or particles; for
                a ``series`` that is no Series or draws that are no whole number.
            ValueError: for fewer than one draw, or a series or model of another dtype.
        """
        if options:
            raise TypeError(f"posterior: a guide's own draws take no options, got {[*options]}")
        check_draws(draws)
        self._check_series(series)
        with torch.no_grad():
            features = self._features(series)
            samples = {"z0": self._first(features).sample(torch.Size((draws,)))}
            if series.length > 1:
                samples["noise"] = self._noise(series, features, samples["z0"]).sample()
        kept = {name: value[None] for name, value in samples.items()}
        return Draws(kept, method="path guide (amortised, step by step)")

    def offered(self, series: Series) -> Offered:
        """What a step of `fit` is made of: see ``dropout``."""
        if not self.dropout:
            return Offered(series, series, 1.0)
        hidden = torch.rand(series.mask.shape, device=series.mask.device) < self.dropout
        given = series._with(mask=series.mask & ~hidden)
        return Offered(given, series.without(given), 1 / self.dropout)

    def _check_series(self, series: Series) -> None:
        """Of the dtype that guide and model are, both alike."""
        check_series(series)
        ours, theirs = next(self.parameters()).dtype, series.values.dtype
        if theirs != ours:
            raise ValueError(
                f"series: expected {ours} as the guide is, got {theirs}; use "
                "series.to(dtype=...) or guide.to(...)"
            )
        parts = self._model.parameters() if isinstance(self._model, nn.Module) else ()
        model = [p.dtype for p in parts if p.is_floating_point()]
        if model and ours not in model:
            raise ValueError(
                f"model: expected {ours} as the guide is, got {model[0]}; use model.to(...) or "
                "guide.to(...)"
            )

    def _features(self, series: Series) -> Tensor:
        found: Tensor = self.encoder(series)
        expected = (len(series), series.length, self.encoder.features)
        if found.shape != expected:
            raise ValueError(f"encoder: expected shape {expected}, got {tuple(found.shape)}")
        return found

    def _first(self, features: Tensor) -> dist.Normal:
        loc, raw = self.first(features[:, 0]).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw + WIDE) + 1e-4)

    def _noise(self, series: Series, features: Tensor, z0: Tensor) -> NoisedPath:
        if self._model.noise != self._drawn:
            raise ValueError(
                f"model: expected {self._drawn} numbers a step, as when this guide was built, got "
                f"{self._model.noise}: put its settings back, or build a guide anew"
            )
        gaps = series.times.to(z0).diff(dim=-1)
        steps = gaps.expand(len(series), -1)[..., None] / self.unit
        told = self.told(torch.cat([features[:, 1:], steps], -1))
        stood, last, targets = self.stood.weight, self.last, self.targets

        def moments(k: int, z: Tensor) -> tuple[Tensor, Tensor]:
            out = last(torch.tanh(told[:, k] + F.linear(z, stood)))
            loc, raw = out.chunk(2, -1)
            return (loc + z if targets else loc), F.softplus(raw + WIDE) + 1e-4

        walk = Walk(self._model, z0, gaps, series.covariates, _free(series.mask))
        return (TargetedPath if targets else NoisedPath)(walk, moments)


def _free(mask: Tensor) -> Tensor:
    """Steps ``(N, K - 1)`` from which on nothing is observed."""
    seen = mask.any(-1).flip(1).cumsum(1).flip(1)
    return seen[:, 1:] == 0


def _viewed(view: Callable[[Series], Series], series: Series) -> Series:
    found = viewed(view, series)
    if found.mask.shape != series.mask.shape or not torch.equal(found.times, series.times):
        raise ValueError(
            f"view: expected the same times, with entries hidden, got {found} of {series}"
        )
    return found


def _check(program: Program, training: str) -> None:
    names = [site.name for site in program.sites]
    if names not in (["z0", "noise"], ["z0"]) or len(program.common) != 1:
        raise ValueError(
            "model: expected latent sites 'z0' and 'noise' in one plate of sequences, got "
            f"{names} in {program.common}"
        )
    if training not in ("samples", "diffusion"):
        raise ValueError(f"training: expected 'samples' or 'diffusion', got {training!r}")
    model, diffusion = program.model, training == "diffusion"
    needed = ("noise", "step") + (("bridge", "retrace") if diffusion else ())
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        kind = type(model).__name__
        raise ValueError(f"model: expected {missing}, which {kind} does not have")
    if diffusion and getattr(model, "stochasticity", 1.0) == 0:
        raise ValueError(
            "training: expected a model of stochasticity above 0 to train by diffusion, got 0"
        )


def _check_options(
    program: Program, hidden: int, dropout: float, view: object, unit: float
) -> None:
    check_whole(hidden=hidden)
    check_numbers(dropout=dropout, unit=unit)
    if hidden < 1:
        raise ValueError(f"hidden: expected at least 1, got {hidden}")
    if not 0 < unit < float("inf"):
        raise ValueError(f"unit: expected a positive number, got {unit}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a share from 0 to below 1, got {dropout}")
    if dropout and view is not None:
        raise ValueError("dropout, view: expected one of the two")
    if dropout and program.random:
        raise ValueError(
            f"dropout: expected 0 for a model whose density of {program.random!r} is drawn at "
            "random and told what counts: of parts of a time it is another model's"
        )
