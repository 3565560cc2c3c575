"""Models whose state goes from one time to the next by a random step."""

from __future__ import annotations

import weakref
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm.base import StandardNormal
from pyro_lebm.number_checks import check_whole
from pyro_lebm.series import Series
from pyro_lebm.series_checks import check_known, check_real, check_tensor

from .emissions import check_latent
from .fields import check_sizes
from .initial import check_initial, initial
from .sequence_model import SequenceModel


class StepwiseModel(SequenceModel):
    r"""A state that random steps carry from one time to the next, seen through an emission.

    .. math:: z_1 \sim p(z_1), \quad \varepsilon_k \sim N(0, I), \quad
              z_k = f(z_{k-1}, \Delta_k, \varepsilon_k, u_k), \quad x_k \sim p(x \mid z_k)

    with gaps :math:`\Delta_k = t_k - t_{k-1}`, so that times may be irregular. The program samples
    the noise and the states follow from it: whatever infers the model acts on ``z0`` and ``noise``,
    whose prior is N(0, I), and never meets the density of a step, which may have none.

    Sites: ``z0``, the state at a sequence's first time; ``noise``, event ``(K - 1, M)``, where
    there is more than one time; ``x`` observed at a series' own times, or ``x_new`` sampled at
    ``times``; all in the plate ``sequences``. Steps belong to the times that they were drawn for: a
    forecast is of a series whose end is hidden.

    Args:
        state: size S of the state.
        observed: size D of an observation.
        noise: numbers M that a step draws.
        prior: module whose call returns the distribution of ``z0``; default N(0, I).
        emission: module from paths ``(..., K, S)`` to a distribution of batch shape ``(..., K,
            D)``. One with a method ``seen(path, mask)`` is also told what is observed.
        covariates: size C of known inputs to the steps, 0 for none.

    Raises:
        TypeError: for sizes that are no whole number; when called: for a ``series`` that is no
            Series, an ``n`` that is no whole number, times or covariates that are no tensor, times
            that are not real numbers.
        ValueError: for sizes below one, a prior of another size, or an emission whose attribute
            ``latent`` is another size; when called: for neither or both of ``series`` and
            ``times``, times that decrease or are not finite, no sequence, a series or covariates of
            another size or dtype, or covariates that are not finite.
    """

    # Draws are of steps between certain times: predictions at others would take them for theirs.
    bound_to_times = True

    def __init__(
        self,
        state: int,
        observed: int,
        noise: int,
        *,
        prior: nn.Module | None,
        emission: nn.Module,
        covariates: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(state=state, observed=observed, noise=noise)
        check_whole(covariates=covariates)
        if covariates < 0:
            raise ValueError(f"covariates: expected 0 or more, got {covariates}")
        self.state, self.observed, self.covariates = state, observed, covariates
        self._noise = noise
        self.prior = StandardNormal(state) if prior is None else prior
        self.emission = emission
        check_initial(self.prior, state)
        check_latent(emission, state)

    @property
    def noise(self) -> int:
        """How many standard normal numbers a step draws, M."""
        return self._noise

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        """The next state.

        Args:
            z: the state ``(..., S)``.
            gap: time to the next state, ``(..., 1)`` or ``(1,)``, at least 0. At padding it is 0,
                and where the state goes there is nobody's concern.
            noise: ``(..., M)``, standard normal in the prior.
            u: covariates at the next time ``(..., C)``.
        """
        raise NotImplementedError

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
            times: where to sample ``x_new`` of ``n`` sequences, ``(K,)`` or ``(N, K)``.
            n: how many sequences, without a series.
            covariates: ``(N, K, C)`` at ``times``.

        Returns:
            the states ``(..., N, K, S)``.
        """
        if series is not None:
            if times is not None or n is not None or covariates is not None:
                raise ValueError("series: expected no times, n or covariates beside it")
            self._check_series(series, self._like.dtype)
            times, covariates = series.times, series.covariates
        elif times is None or n is None:
            raise ValueError("series: expected a Series, or times and n")
        else:
            check_times(times, n, covariates)
        gaps = self._gaps(times, covariates)
        with self._sequences(series, n):
            z0 = initial(self.prior)
            noise = self._draw(gaps.shape[-1])
            path = self._recalled(z0, noise, gaps, covariates)
            if path is None:
                path = self.path(z0, noise, gaps, covariates)
            if series is not None:
                seen = self._seen(path, series.mask)
                pyro.sample("x", seen.mask(series.mask).to_event(2), obs=series.filled)
            else:
                pyro.sample("x_new", self._emit(self.emission, path).to_event(2))
        return path

    def path(
        self, z0: Tensor, noise: Tensor | None, gaps: Tensor, covariates: Tensor | None = None
    ) -> Tensor:
        """The states ``(..., N, K, S)``.

        Args:
            z0: the first ``(..., N, S)``.
            noise: ``(..., N, K - 1, M)``, None where there is but one time.
            gaps: ``(K - 1,)`` or ``(N, K - 1)``.
            covariates: ``(N, K, C)``.
        """
        states = [z0]
        for k in range(gaps.shape[-1]):
            assert noise is not None
            u = None if covariates is None else covariates[..., k + 1, :]
            states.append(self.step(states[-1], gaps[..., k, None], noise[..., k, :], u))
        shape = torch.broadcast_shapes(*(z.shape for z in states))
        return torch.stack([z.expand(shape) for z in states], -2)

    def remember(
        self, z0: Tensor, noise: Tensor, path: Tensor, gaps: Tensor, covariates: Tensor | None
    ) -> None:
        """The path of this very noise, for the program's next run: a guide has walked it already.

        It is forgotten when the guide's draw is, and where anything that it hangs on has changed.
        """
        tensors = tuple(weakref.ref(x) for x in (z0, noise, path))
        _WALKED[self] = (*tensors, gaps, covariates, self._state())

    def _recalled(
        self, z0: Tensor, noise: Tensor | None, gaps: Tensor, covariates: Tensor | None
    ) -> Tensor | None:
        if self not in _WALKED:
            return None
        first, drawn, known, between, driven, state = _WALKED.pop(self)
        path: Tensor | None = known()
        if noise is None or path is None or first() is not z0 or drawn() is not noise:
            return None
        if not (torch.equal(between, gaps) and driven is covariates and state == self._state()):
            return None
        # Where a program runs, Pyro learns of parameters as they are fetched; a guide's walk is
        # outside of it.
        for name in (*self._modules, *self._parameters):
            getattr(self, name)
        return path

    def _state(self) -> tuple[Any, ...]:
        """What a path hangs on beside its noise."""
        held = (*self.parameters(), *self.buffers())
        # A path walked without gradients, or past frozen weights, has none to give later.
        versions = tuple((x._version, x.requires_grad) for x in held)
        structure = tuple(self.structure().items())
        return versions, torch.is_grad_enabled(), self.noise, structure

    def _draw(self, steps: int) -> Tensor | None:
        if not steps:
            return None
        zero = self._like.new_zeros(steps, self.noise)
        noise: Tensor = pyro.sample("noise", dist.Normal(zero, torch.ones_like(zero)).to_event(2))
        if noise.shape[-2:] != zero.shape:
            raise ValueError(
                f"noise: expected shape (..., {steps}, {self.noise}), of {steps} steps that draw "
                f"{self.noise} numbers, got {tuple(noise.shape)}: it was drawn for other times, or "
                "before the sampler was set otherwise"
            )
        return noise

    def _seen(self, path: Tensor, mask: Tensor) -> TorchDistribution:
        emission = self.emission
        told = getattr(emission, "seen", None)
        return self._emit(emission if told is None else lambda z: told(z, mask), path)

    def _gaps(self, times: Tensor, covariates: Tensor | None) -> Tensor:
        found = 0 if covariates is None else covariates.shape[-1]
        if found != self.covariates:
            raise ValueError(f"covariates: expected {self.covariates} of them, got {found}")
        like = self._like
        if covariates is not None and covariates.dtype != like.dtype:
            raise ValueError(
                f"covariates: expected {like.dtype} as the model is, got {covariates.dtype}"
            )
        gaps = times.diff(dim=-1).to(like)  # first: of late times single precision has no gaps
        if bool((gaps < 0).any()):
            raise ValueError("times: expected times that do not decrease")
        return gaps

    @property
    def _like(self) -> Tensor:
        """A tensor of the model's dtype and device."""
        return next(p for p in [*self.parameters(), *self.buffers()] if p.is_floating_point())

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: sizes, and which functions they serve."""
        sizes = f"state {self.state}, noise {self.noise}, covariates {self.covariates}"
        return {"sizes": sizes, **super().structure()}


def check_times(times: Tensor, n: int, covariates: Tensor | None) -> None:
    """Refuse times that are not ``(K,)`` or ``(n, K)``, finite and in order, or covariates unlike.

    Raises:
        TypeError, ValueError: naming what came.
    """
    check_whole(n=n)
    check_real("times", times)
    if n < 1:
        raise ValueError(f"n: expected at least 1 sequence, got {n}")
    shape = tuple(times.shape)
    if times.dim() not in (1, 2) or times.numel() == 0 or shape[:-1] not in ((), (n,)):
        raise ValueError(f"times: expected shape (K,) or ({n}, K), got {shape}")
    if not bool(torch.isfinite(times).all()):
        raise ValueError("times: expected finite numbers, got NaN or inf")
    if covariates is None:
        return
    check_tensor("covariates", covariates)
    if covariates.shape[:-1] != (n, shape[-1]):
        raise ValueError(
            f"covariates: expected shape ({n}, {shape[-1]}, C), got {tuple(covariates.shape)}"
        )
    check_known(covariates)


_WALKED: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()
