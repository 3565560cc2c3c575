"""Latent dynamical implicit diffusion: states that a few denoising steps carry through time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lebm.diffusion.chain import Bridge, GaussianChain
from pyro_lebm.diffusion.denoising import Denoise, Found
from pyro_lebm.diffusion.implicit import implicit
from pyro_lebm.number_checks import check_numbers

from .denoisers import TransitionDenoiser
from .emissions import GaussianEmission
from .fields import check_sizes
from .implicit_settings import ImplicitSettings
from .stepwise import StepwiseModel


class DiffusionProcess(ImplicitSettings, StepwiseModel):
    r"""A latent state whose next value a few steps of implicit diffusion sample (LDIDP).

    .. math:: z_1 \sim p(z_1), \quad u_S = \varepsilon_k, \quad
              u_{s-1} = c_s \hat z(u_s, s, z_{k-1}, \Delta_k) + b_s u_s + \sigma_s n_s, \quad
              z_k = a_k + r_k u_0, \quad x_k \sim p(x \mid z_k)

    with the weights of an implicit step (Rezaei 2023, arXiv 2306.07077; Song, Meng & Ermon 2021,
    arXiv 2010.02502). Place :math:`a_k` and unit :math:`r_k` are the frame that the denoiser sets
    by :math:`z_{k-1}` and :math:`\Delta_k`, see `TransitionDenoiser`; 0 and 1 for one without. The
    paper leaves irregular times open: here the denoiser is told the gap, so that one network serves
    gaps of any length. Frame, sizes, network and schedule are ours; the paper gives none.

    At stochasticity 0 all :math:`\sigma_s` are 0, the state follows from the noise that the program
    samples, and a transition has no density. Above 0 it is a `GaussianChain`, whose steps also have
    the denoiser's spread w, a variance of :math:`\sigma_s^2 + c_s^2 w^2`; `bridge`, `gaps` and
    `retrace` bound its density. One may train with one and sample with the other: stochasticity,
    steps and order may be set at any time, and with them the noise that a step draws, L numbers or
    (S + 1) L. Of other levels of noise than those of the steps that it was trained in the denoiser
    knows nothing for sure.

    Sites: those of `StepwiseModel`.

    Args:
        latent: size L of the state.
        observed: size D of an observation.
        steps: S, calls of the denoiser in a transition.
        stochasticity: eta in [0, 1]: 0 for implicit sampling, 1 for ancestral.
        order: of the sampler at stochasticity 0: 1, or 2, which keeps the variance in few steps;
            see `pyro_lebm.diffusion.implicit`.
        hidden: widths of the default denoiser's hidden layers.
        denoiser: module ``(noisy, level, z, gap, u) -> next state`` or ``-> (next state, its
            standard deviation)``, gap in units; level ``(1,)`` or broadcasting with ``noisy``. One
            with a method ``frame(z, gap, u) -> (shift, scale)`` does this in the frame's units, and
            ``given(z, gap, u)`` may return it with what does not change between levels computed
            once. Default: `TransitionDenoiser`, whose frame sits at the last state.
        prior: module whose call returns the distribution of ``z0``; default N(0, I).
        emission: module from paths ``(..., K, L)`` to a distribution of batch shape ``(..., K,
            D)``; default Gaussian with learned scale.
        covariates: size C of known inputs to the denoiser, 0 for none.
        unit: a typical gap, in the series' unit.
        flow: module on a step's start noise that changes no volume, with a method ``inverse``, such
            as `VolumePreservingFlow`; default none.

    Raises:
        TypeError: for a size, steps or an order that is no whole number, a stochasticity or unit
            that is no number, ``hidden`` that is no sequence.
        ValueError: for sizes or steps below one, no hidden layer, a stochasticity outside of [0,
            1], an order other than 1 and 2, a unit that is not above 0, a flow of another size;
            when called: see `StepwiseModel`.

    Example:
        >>> model = DiffusionProcess(latent=2, observed=1)
        >>> model.generate(3, torch.tensor([0.0, 0.4, 1.0])).shape
        torch.Size([3, 3, 1])
    """

    def __init__(
        self,
        latent: int,
        observed: int,
        *,
        steps: int = 5,
        stochasticity: float = 0.0,
        order: int = 1,
        hidden: Sequence[int] = (64, 64),
        denoiser: nn.Module | None = None,
        prior: nn.Module | None = None,
        emission: nn.Module | None = None,
        covariates: int = 0,
        unit: float = 1.0,
        flow: nn.Module | None = None,
    ) -> None:
        check_sizes(latent=latent, observed=observed)
        emission = GaussianEmission(latent, observed) if emission is None else emission
        super().__init__(
            latent, observed, latent, prior=prior, emission=emission, covariates=covariates
        )
        check_numbers(unit=unit)
        if not 0 < unit < math.inf:
            raise ValueError(f"unit: expected a finite number above 0, got {unit}")
        size = getattr(flow, "size", latent)
        if size != latent:
            raise ValueError(f"flow: expected one of size {latent} as the state, got {size}")
        default = TransitionDenoiser(latent, hidden, covariates) if denoiser is None else denoiser
        self.latent, self.unit = latent, float(unit)
        self.denoiser, self.flow = default, flow
        self.steps, self.stochasticity, self.order = steps, stochasticity, order

    @property
    def noise(self) -> int:
        """How many standard normal numbers a step draws: L, or (S + 1) L above stochasticity 0."""
        return self.latent * (self.steps + 1 if self.stochasticity else 1)

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        """The next state ``(..., L)``, see `StepwiseModel.step`."""
        if self.stochasticity:
            return self.transition(z, gap, u).run(noise)
        denoise, shift, scale = self._denoise(z, gap, u)
        start = noise if self.flow is None else self.flow(noise)
        x = implicit(denoise, start, self.steps, order=self.order)
        x = x if scale is None else scale * x
        return x if shift is None else shift + x

    def transition(self, z: Tensor, gap: Tensor, u: Tensor | None = None) -> GaussianChain:
        """The chain of Gaussian steps to the next state, with its densities.

        Args:
            z: the state before ``(..., L)``.
            gap: ``(..., 1)`` or ``(1,)``, in the series' unit.
            u: covariates at the next time ``(..., C)``.

        Raises:
            NotImplementedError: at stochasticity 0, where a transition has no density.
        """
        if not self.stochasticity:
            raise NotImplementedError(
                "stochasticity: expected above 0 for the density of a transition, got 0: sample "
                "the noise, from which the states follow, or set model.stochasticity"
            )
        denoise, shift, scale = self._denoise(z, gap, u)
        eta, flow = self.stochasticity, self.flow
        return GaussianChain(denoise, self.latent, self.steps, eta, shift, scale, flow)

    def bridge(self, z: Tensor, gap: Tensor, target: Tensor, u: Tensor | None = None) -> Bridge:
        """Noise that `step` maps from z to a target ``(..., L)``; see `GaussianChain.bridge`.

        Raises:
            NotImplementedError: at stochasticity 0.
        """
        z, target = torch.broadcast_tensors(z, target)
        return self.transition(z, gap, u).bridge(target)

    def gaps(
        self,
        z: Tensor,
        gap: Tensor,
        target: Tensor,
        u: Tensor | None = None,
        *,
        levels: int | None = None,
    ) -> Tensor:
        """The divergence of `bridge` alone, ``(...)``, from all levels or from some, at random.

        Raises:
            NotImplementedError: at stochasticity 0.
            ValueError: for fewer than one level.
        """
        z, target = torch.broadcast_tensors(z, target)
        return self.transition(z, gap, u).gaps(target, levels)

    def retrace(
        self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The state that noise makes, and its levels' exact ratio; see `GaussianChain.retrace`.

        Raises:
            NotImplementedError: at stochasticity 0.
            ValueError: for noise of another size than (S + 1) L.
        """
        return self.transition(z, gap, u).retrace(noise)

    def _denoise(
        self, z: Tensor, gap: Tensor, u: Tensor | None
    ) -> tuple[Denoise, Tensor | None, Tensor | None]:
        denoiser: Any = self.denoiser  # read once: to fetch a submodule of a PyroModule costs
        gap = gap / self.unit
        shift, scale = denoiser.frame(z, gap, u) if hasattr(denoiser, "frame") else (None, None)
        if hasattr(denoiser, "given"):
            return denoiser.given(z, gap, u), shift, scale

        def denoise(noisy: Tensor, level: Tensor) -> Found:
            found: Found = denoiser(noisy, level, z, gap, u)
            return found

        return denoise, shift, scale

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: how states are sampled, and which functions do it."""
        samplers = {
            f"{name}.sampler".strip("."): module.sampler
            for name, module in self.named_modules()
            if isinstance(module, ImplicitSettings)
        }
        return {**samplers, "unit": f"{self.unit:g}", **super().structure()}
