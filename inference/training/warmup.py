"""KL warm-up: the latent sites count little at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger

from pyro_lebm.factor import TiltFactor


class LatentScale(Messenger):
    r"""Scales the log-probability of latent sites, in the model and in the guide alike.

    With scale :math:`\beta` the ELBO becomes
    :math:`\mathbb E_q[\log p(x|z)] - \beta\,\mathrm{KL}(q(z|x)\,\|\,p(z))`
    (Bowman et al. 2016, arXiv 1511.06349). The factor of a tilted prior is scaled with the sites
    it tilts; observed sites, `factor` statements and the indices of subsampled plates are left as
    they are.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro import poutine
        >>> with LatentScale(0.5):
        ...     trace = poutine.trace(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))).get_trace()
        >>> trace.nodes["z"]["scale"]
        0.5
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        latent = not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample"
        if latent or isinstance(msg["fn"], TiltFactor):
            msg["scale"] = msg["scale"] * self.scale


class Warm:
    """A program whose latent sites are scaled by what `scale` holds at the time of the call."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self.program = program
        self.scale = 1.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        if self.scale == 1.0:
            return self.program(*args, **kwargs)
        with LatentScale(self.scale):
            return self.program(*args, **kwargs)
