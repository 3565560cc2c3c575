"""An encoder as a guide: amortised variational inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.programs.program import Model, Program
from pyro_lebm.series import Series, check_series

from ..draws import Draws
from ..posterior import anneal_twice, check_plates
from .encoders import GRUEncoder
from .guide import Guide, check_draws, refuse_other_widths, viewed


class EncoderGuide(Guide):
    r"""Amortised variational inference, a diagonal Gaussian from an encoder.

    .. math:: q(z \mid x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))

    The encoder reads a series and gives, per sequence, mean and log scale of the latent vector, in
    unconstrained space. Trained by the ELBO it makes a `LatentODE` with Gaussian prior the latent
    ODE as published (Chen et al. 2018, arXiv 1806.07366).

    Args:
        model: the Pyro program, its latent sites all in the plate of the sequences.
        series: the training data.
        encoder: module ``Series -> (N, 2 * dim)``; default a backward `GRUEncoder`.
        view: what the encoder may see of a training sequence, such as its first half where later
            sequences are to be forecast; default everything observed. Under ``horizon_warmup`` it
            is given their beginnings, so that it should ask for shares of them rather than numbers.
            New sequences are seen whole.

    Raises:
        TypeError: when called: for a view that returns no Series.
        ValueError: for latent sites outside one plate of sequences, or an encoder that returns
            another number of features.
    """

    def __init__(
        self,
        model: Model,
        series: Series,
        encoder: nn.Module | None = None,
        *,
        view: Callable[[Series], Series] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(Program.read(model, series, **kwargs))
        if len(self.program.common) != 1:
            raise ValueError(
                "model: an encoder expects all latent sites in one plate, that of the sequences, "
                f"got common plates {self.program.common}"
            )
        features = 2 * self.program.dim
        if encoder is None:
            covariates = 0 if series.covariates is None else series.covariates.shape[-1]
            encoder = GRUEncoder(
                series.observed,
                features=features,
                covariates=covariates,
                t0=getattr(model, "t0", None),
            )
            encoder.to(device=series.values.device, dtype=series.values.dtype)
        self.encoder, self.view = encoder, view

    def encode(self, series: Series) -> dist.Normal:
        """The variational posterior in unconstrained space, batch shape ``(N, dim)``."""
        found: Tensor = self.encoder(series)
        expected = (len(series), 2 * self.program.dim)
        if found.shape != expected:
            raise ValueError(f"encoder: expected shape {expected}, got {tuple(found.shape)}")
        loc, raw = found.chunk(2, -1)
        # The scale starts near .1 whatever the weights, and no weight can make it 0.
        return dist.Normal(loc, F.softplus(raw - 2.0) + 1e-4)

    def propose(self, series: Series) -> dist.Normal:
        """`encode` of what the encoder may see of a training sequence."""
        return self.encode(series if self.view is None else viewed(self.view, series))

    def forward(self, series: Series, **kwargs: Any) -> None:
        """The guide: every latent site from the encoder's Gaussian."""
        program = self.program.rebind(series, **kwargs)
        refuse_other_widths(program, self.program)
        q = self.propose(series)
        parts = zip(program.unflatten(q.loc), program.unflatten(q.scale), strict=True)
        for (site, loc), (_, scale) in parts:
            normal = dist.Normal(loc, scale).to_event(len(site.event))
            fn = dist.TransformedDistribution(normal, [site.transform]) if site.moves else normal
            with program.inside(site.plates):
                pyro.sample(site.name, fn)

    def annealed(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """From the prior and from the encoder, with no larger population where they disagree."""
        options = {"particles": draws, **options}
        return anneal_twice(self.program, series, draws, encode=self.encode, **options)

    def posterior(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """Draws of the encoder's Gaussian: an approximation, whatever its training."""
        _refuse_options(options)
        check_draws(draws)
        check_series(series)
        check_plates(self.program)
        with torch.no_grad():
            z = self.encode(series).sample(torch.Size((1, draws)))
        return Draws(self.program.unpack(z), method="encoder (amortised Gaussian)")


def _refuse_options(options: dict[str, Any]) -> None:
    if options:
        raise TypeError(f"posterior: an encoder's draws take no options, got {sorted(options)}")
