"""Denoisers: what a value was before noise was added to it, and how sure of that they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.diffusion.schedule import alpha_bar
from pyro_lebm.number_checks import check_whole

from .fields import MLP, Layers, check_hidden, check_sizes

WAVES = 8  # cosines of the level that a network sees
LIMIT = 4.0  # of the logarithms of scales
SMALL_GAP = 0.01  # of the unit: the share of its variance that a step of no time keeps
REACH = 20.0  # of the states that networks tell apart: far beyond N(0, I), where paths begin


class StepNetwork(Layers):
    r"""A denoiser of many levels, given what does not change between them.

    .. math:: \hat x = \sqrt{\bar\alpha_s}\, u + \sqrt{1 - \bar\alpha_s}\, g(u, s, c), \quad
              w = \sqrt{1 - \bar\alpha_s}\, e^{h(u, s, c)}

    so that with g = h = 0, the start of training, it is exact for values of N(0, I) (the
    parametrisation by velocity of Salimans & Ho 2022, arXiv 2202.00512). Its first layer is a sum
    of three: of the noisy value, of the level, and of the context c, which is computed once.

    Args:
        size: L, numbers of a value.
        context: numbers of the context.
        hidden: widths of the hidden layers, at least one.
        activation: one of :data:`~pyro_lebm.models.fields.ACTIVATIONS`.

    Raises:
        TypeError: as `Layers`.
        ValueError: a size below 1, no hidden layer, or an unknown activation.

    Example:
        >>> network = StepNetwork(size=2, context=3)
        >>> denoise = network.given(torch.zeros(5, 3))
        >>> clean, spread = denoise(torch.ones(5, 2), torch.tensor([1.0]))
        >>> clean.shape, spread.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    waves: Tensor

    def __init__(
        self,
        size: int,
        context: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
    ) -> None:
        check_sizes(size=size, context=context)
        check_hidden(hidden)
        if not len(hidden):
            raise ValueError("hidden: expected at least one layer, got none")
        super().__init__(size, 2 * size, hidden, activation)
        width = self.layers[0].out_features
        # Weights of their own, not wider inputs: nothing is concatenated at each level.
        self.level = nn.Parameter(torch.randn(width, WAVES) / WAVES**0.5)
        self.context = nn.Parameter(torch.randn(width, context) / (3 * context) ** 0.5)
        self.register_buffer("waves", math.pi * torch.arange(1.0, 1.0 + WAVES), persistent=False)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def given(self, context: Tensor) -> Given:
        """The denoiser for a context ``(..., C)``."""
        return Given(self, F.linear(context, self.context, self.layers[0].bias))

    def embed(self, level: Tensor) -> Tensor:
        """What levels ``(..., 1)`` add to the first layer, ``(..., width)``."""
        return F.linear(torch.cos(level * self.waves), self.level)


class Given:
    """A `StepNetwork` for one context: ``(u, level) -> (clean, spread)``."""

    def __init__(self, network: StepNetwork, context: Tensor) -> None:
        first, *self.rest = network.layers
        self.first, self.network, self.context = first.weight, network, context

    def __call__(self, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        a = alpha_bar(level)
        there = self.context + self.network.embed(level)
        return self._read(u, there, a.sqrt(), (1 - a).sqrt())

    def at(
        self, levels: Sequence[float], *, spread: bool
    ) -> list[Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]]:
        """The denoiser at each level, all of them prepared at once; without spread it is faster."""
        embedded = self.network.embed(self.first.new_tensor(levels).unsqueeze(-1))
        there = self.context.unsqueeze(0) + embedded.view(
            len(levels), *[1] * (self.context.ndim - 1), -1
        )
        read = self._read if spread else self._clean
        return [
            partial(read, context=c, value=math.sqrt(a), noise=math.sqrt(1 - a))
            for c, a in zip(there.unbind(0), map(alpha_bar, levels), strict=True)
        ]

    def _out(self, u: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        out = self.network.after_first(F.linear(u, self.first) + context, self.rest)
        return out.chunk(2, -1)

    def _clean(
        self, u: Tensor, context: Tensor, value: float | Tensor, noise: float | Tensor
    ) -> Tensor:
        return value * u + noise * self._out(u, context)[0]

    def _read(
        self, u: Tensor, context: Tensor, value: float | Tensor, noise: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        out, log_spread = self._out(u, context)
        return value * u + noise * out, noise * limited(log_spread).exp()


class TransitionDenoiser(nn.Module):
    r"""The default denoiser of `DiffusionProcess`: of the next state, given the one before.

    .. math:: z_k = a_k + r_k x, \quad a_k = z_{k-1} + g\, d, \quad r_k = \sqrt{g + 0.01}\, e^{l},
              \quad g = 1 - e^{-\Delta_k}

    with a drift d and a logarithm l of scales, between -4 and 4, that a network makes of the state
    before, the gap in units and the covariates; x is what is diffused and what a `StepNetwork`
    predicts, told the same. The frame :math:`(a_k, r_k)` is ours. As no time passes the mean goes
    nowhere and the spread to a tenth. At the start d = 0 and x ~ N(0, I): a random walk. Networks
    see a state within +-20: a path that noise throws far out goes on by bounded steps, where a
    drift that grows with it would overflow.

    Args:
        latent: L, size of a state.
        hidden: widths of the hidden layers; the first is also the frame's.
        covariates: C.
        scale: standard deviation after a long gap, at the start.

    Raises:
        ValueError: sizes below 1, no hidden layer, a scale outside of (e^-4, e^4).

    Example:
        >>> denoiser = TransitionDenoiser(2)
        >>> z, gap, level = torch.zeros(5, 2), torch.ones(5, 1), torch.tensor([0.5])
        >>> clean, spread = denoiser(torch.randn(5, 2), level, z, gap)
        >>> clean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent: int,
        hidden: Sequence[int] = (64, 64),
        covariates: int = 0,
        *,
        scale: float = 0.2,
    ) -> None:
        super().__init__()
        if not math.exp(-LIMIT) < scale < math.exp(LIMIT):
            raise ValueError(f"scale: expected a number in (e^-{LIMIT}, e^{LIMIT}), got {scale}")
        check_sizes(latent=latent)
        check_whole(covariates=covariates)
        context = latent + 2 + covariates
        self.latent, self.covariates = latent, covariates
        self.network = StepNetwork(latent, context, hidden)
        self.place = MLP(context, 2 * latent, hidden[:1], "silu")
        last = self.place.layers[-1]
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias[:latent] = 0.0
            last.bias[latent:] = LIMIT * math.atanh(math.log(scale) / LIMIT)

    def forward(
        self, noisy: Tensor, level: Tensor, z: Tensor, gap: Tensor, u: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The clean state and its spread, ``(..., L)`` each, in the frame's units.

        Args:
            noisy: ``(..., L)``, in the frame's units.
            level: ``(1,)``, or broadcasting with ``noisy``.
            z: the state before ``(..., L)``.
            gap: ``(..., 1)`` or ``(1,)``, in units.
            u: covariates ``(..., C)``.
        """
        return self.given(z, gap, u)(noisy, level)

    def given(self, z: Tensor, gap: Tensor, u: Tensor | None = None) -> Given:
        """The denoiser of one transition, its context read once."""
        return self.network.given(self._context(z, gap, u))

    def frame(self, z: Tensor, gap: Tensor, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where the next state is expected, and the unit that it is diffused in, ``(..., L)``."""
        drift, log_scale = self.place(self._context(z, gap, u)).chunk(2, -1)
        passed = -torch.expm1(-gap)
        return z + passed * drift, (passed + SMALL_GAP).sqrt() * limited(log_scale).exp()

    def _context(self, z: Tensor, gap: Tensor, u: Tensor | None) -> Tensor:
        parts = [
            REACH * torch.tanh(z / REACH),
            gap,
            (gap + SMALL_GAP).log(),
            *([] if u is None else [u]),
        ]
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)


def limited(log_scale: Tensor) -> Tensor:
    """A logarithm kept within `LIMIT`, so that no scale vanishes or overflows."""
    return LIMIT * torch.tanh(log_scale / LIMIT)
