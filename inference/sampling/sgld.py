"""Stochastic gradient Langevin dynamics, with control variates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_lebm.dynamics.langevin import LogDensity, State, evaluate, propose
from pyro_lebm.dynamics.metric import Metric, unit_metric

from .kernel import Kernel
from .minibatch import Data, MinibatchDensity, Rows
from .sampler import LARGEST_DENSE, Move

FAR = 5.0  # standard deviations from the mode, root mean square


class SGLD(Kernel):
    r"""Stochastic gradient Langevin dynamics (Welling & Teh 2011), with control variates (Baker,
    Fearnhead, Fox & Nemeth 2019, arXiv 1706.05439).

    The model is called with a minibatch of the data, and its likelihood is scaled by N / B:

    .. math:: \hat g(z) = \nabla \log p(z) + \frac{N}{B} \sum_{i \in B} \nabla \log p(x_i \mid z),
              \qquad z' = z + \tfrac{s^2}{2} M \hat g(z) + s M^{1/2} \varepsilon.

    With ``control_variates`` the sum is of differences from the gradients at a mode, whose sum over
    all data is taken once: near the mode the minibatches' noise vanishes. M is the inverse of the
    curvature there, so that ``step_size``, s, is in standard deviations of the posterior; it is not
    adapted, there being no acceptance to tune it by. Data are read whole at the start, to find the
    mode, and never again. Chains that start far from the mode, where neither the linear part nor
    the curvature holds, are put near it, or at it where the curvature is not known.

    Unadjusted: biased by the step, as `ULA`, and by the minibatches. Each draw's statistic
    ``gradient_noise`` estimates the variance that minibatches add to a move, relative to that of
    the injected noise: the draws' variance is too large by about that share.

    Args:
        model: ``model(*data)``, its latent sites outside of any plate of the data, its likelihood
            a sum over the rows given, without a scale of its own.
        data: a tensor, a sequence of tensors or a mapping of keyword arguments, rows alike.
        batch_size: B, even; rows are drawn with replacement, for each chain and gradient anew.
        control_variates: whether to use them.
        curvature: whether M is the inverse Hessian at the mode, its diagonal above 100 dimensions,
            or the identity.
        options: ``step_size``, ``init_strategy`` and ``max_plate_nesting``, as for `Kernel`.

    Raises:
        ValueError: for an odd batch or one larger than the data, and as `Kernel` does; at the
            start, where a mode is asked for and not found.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> kernel = SGLD(model, data=torch.randn(1000), batch_size=50)
        >>> mcmc = MCMC(kernel, num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["loc"].shape
        torch.Size([10])
    """

    adjusted: ClassVar[bool] = False
    acceptance: ClassVar[float] = 0.5  # of no test

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        data: Data,
        batch_size: int,
        control_variates: bool = True,
        curvature: bool = True,
        step_size: float = 0.2,
        **options: Any,
    ) -> None:
        self.rows = Rows(data)
        args, kwargs = self.rows.arguments(self.rows.columns)
        unknown = set(options) - {"init_strategy", "max_plate_nesting"}
        if unknown:
            raise TypeError(
                f"options: expected init_strategy or max_plate_nesting, got {sorted(unknown)}"
            )
        super().__init__(
            functools.partial(model, *args, **kwargs),
            step_size=step_size,
            adapt_step_size=False,
            metric="none",
            **options,
        )
        if (
            int(batch_size) != batch_size
            or batch_size % 2
            or not 2 <= batch_size <= self.rows.total
        ):
            raise ValueError(
                f"batch_size: expected an even number from 2 to {self.rows.total}, got {batch_size}"
            )
        self._unbound, self.batch_size = model, batch_size
        self.control_variates, self.curvature = control_variates, curvature

    def first_metric(self, log_density: LogDensity, position: Tensor) -> Metric:
        """Coordinates centred at a mode, and white by the curvature there."""
        unit = unit_metric(position, dense=False)
        if not (self.control_variates or self.curvature):
            return unit
        mode, curvature = _mode(log_density, position[0])
        return Metric(mode, _spread(curvature) if self.curvature else unit.factor)

    def first_position(self, metric: Metric, position: Tensor) -> Tensor:
        """Near the mode, where its curvature and control variates are of use."""
        if not (self.control_variates or self.curvature):
            return position
        if not self.curvature:
            return metric.centre.expand_as(position).clone()
        white = metric.white(position)
        far = white.square().mean(-1, keepdim=True).sqrt() > FAR
        return torch.where(far, metric.position(torch.randn_like(white)), position)

    def seen(self, log_density: LogDensity, metric: Metric) -> LogDensity:
        """Minibatches of half the size: `move` takes two, which tell how they differ."""
        centre = metric.centre if self.control_variates else None
        return MinibatchDensity(self._unbound, self.rows, self.batch_size // 2, centre)

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """One step, taken wherever the density is positive."""
        new = propose(state, step_size)
        halves = evaluate(target, torch.cat([new, new]))
        (a, b), (p, q) = halves.gradient.chunk(2), halves.log_density.chunk(2)
        inside = torch.isfinite(p + q)
        wide = inside.unsqueeze(-1)
        kept = State(
            torch.where(wide, new, state.position),
            torch.where(inside, (p + q) / 2, state.log_density),
            torch.where(wide, (a + b) / 2, state.gradient),
        )
        variance = (a - b).square().mean(-1) / 4  # of the mean of two halves
        noise = torch.where(inside, step_size.square() / 4 * variance, torch.nan)
        taken = inside.to(p)
        return Move(kept, momentum, taken, torch.where(inside, 0 * p, torch.inf), None, noise)


def _mode(log_density: LogDensity, start: Tensor) -> tuple[Tensor, Tensor]:
    """A mode near ``(dim,)``, and the curvature there."""

    def loss(u: Tensor) -> Tensor:
        return -log_density(u[None]).sum()

    z = start.detach().clone().requires_grad_(True)
    search = torch.optim.LBFGS([z], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Any:
        search.zero_grad()
        value = loss(z)
        value.backward()
        return value

    with torch.enable_grad():
        with suppress(RuntimeError):  # a step too long for a float, on the way to no mode
            search.step(closure)
        (slope,) = torch.autograd.grad(loss(z), z)
    mode = z.detach()
    curvature: Tensor = torch.autograd.functional.hessian(loss, mode)
    if bool(torch.isfinite(curvature).all()):
        values, vectors = torch.linalg.eigh(curvature)
        # how far a Newton step would go, in standard deviations
        left = ((slope @ vectors).square() / values).sum().sqrt()
        if bool((values > 0).all()) and float(left) < 1:
            return mode, curvature
    raise ValueError(
        "model: expected a mode, for control_variates and curvature, got none from 500 steps of "
        "L-BFGS; start nearer with init_strategy, or set both to False"
    )


def _spread(curvature: Tensor) -> Tensor:
    """The inverse curvature's square root."""
    if len(curvature) > LARGEST_DENSE:
        return curvature.diagonal().rsqrt()
    factor: Tensor = torch.linalg.cholesky(torch.linalg.inv(curvature))
    return factor
