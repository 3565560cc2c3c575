"""The Gaussian chain from noise down to a value, and what bounds the value's density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoising import Denoise, at, both_of
from .implicit import check_eta
from .schedule import Step, levels, steps_down
from .table import Table

HALF_LOG = 0.5 * math.log(2 * math.pi)


class Bridge(NamedTuple):
    """How a chain comes to a value.

    Attributes:
        noise: ``(..., (S + 1) L)``.
        divergence: an estimate ``(...)`` of log q(levels | value) - log p(levels, value), its mean
            taken within each level. Minus its mean is a lower bound of log p(value).
        ratio: the same of the very levels drawn, nothing averaged; see `GaussianChain.retrace`.
    """

    noise: Tensor
    divergence: Tensor
    ratio: Tensor


@dataclass(frozen=True)
class GaussianChain:
    r"""A value that Gaussian steps make from noise, with densities by way of its noisy levels.

    .. math:: u_S \sim N(0, I), \quad
              u_{s-1} \sim N\big(c_s \hat x(u_s) + b_s u_s,\ \sigma_s^2 + c_s^2 w(u_s)^2\big), \quad
              x \sim N\big(\hat x(u_1),\ w(u_1)^2 + 10^{-6}\big)

    with the weights c, b, sigma of an implicit step (Song, Meng & Ermon 2021, arXiv 2010.02502), a
    predicted clean value and its standard deviation w, the denoiser's own uncertainty (the optimal
    variance of Bao et al. 2022, arXiv 2201.06503). Where the denoiser gives no w, a step has
    :math:`\sigma_s` alone and the last one :math:`\sqrt{(1 - \bar\alpha_1) / \bar\alpha_1}`: right
    in many steps, far too certain in few.

    The levels' reference is implicit diffusion's, :math:`q(u_S \mid x) \prod_s q(u_{s-1} \mid u_s,
    x)`. With exact predictions of a Gaussian at stochasticity 1 the bound is its log density: in
    any number of steps with w, in many without. Below 1 it stays under it, the lower the more.

    The chain is driven by ``(S + 1) L`` standard normal numbers, the start's first, then those of
    each step down. A value may have a place and a scale of its own, in whose units it is diffused:
    densities are the value's all the same.

    Args:
        denoise: ``(u, level) -> clean`` or ``-> (clean, w)``, in the units of ``scale``.
        size: L, numbers of a value.
        steps: S.
        stochasticity: eta in (0, 1].
        shift: where the value sits, broadcasting with it; default 0.
        scale: the unit in which it is diffused, likewise; default 1.
        flow: a map of the start with methods ``forward`` and ``inverse`` that changes no volume.

    Raises:
        ValueError: for fewer than one step or number, or a stochasticity outside of [0, 1].
        NotImplementedError: for stochasticity 0, where a value given its start has no density.

    Example:
        >>> chain = GaussianChain(lambda u, level: 0.0 * u, size=2, steps=4)
        >>> value = chain.run(torch.randn(3, chain.noise))
        >>> bridge = chain.bridge(value)
        >>> torch.allclose(chain.run(bridge.noise), value, atol=1e-5)
        True
    """

    denoise: Denoise
    size: int
    steps: int
    stochasticity: float = 1.0
    shift: Tensor | None = None
    scale: Tensor | None = None
    flow: Any = None

    def __post_init__(self) -> None:
        levels(self.steps)
        check_eta(self.stochasticity, "stochasticity")
        if self.size < 1:
            raise ValueError(f"size: expected at least 1, got {self.size}")
        if self.stochasticity == 0:
            raise NotImplementedError(
                "stochasticity: expected above 0 for a density, got 0: a deterministic sampler has "
                "none that is known; sample the noise and let the value follow, or raise it"
            )

    @property
    def noise(self) -> int:
        """How many standard normal numbers make a value."""
        return (self.steps + 1) * self.size

    def run(self, noise: Tensor) -> Tensor:
        """The value ``(..., L)`` that noise ``(..., (S + 1) L)`` makes."""
        start, *parts = self._parts(noise)
        u = start if self.flow is None else self.flow(start)
        for call, step, n in zip(self._calls(), self._down, parts, strict=True):
            clean, spread = both_of(call(u))
            u = step.pull * clean + step.keep * u + _deviation(step, spread) * n
        return self._out(u)

    def bridge(self, value: Tensor) -> Bridge:
        """Noise that `run` maps to this very value, through levels drawn from their reference."""
        x = self._in(value)
        first = self._down[0]
        drawn = [torch.randn_like(x)]
        passed = [math.sqrt(first.a) * x + math.sqrt(1 - first.a) * drawn[0]]
        for step in self._down[:-1]:
            drawn.append(torch.randn_like(x))
            passed.append(step.pull * x + step.keep * passed[-1] + step.sigma * drawn[-1])
        before, after = torch.stack(passed), torch.stack([*passed[1:], x])
        table = Table.of(self._down, x)
        clean, spread = both_of(self.denoise(before, table.level))
        deviation = table.deviation(spread).expand_as(before)
        noises = (after - table.pull * clean - table.keep * before) / deviation
        start = passed[0] if self.flow is None else self.flow.inverse(passed[0])
        end = 0.5 * noises[-1].square() + deviation[-1].log() + HALF_LOG
        apart = table.divergence(x - clean, deviation, spread)[:-1].sum(0)
        levels = 0.5 * (noises[:-1].square() - torch.stack(drawn)[1:].square())
        levels = levels + (deviation / table.column("sigma"))[:-1].log()
        top = 0.5 * (start.square() - drawn[0].square()) - 0.5 * math.log(1 - first.a)
        noise = torch.cat([start, noises.movedim(0, -2).flatten(-2)], -1)
        return Bridge(
            noise,
            self._total(self._start(x, start) + apart + end),
            self._total(top + levels.sum(0) + end),
        )

    def gaps(self, value: Tensor, levels: int | None = None) -> Tensor:
        """The divergence of `bridge` alone, ``(...)``, from levels drawn each by itself.

        Args:
            value: ``(..., L)``.
            levels: how many of the S - 1 middle ones to look at, drawn evenly and anew for each
                value; without bias. Default: all.

        Raises:
            ValueError: for fewer than one level.
        """
        return self.gap_terms(value, levels).sum(-1)

    def gap_terms(
        self, value: Tensor, levels: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What each number adds to `gaps`, ``(..., L)``.

        Numbers where a mask of the value's shape is False are pure noise to the denoiser, whatever
        they are; what they add means nothing.
        """
        if levels is not None and levels < 1:
            raise ValueError(f"levels: expected at least 1, got {levels}")
        x = self._in(value if mask is None else torch.where(mask, value, 0.0))
        table, weight = Table.of(self._down, x), 1.0
        if levels is not None and levels < self.steps - 1:
            table, weight = table.some(levels), (self.steps - 1) / levels
        pure = torch.randn_like((table.a + x).expand(len(table.a), *x.shape))
        u = table.a.sqrt() * x + (1 - table.a).sqrt() * pure
        u = u if mask is None else torch.where(mask, u, pure)
        clean, spread = both_of(self.denoise(u, table.level))
        deviation = table.deviation(spread)
        ratio = weight * table.divergence(x - clean, deviation, spread)[:-1].sum(0)
        last = ((x - clean[-1]) / deviation[-1]).square()
        ratio = ratio + 0.5 * last + deviation[-1].log() + HALF_LOG
        start = None
        if self.flow is not None:
            a = self._down[0].a
            noisy = math.sqrt(a) * x + math.sqrt(1 - a) * torch.randn_like(x)
            start = self.flow.inverse(noisy)
        return self._scaled(ratio + self._start(x, start))

    def retrace(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The value that noise makes, and the exact ratio of the levels that it passes.

        Returns:
            the value ``(..., L)``, and log q(levels | value) - log p(levels, value), ``(...)``:
            nothing is averaged.
        """
        start, *parts = self._parts(noise)
        u = start if self.flow is None else self.flow(start)
        first, passed = u, []
        for call, step, n in zip(self._calls(), self._down, parts, strict=True):
            clean, spread = both_of(call(u))
            deviation = _deviation(step, spread)
            u = step.pull * clean + step.keep * u + deviation * n
            passed.append((step, clean, deviation, n))
        x, a = u, self._down[0].a
        far = (first - math.sqrt(a) * x).square() / (1 - a)
        ratio = 0.5 * (start.square() - far) - 0.5 * math.log(1 - a)
        for step, clean, deviation, n in passed[:-1]:
            back = (step.pull * (clean - x) + deviation * n) / step.sigma
            ratio = ratio + 0.5 * (n.square() - back.square()) + _log(deviation / step.sigma)
        *_, (_, _, deviation, n) = passed
        ratio = ratio + 0.5 * n.square() + _log(deviation) + HALF_LOG
        return self._out(x), self._total(ratio)

    @property
    def _down(self) -> tuple[Step, ...]:
        return steps_down(self.steps, float(self.stochasticity))

    def _calls(self) -> Any:
        return at(self.denoise, levels(self.steps)[:0:-1], spread=True)

    def _parts(self, noise: Tensor) -> tuple[Tensor, ...]:
        if noise.shape[-1] != self.noise:
            raise ValueError(
                f"noise: expected {self.noise} numbers for {self.steps} steps of {self.size}, got "
                f"{noise.shape[-1]}"
            )
        parts: tuple[Tensor, ...] = noise.unflatten(-1, (self.steps + 1, self.size)).unbind(-2)
        return parts

    def _start(self, x: Tensor, start: Tensor | None) -> Tensor:
        """What the top level adds: a divergence, or by way of one draw of a flow's start."""
        a = self._down[0].a
        if self.flow is None:
            return 0.5 * (a * x.square() - a - math.log(1 - a))
        assert start is not None
        return 0.5 * (start.square() - 1 - math.log(1 - a))

    def _in(self, value: Tensor) -> Tensor:
        x = value if self.shift is None else value - self.shift
        return x if self.scale is None else x / self.scale

    def _out(self, x: Tensor) -> Tensor:
        value = x if self.scale is None else self.scale * x
        return value if self.shift is None else self.shift + value

    def _scaled(self, ratio: Tensor) -> Tensor:
        return ratio if self.scale is None else ratio + self.scale.log()

    def _total(self, ratio: Tensor) -> Tensor:
        return self._scaled(ratio).sum(-1)


def _deviation(step: Step, spread: Tensor | None) -> Tensor | float:
    if spread is None:
        return step.alone
    return (step.sigma**2 + (step.pull * spread).square()).sqrt()


def _log(x: Tensor | float) -> Tensor | float:
    return x.log() if isinstance(x, Tensor) else math.log(x)
