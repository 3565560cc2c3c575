"""The noise of a path, drawn step by step by what is known of the state so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.kl import register_kl

Moments = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Mean and scale at step k ``(..., N, M or S)``, from the state before it ``(..., N, S)``."""


class Walk(NamedTuple):
    """Where a path begins, and what drives it."""

    model: Any  # with `noise` and `step`, such as a `pyro_lebm.models.stepwise.StepwiseModel`
    z0: Tensor  # (..., N, S)
    gaps: Tensor  # (K - 1,) or (N, K - 1)
    covariates: Tensor | None  # (N, K, C)
    free: Tensor  # (N, K - 1), steps after which nothing is observed

    def at(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Gap ``(..., 1)`` and covariates of a step."""
        u = None if self.covariates is None else self.covariates[..., k + 1, :]
        return self.gaps[..., k, None], u


class Drawn(NamedTuple):
    """Noise, the states it leads to, its log density, its divergence from N(0, I) given them."""

    noise: Tensor  # (..., N, K - 1, M)
    path: Tensor  # (..., N, K, S)
    log_prob: Tensor  # (..., N)
    divergence: Tensor  # (..., N)


class NoisedPath(TorchDistribution):
    r"""Noise of the steps, each a Gaussian given the state that the steps before have led to.

    .. math:: q(\varepsilon_{2:K}) = \prod_k N(\varepsilon_k; m_k(z_{k-1}),
              \mathrm{diag}\,s_k^2(z_{k-1})), \qquad z_k = f(z_{k-1}, \Delta_k, \varepsilon_k)

    Steps after which nothing is observed are the prior's own, N(0, I). Its divergence from the
    prior, which ``TraceMeanField_ELBO`` asks for, is that of each step in closed form, given the
    states of the last draw: without bias, and without the noise of a ratio of densities.

    Args:
        walk: where the path begins.
        moments: of the noise.

    Example:
        >>> class Sum:
        ...     noise = 1
        ...
        ...     def step(self, z, gap, noise, u=None):
        ...         return z + noise
        >>> free = torch.zeros(4, 2, dtype=torch.bool)
        >>> walk = Walk(Sum(), torch.zeros(4, 1), torch.ones(2), None, free)
        >>> q = NoisedPath(walk, lambda k, z: (-z, torch.ones_like(z)))
        >>> q.rsample().shape
        torch.Size([4, 2, 1])
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)

    def __init__(self, walk: Walk, moments: Moments) -> None:
        self.walk, self.moments = walk, moments
        event = torch.Size((walk.gaps.shape[-1], walk.model.noise))
        super().__init__(walk.z0.shape[:-1], event, validate_args=False)
        self._drawn: Drawn | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> NoisedPath:
        """The same from more copies of the first state."""
        if tuple(batch_shape) == self.batch_shape:
            return self  # with what it has drawn
        z0 = self.walk.z0.expand(*batch_shape, -1)
        return type(self)(self.walk._replace(z0=z0), self.moments)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Noise ``(*sample_shape, ..., N, K - 1, M)``."""
        z0 = self.walk.z0.expand(*sample_shape, *self.walk.z0.shape)
        self._drawn = self._draw(self.walk._replace(z0=z0))
        tell = getattr(self.walk.model, "remember", None)
        if tell is not None and not sample_shape:  # the model would walk the same way again
            walk, drawn = self.walk, self._drawn
            tell(walk.z0, drawn.noise, drawn.path, walk.gaps, walk.covariates)
        return self._drawn.noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of any noise, ``(..., N)``."""
        if self._drawn is not None and value is self._drawn.noise:
            return self._drawn.log_prob
        extra = value.shape[: value.dim() - len(self.batch_shape) - 2]
        z0 = self.walk.z0.expand(*extra, *self.walk.z0.shape)
        return self._score(self.walk._replace(z0=z0), value)

    def divergence(self) -> Tensor:
        """KL from N(0, I) given the states of the last draw, ``(..., N)``."""
        if self._drawn is None:
            self.rsample()
        assert self._drawn is not None
        return self._drawn.divergence

    def _draw(self, walk: Walk) -> Drawn:
        def noise(k: int, m: Tensor, s: Tensor) -> Tensor:
            return m + s * torch.randn_like(m)

        return self._follow(walk, noise)

    def _score(self, walk: Walk, value: Tensor) -> Tensor:
        return self._follow(walk, lambda k, m, s: value[..., k, :]).log_prob

    def _follow(self, walk: Walk, noise: Callable[[int, Tensor, Tensor], Tensor]) -> Drawn:
        z = walk.z0
        states, kept = [z], []
        for k in range(walk.gaps.shape[-1]):
            m, s = self.moments(k, z)
            free = walk.free[:, k, None]
            m, s = torch.where(free, 0.0, m), torch.where(free, 1.0, s)
            e = noise(k, m, s)
            gap, u = walk.at(k)
            z = walk.model.step(z, gap, e, u)
            states.append(z)
            kept.append((m, s, e))
        m, s, e = (torch.stack(parts, -2) for parts in zip(*kept, strict=True))
        apart = 0.5 * (m * m + s * s - 1 - 2 * s.log())
        log_prob = Normal(m, s).log_prob(e).sum((-1, -2))
        return Drawn(e, torch.stack(states, -2), log_prob, apart.sum((-1, -2)))


class TargetedPath(NoisedPath):
    r"""Noise of a diffusion's steps, by way of the states that it is to lead to.

    .. math:: q(z_{2:K}) = \prod_k N(z_k; m_k(z_{k-1}), \mathrm{diag}\,s_k^2(z_{k-1}))

    and, given a state, the levels in between by the diffusion's own reference (Ho et al. 2020,
    arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502): the divergence is the diffusion-based
    bound, log q of the states drawn and a sum of denoising errors.

    Args:
        walk: where the path begins; its model has ``bridge`` and ``retrace``, as
            `pyro_lebm.models.DiffusionProcess` has.
        moments: of the states.
    """

    def _draw(self, walk: Walk) -> Drawn:
        z, steps = walk.z0, walk.gaps.shape[-1]
        own = torch.randn(*z.shape[:-1], *self.event_shape, dtype=z.dtype, device=z.device)
        states, kept = [z], []
        for k in range(steps):
            m, s = self.moments(k, z)
            free = walk.free[:, k, None]
            target = m + s * torch.randn_like(m)
            if bool(free.any()):
                gap, u = walk.at(k)
                target = torch.where(free, walk.model.step(z, gap, own[..., k, :], u), target)
            kept.append((m, s))
            states.append(target)
            z = target
        path, free = torch.stack(states, -2), walk.free
        m, s = (torch.stack(parts, -2) for parts in zip(*kept, strict=True))
        log_q = Normal(m, s).log_prob(path[..., 1:, :]).sum(-1)
        u = None if walk.covariates is None else walk.covariates[..., 1:, :]
        gaps = walk.gaps[..., None]
        bridge = walk.model.bridge(path[..., :-1, :], gaps, path[..., 1:, :], u)
        noise = torch.where(free[..., None], own, bridge.noise)
        apart, exact = (
            torch.where(free, 0.0, log_q + part).sum(-1)
            for part in (bridge.divergence, bridge.ratio)
        )
        return Drawn(noise, path, exact + _standard(noise), apart)

    def _score(self, walk: Walk, value: Tensor) -> Tensor:
        z = walk.z0
        total = _standard(value).expand(z.shape[:-1])
        for k in range(walk.gaps.shape[-1]):
            m, s = self.moments(k, z)
            gap, u = walk.at(k)
            target, ratio = walk.model.retrace(z, gap, value[..., k, :], u)
            apart = Normal(m, s).log_prob(target).sum(-1) + ratio
            total = total + torch.where(walk.free[:, k], 0.0, apart)
            z = target
        return total


def _standard(noise: Tensor) -> Tensor:
    density: Tensor = Normal(torch.zeros_like(noise), 1.0).log_prob(noise)
    return density.sum((-1, -2))


@register_kl(NoisedPath, Independent)  # type: ignore[untyped-decorator]
def _kl(q: NoisedPath, p: Any) -> Tensor:
    if not isinstance(p.base_dist, torch.distributions.Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError(f"NoisedPath: expected a prior of standard normal noise, got {p}")
    return q.divergence()
