"""What the sites of a training step count: latent ones little at first, data for what is seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger

from pyro_lebm.factor import TiltFactor
from pyro_lebm.series import Series


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


class DataScale(Messenger):
    """Scales the log-probability of what is observed, for data that are scored in part."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not isinstance(msg["fn"], Unit | TiltFactor):
            msg["scale"] = msg["scale"] * self.scale


class Warm:
    """A program in a training step.

    Attributes:
        scale: of its latent sites.
        weight: of its observed sites.
        given: what it is called with in the place of the minibatch; None: the minibatch.
    """

    def __init__(self, program: Callable[..., Any]) -> None:
        self.program = program
        self.scale, self.weight = 1.0, 1.0
        self.given: Series | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        if self.given is not None:
            args = (self.given, *args[1:])
        with ExitStack() as stack:
            if self.scale != 1.0:
                stack.enter_context(LatentScale(self.scale))
            if self.weight != 1.0:
                stack.enter_context(DataScale(self.weight))
            return self.program(*args, **kwargs)
