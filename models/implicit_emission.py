"""Observations that a few denoising steps sample, given the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm.diffusion.chain import GaussianChain
from pyro_lebm.diffusion.denoising import clean_of
from pyro_lebm.diffusion.implicit import implicit
from pyro_lebm.number_checks import check_numbers, check_whole

from .denoisers import Given, StepNetwork
from .emissions import SCALE_FLOOR, Emission
from .implicit_settings import ImplicitSettings


class ImplicitEmission(ImplicitSettings, Emission):
    r"""x_t by implicit diffusion given z_t, all features of a time together.

    .. math:: x_t = g(z_t) + \sigma\, y_t, \qquad y_t = u_0, \quad u_S \sim N(0, I), \quad
              u_{s-1} = c_s \hat y(u_s, s, z_t) + b_s u_s + \sigma_s n_s

    with the weights of an implicit step (Rezaei 2023, arXiv 2306.07077; Song, Meng & Ermon 2021,
    arXiv 2010.02502); above stochasticity 0 steps have the denoiser's spread, too, see
    `GaussianChain`. Paths are ``(..., K, L)``, data ``(..., K, D)``.

    For continuous data; binary data and counts are shown by the other emissions. At the start y is
    N(0, I), and x what a `GaussianEmission` gives it. The units, g and sigma, are ours.

    Its density is a bound: ``log_prob`` estimates, with fresh noise at each call, a lower bound of
    log p(x_t | z_t), split feature by feature; see `pyro_lebm.diffusion.chain.GaussianChain`. It is
    right in the mean for ELBOs; our kernels, annealing and scores of likelihood refuse it, as what
    is accepted by ratios or averaged in exponents would be wrong (Pyro's own kernels cannot tell).
    It is refused at stochasticity 0, which only samples.

    What is hidden says nothing: told by ``seen``, the denoiser is given pure noise in its place and
    the mask beside it. The bound is then that of a model of the seen features of each mask, of its
    own, which shares its network with the others.

    Args:
        latent: L, size of the state.
        observed: D, number of features.
        steps: S, calls of the denoiser for a sample.
        stochasticity: eta in [0, 1]: 0 for implicit sampling, 1 for ancestral; may be set after
            training, as steps and order may; of levels that it was not trained at the denoiser
            knows nothing for sure.
        order: of the deterministic sampler at stochasticity 0, 1 or 2.
        hidden: widths of the hidden layers, of the denoiser and of g.
        levels: how many of the S - 1 middle levels a density looks at, drawn at random; None: all.
        scale: sigma of each feature at the start, above 0.001, in the data's units.

    Raises:
        TypeError: a size, steps, levels or order that is no whole number, another setting that is
            no number.
        ValueError: a size, steps or levels below 1, no hidden layer, a stochasticity outside of [0,
            1], an order other than 1 and 2, a scale not above 0.001.

    Example:
        >>> emission = ImplicitEmission(latent=3, observed=2)
        >>> x = emission(torch.zeros(5, 10, 3))
        >>> x.batch_shape, x.sample().shape, x.log_prob(torch.zeros(5, 10, 2)).shape
        (torch.Size([5, 10, 2]), torch.Size([5, 10, 2]), torch.Size([5, 10, 2]))
    """

    def __init__(
        self,
        latent: int,
        observed: int,
        *,
        steps: int = 5,
        stochasticity: float = 1.0,
        order: int = 1,
        hidden: Sequence[int] = (64,),
        levels: int | None = None,
        scale: float = 0.5,
    ) -> None:
        super().__init__(latent, observed, hidden)
        check_numbers(scale=scale)
        if not (SCALE_FLOOR < scale < math.inf):
            raise ValueError(f"scale: expected a finite number above {SCALE_FLOOR}, got {scale}")
        if levels is not None:
            check_whole(levels=levels)
            if levels < 1:
                raise ValueError(f"levels: expected at least 1, got {levels}")
        self.observed, self.levels = observed, levels
        self.steps, self.stochasticity, self.order = steps, stochasticity, order
        self.denoiser = StepNetwork(observed, latent + observed, hidden)
        self.log_scale = nn.Parameter(torch.full((observed,), math.log(scale - SCALE_FLOOR)))

    @property
    def scale(self) -> Tensor:
        """sigma ``(D,)``, in the data's units: the unit in which a feature is diffused."""
        return SCALE_FLOOR + self.log_scale.exp()

    def forward(self, path: Tensor) -> TorchDistribution:
        return ImplicitObservation(self, path)

    def seen(self, path: Tensor, mask: Tensor) -> TorchDistribution:
        """The distribution of the features where the mask is True, the others without a say.

        Args:
            path: ``(..., K, L)``.
            mask: bool, broadcasting with ``(..., K, D)``.
        """
        return ImplicitObservation(self, path, mask)

    def mean(self, path: Tensor) -> Tensor:
        """The prediction from no information, ``(..., K, D)``: the denoiser's at level 1.

        With an exact denoiser it is E[x | path] but for the ten-thousandth part of x that level 1
        keeps; no sampling is needed.
        """
        shift, start = self.read(path), path.new_zeros(*path.shape[:-1], self.observed)
        return shift + self.scale * clean_of(self.given(path)(start, path.new_ones(1)))

    def given(self, path: Tensor, mask: Tensor | None = None) -> Given:
        """The denoiser of observations in the units of `scale`, given the states."""
        told = path.new_ones(1) if mask is None else mask.to(path)
        told = told.expand(*told.shape[:-1], self.observed)
        shape = torch.broadcast_shapes(path.shape[:-1], told.shape[:-1])
        context = [part.expand(*shape, part.shape[-1]) for part in (path, told)]
        return self.denoiser.given(torch.cat(context, -1))


class ImplicitObservation(TorchDistribution):
    """What an `ImplicitEmission` shows of a path; its density is a bound, new at each call.

    Args:
        emission: the emission.
        path: ``(..., K, L)``.
        mask: what is observed, broadcasting with ``(..., K, D)``; None: all.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.real
    has_rsample = False
    random_density = True

    def __init__(self, emission: ImplicitEmission, path: Tensor, mask: Tensor | None = None):
        self.emission, self.path, self.seen = emission, path, mask
        shape = torch.Size((*path.shape[:-1], emission.observed))
        super().__init__(shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ImplicitObservation:
        """Of the path, wider."""
        path = self.path.expand(*batch_shape[:-1], self.path.shape[-1])
        return ImplicitObservation(self.emission, path, self.seen)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of every entry, observed or not."""
        emission, path = self.emission, self.path
        lead = (*sample_shape, *path.shape[:-1])
        if emission.stochasticity:
            chain = self._chain(None)
            return chain.run(torch.randn_like(path[..., :1].expand(*lead, chain.noise)))
        start = torch.randn_like(path[..., :1].expand(*lead, emission.observed))
        y = implicit(emission.given(path), start, emission.steps, order=emission.order)
        return emission.read(path) + emission.scale * y

    def log_prob(self, value: Tensor) -> Tensor:
        """An estimate of a lower bound ``(..., K, D)``, 0 where hidden.

        Raises:
            NotImplementedError: at stochasticity 0.
        """
        if not self.emission.stochasticity:
            raise NotImplementedError(
                "stochasticity: expected above 0 for the density of an observation, got 0: set "
                "emission.stochasticity, or observe through another emission"
            )
        terms = self._chain(self.seen).gap_terms(value, self.emission.levels, self.seen)
        return -terms if self.seen is None else torch.where(self.seen, -terms, 0.0)

    @property
    def mean(self) -> Tensor:
        """See `ImplicitEmission.mean`."""
        return self.emission.mean(self.path)

    def _chain(self, mask: Tensor | None) -> GaussianChain:
        emission, path = self.emission, self.path
        return GaussianChain(
            emission.given(path, mask),
            emission.observed,
            emission.steps,
            emission.stochasticity,
            emission.read(path),
            emission.scale,
        )
