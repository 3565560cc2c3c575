"""The latent neural ODE as a Pyro program, with whatever prior it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm.base import StandardNormal
from pyro_lebm.number_checks import check_whole
from pyro_lebm.observations.seen import SeenPath
from pyro_lebm.series import Series, check_series
from pyro_lebm.series_checks import check_known, check_real, check_tensor
from pyro_lebm.trajectories.ode import choose_step, interpolate, trajectory
from pyro_lebm.trajectories.recompute import possible
from pyro_lebm.trajectories.solvers import FIXED

from .emissions import GaussianEmission, check_latent
from .fields import Driven, MLPField
from .fused import Seen, observation
from .initial import check_initial, initial
from .sequence_model import SequenceModel
from .slices import SeenInSlices, check_each_time_alone
from .solving import check_solver, fits
from .static import Driving, beside


class LatentODE(SequenceModel):
    r"""A latent state that an ODE carries through time, seen through an emission.

    .. math:: z_0 = [z_s, z_d] \sim p(z_0), \quad \frac{dz_d}{dt} = F(t, z_d, u(t)), \quad
              x(t_i) \sim p(x \mid z_s, z_d(t_i))

    With the default prior N(0, I) it is the latent ODE (Chen et al. 2018, arXiv 1806.07366;
    Rubanova et al. 2019, arXiv 1907.03907); with an `EnergyPrior` it is ODE-LEBM (Cheng et al.
    2024, arXiv 2409.03845). With ``static`` latents z_s, what a sequence shows is told apart from
    how it moves: the energy is over both. Nothing here knows how it will be inferred.

    Sites: ``z0`` (event ``(static + latent,)``, z_s first) or those of a prior that is a program,
    ``x`` observed at a series' own times, ``x_new`` sampled at ``times``; all in the plate
    ``sequences``.

    Args:
        latent: dimension L of the state z_d that moves.
        observed: dimension D of an observation.
        static: dimension S of the latents z_s that do not, 0 for none.
        static_in_field: whether z_s drives the field, as further covariates; the emission sees it
            either way.
        prior: module whose call returns the distribution of ``z0``; default N(0, I). Or a program
            of sites of its own that returns z0 itself, such as a hierarchy of z_d given z_s, and a
            `pyro_lebm.Tilt` of one.
        field: module ``(t, z_d) -> dz_d/dt``, or ``(t, z_d, u) -> dz_d/dt`` where there are
            covariates or z_s drives it: u is ``(..., C + S)``, covariates first.
        emission: module from paths ``(..., T, S + L)`` to a distribution of batch shape
            ``(..., T, D)``; default Gaussian with learned scale.
        covariates: dimension C of the covariates that drive the field, 0 for none.
        t0: the time of ``z0``, in the series' unit.
        method: solver, see `pyro_lebm.trajectories.ode.trajectory`.
        tolerance: error of the fixed-step solvers, relative to 1 + \|z\|; the step is chosen by
            doubling in `refresh` and kept in the buffer ``step_size`` while its error fits.
        adjoint: for torchdiffeq's solvers, gradients by the adjoint equation.
        recompute: for the fixed-step solvers by PyTorch, gradients that compute inner values of
            field and emission anew instead of keeping them: beside the data and its path, memory is
            flat in the number of times and grows as the square root of the number of steps, at a
            third more time or so. Networks of your own are treated alike, provided that the
            emission treats each time by itself. Many chains of one sequence, which `torch.func`
            maps, keep everything. (Native code never keeps them.)

    Raises:
        TypeError: for dimensions that are no whole number; when called: for a ``series`` that is no
            Series, times or covariates that are no tensor, times that are not real numbers.
        ValueError: for dimensions below one, an unknown method, a prior or emission of another
            dimension; when called: for times before ``t0``, a series of another size or dtype, a
            field or emission that returns another shape.

    Example:
        >>> model = LatentODE(latent=2, observed=1)
        >>> model.generate(3, torch.linspace(0, 1, 5)).shape
        torch.Size([3, 5, 1])
    """

    step_size: Tensor

    def __init__(
        self,
        latent: int,
        observed: int,
        *,
        static: int = 0,
        static_in_field: bool = False,
        prior: nn.Module | None = None,
        field: nn.Module | None = None,
        emission: nn.Module | None = None,
        covariates: int = 0,
        t0: float = 0.0,
        method: str = "rk4",
        tolerance: float = 1e-3,
        adjoint: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_whole(latent=latent, observed=observed, covariates=covariates, static=static)
        if latent < 1 or observed < 1 or covariates < 0 or static < 0:
            raise ValueError(
                "latent, observed, covariates, static: expected sizes of at least 1, 1, 0 and 0, "
                f"got {latent}, {observed}, {covariates} and {static}"
            )
        if static_in_field and not static:
            raise ValueError("static_in_field: expected static latents, got static=0")
        check_solver(method, tolerance, adjoint, recompute)
        self.latent, self.observed, self.covariates = latent, observed, covariates
        self.t0, self.method, self.tolerance, self.adjoint = t0, method, tolerance, adjoint
        self.static, self.static_in_field = static, static_in_field
        size, inputs = static + latent, covariates + (static if static_in_field else 0)
        self.prior = StandardNormal(size) if prior is None else prior
        self.field = MLPField(latent, covariates=inputs) if field is None else field
        self.emission = GaussianEmission(size, observed) if emission is None else emission
        self.recompute = recompute
        # NaN until `refresh` or the first solve has chosen it; part of the saved model
        self.register_buffer("step_size", torch.tensor(float("nan")))
        self._step: float | None = None
        check_initial(self.prior, size)
        check_latent(self.emission, size)
        if recompute:
            like = next(self.emission.parameters(), self.step_size)
            check_each_time_alone(partial(self._emit, self.emission), size, like)

    def forward(
        self,
        series: Series | None = None,
        *,
        times: Tensor | None = None,
        n: int | None = None,
        covariates: Tensor | None = None,
    ) -> Tensor:
        """The program.

        Args:
            series: what was observed; hidden entries say nothing.
            times: where to sample ``x_new``, ``(T,)`` or ``(N, T)``; for the sequences of
                ``series``, or for ``n`` new ones.
            n: how many sequences, without a series.
            covariates: ``(N, T, C)`` at ``times``. The field knows no others: include the times
                since ``t0`` at which they are known.

        Returns:
            ``z0``, ``(..., N, S + L)``.
        """
        if series is None and (times is None or n is None):
            raise ValueError("series: expected a Series, or times and n; got neither")
        if series is not None:
            check_series(series)
        if times is not None:
            check_real("times", times)
        if covariates is not None:
            check_tensor("covariates", covariates)
            check_known(covariates)
        with self._sequences(series, n):
            z0 = initial(self.prior)
            if series is not None:
                self._check_series(series, self.step_size.dtype)
                seen = self._seen(z0, series)
                values = seen.values if isinstance(seen, SeenPath) else series.filled
                pyro.sample("x", seen, obs=values)
            if times is not None:
                path = self.path(z0, times, covariates)
                pyro.sample("x_new", self._emit(self.emission, path).to_event(2))
        return z0

    def _seen(self, z0: Tensor, series: Series) -> TorchDistribution:
        # Read once: to fetch a submodule of a PyroModule costs.
        field, emission = self.field, self.emission
        if self.method in FIXED and self._step is None:
            driven = self._driven(field, series.times, series.covariates)
            self._choose(driven, self._solved(z0), series.times)

        def eager() -> TorchDistribution:
            path = self._path(field, z0, series.times, series.covariates)
            if self.recompute and possible(path, emission):
                emit = partial(self._emit, emission)
                return SeenInSlices(path, series.mask, emit, emission)
            x: TorchDistribution = self._emit(emission, path).mask(series.mask).to_event(2)
            return x

        static = (self.static, self.static_in_field)
        seen = Seen(series, field, emission, self.t0, self.method, self._step, *static)
        return observation(seen, z0, eager)

    # Trajectories

    def path(self, z0: Tensor, times: Tensor, covariates: Tensor | None = None) -> Tensor:
        """The latent trajectory: ``(..., N, S + L)`` at ``t0``, ``(..., N, T, S + L)`` at times."""
        return self._path(self.field, z0, times, covariates)

    def _path(
        self, field: nn.Module, z0: Tensor, times: Tensor, covariates: Tensor | None
    ) -> Tensor:
        field, solved = self._driven(field, times, covariates), self._solved(z0)
        if self.method in FIXED and self._step is None:
            self._choose(field, solved, times)
        path = trajectory(
            field,
            solved,
            times,
            t0=self.t0,
            method=self.method,
            step_size=self._step,
            adjoint=self.adjoint,
            recompute=self.recompute,
        )
        apart = self.static and not self.static_in_field
        return beside(z0[..., : self.static], path) if apart else path

    def _solved(self, z0: Tensor) -> Tensor:
        """What the solver carries: z_s only where the field needs it."""
        return z0 if self.static_in_field else z0[..., self.static :]

    def _driven(self, field: nn.Module, times: Tensor, covariates: Tensor | None) -> nn.Module:
        found = 0 if covariates is None else covariates.shape[-1]
        if found != self.covariates:
            raise ValueError(f"covariates: expected {self.covariates} of them, got {found}")
        control = None if covariates is None else interpolate(times, covariates)
        if self.adjoint and covariates is not None and covariates.requires_grad:
            raise ValueError(
                "covariates: expected none that require gradients for adjoint=True, as the "
                "adjoint method would lose them, got requires_grad=True"
            )
        if self.static_in_field:
            return Driving(field, self.static, control)
        return field if control is None else Driven(field, control)

    def _choose(
        self, field: Callable[..., Tensor], z0: Tensor, times: Tensor, share: float = 1.0
    ) -> None:
        if not float(times.max()) > self.t0:
            return  # nothing to solve yet: a step chosen here would be kept for times to come
        z0, tolerance = z0.detach(), share * self.tolerance
        with torch.no_grad():
            step = choose_step(
                field, z0, times, t0=self.t0, method=self.method, tolerance=tolerance
            )
            # Rounded as it is saved, and upwards: neither a run resumed from a file nor the
            # rounding itself may take one step more.
            self.step_size.fill_(step * (1 + 2 * torch.finfo(self.step_size.dtype).eps))
            self._step = float(self.step_size)

    @torch.no_grad()
    def refresh(self, series: Series) -> None:
        """See that the solver's step still fits, by doubling, on states of N(0, I).

        Whatever the prior: drawing from one may cost far more than the solve; the states are the
        same each time, so that only the field can change a step. A trainer calls it once an epoch.
        A step is kept while its error is between a third of the tolerance and all of it, at the
        cost of two solves; else one is chosen whose error is at most .8 of it.

        Raises:
            SolverError: no step within bounds reaches the tolerance.
            FloatingPointError: the path is not finite, however small the step.
        """
        if self.method not in FIXED:
            return
        probe = series[torch.arange(min(len(series), 32), device=series.values.device)]
        same = torch.Generator().manual_seed(0)
        size = (len(probe), self.static + self.latent)
        z0 = self._solved(torch.randn(size, generator=same).to(probe.values))
        field = self._driven(self.field, probe.times, probe.covariates)
        if not fits(self, field, z0, probe.times):
            self._choose(field, z0, probe.times, share=0.8)

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: sizes, the time of ``z0``, which functions they serve."""
        static = f"{self.static}, in the field: {self.static_in_field}"
        return {"t0": f"{self.t0:g}", "static": static, **super().structure()}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        step = float(self.step_size)
        self._step = step if step == step else None
