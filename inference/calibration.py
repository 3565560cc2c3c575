"""Simulation-based calibration: are posteriors right on average over the prior?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import arviz
import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Unit
from scipy.stats import binom
from torch import Tensor
from tqdm.auto import tqdm

from pyro_lebm.distribution import Sampler, drawn_by
from pyro_lebm.grid import grid_draws
from pyro_lebm.programs.program import Program

from .draws import Draws

Samples = Draws | Mapping[str, Tensor]
SIMULATIONS = 50_000  # of uniform ranks, for the bands
LOG_JOINT = "log joint"


@dataclass(frozen=True)
class Calibration:
    r"""Ranks of true values among posterior draws.

    Under a right posterior a rank is uniform on 0..L whatever the model (Talts, Betancourt,
    Simpson, Vehtari & Gelman 2018, arXiv 1804.06788).

    Attributes:
        ranks: ``{quantity: (replications,)}``, each in 0..draws.
        draws: L, posterior draws of a replication.
    """

    ranks: Mapping[str, Tensor]
    draws: int

    @property
    def replications(self) -> int:
        """How many."""
        return len(next(iter(self.ranks.values())))

    @property
    def points(self) -> Tensor:
        """Ranks at which distributions are compared, between 1 and L."""
        k = min(self.draws + 1, self.replications, 100)
        at: Tensor = (torch.arange(1, k) / k * (self.draws + 1)).round().long().unique()
        return at

    def below(self, quantity: str) -> Tensor:
        """How many ranks of a quantity lie below each of `points`."""
        return (self.ranks[quantity][:, None] < self.points).sum(0)

    def bands(self, level: float = 0.01) -> tuple[Tensor, Tensor]:
        """Least and largest of `below` at all points that uniform ranks have.

        By simulation (Sailynoja, Buerkner & Vehtari 2022, arXiv 2103.10522): the level of a point
        is that at which a share ``level / quantities`` of simulations leaves the bands anywhere.
        So all points of all quantities together raise a false alarm at most that often.
        """
        low, high = _bands(
            tuple(self.points.tolist()), self.replications, self.draws, level / len(self.ranks)
        )
        return torch.tensor(low).long(), torch.tensor(high).long()

    def failed(self, level: float = 0.01) -> list[str]:
        """Quantities whose ranks leave the bands."""
        low, high = self.bands(level)
        below = {quantity: self.below(quantity) for quantity in self.ranks}
        return [q for q, count in below.items() if bool(((count < low) | (count > high)).any())]


@cache
def _bands(points: tuple[int, ...], n: int, draws: int, level: float) -> tuple[Any, Any]:
    """Bands that uniform ranks of one quantity leave at most at ``level``."""
    shares = np.array(points) / (draws + 1)
    bins = np.diff(np.concatenate(([0.0], shares, [1.0])))
    counts = np.random.default_rng(0).multinomial(n, bins, SIMULATIONS).cumsum(1)[:, :-1]
    tail = np.minimum(binom.cdf(counts, n, shares), binom.sf(counts - 1, n, shares)).min(1)
    each = float(np.quantile(tail, level))
    return binom.ppf(each, n, shares), binom.isf(each, n, shares)


def calibrate(
    model: Callable[..., Any],
    inference: Callable[[dict[str, Tensor]], Samples],
    *args: Any,
    replications: int = 500,
    draws: int = 63,
    exact: Sampler = grid_draws,
    progress: bool = True,
    **kwargs: Any,
) -> Calibration:
    """Simulation-based calibration of a way of inference (Talts et al. 2018, arXiv 1804.06788).

    The program itself draws true values and data; inference sees the data alone; the true values'
    ranks among its draws are those of one more draw, if it is right. Ranked are all coordinates of
    the unconstrained latents and the log joint density, which sees what single coordinates do not.

    Elements that the program's plates make independent, such as sequences, are replications: a
    model of 500 sequences is run once.

    Args:
        model: a Pyro program with continuous latents; what it observes is drawn anew.
        inference: from ``{observed site: values}`` to draws ``(chains, draws, *site shape)`` of
            every latent site. Chains must not start at the truth, which it is not told.
        args, kwargs: the model's.
        replications: least number of them.
        draws: L, draws ranked of each replication, evenly spaced among those given.
        exact: draws of energy-based sites.
        progress: show a bar.

    Raises:
        ValueError: for fewer than 20 replications or one draw; for a program with a factor, which
            cannot draw its data; where the effective sample size of any quantity, the median over
            replications, is below L: ranks would not be uniform.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> _ = pyro.set_rng_seed(0)
        >>> def model():
        ...     with pyro.plate("items", 200):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(200))
        >>> def right(data):
        ...     return {"z": dist.Normal(data["x"] / 2, 0.5**0.5).sample((1, 100))}
        >>> calibrate(model, right, replications=200, progress=False).failed()
        []
        >>> def narrow(data):
        ...     return {"z": dist.Normal(data["x"] / 2, 0.4).sample((1, 100))}
        >>> calibrate(model, narrow, replications=200, progress=False).failed()
        ['z', 'log joint']
    """
    if replications < 20 or draws < 1:
        raise ValueError(
            f"replications, draws: expected at least 20 and 1, got {replications} and {draws}"
        )
    bare = poutine.uncondition(model)
    found: list[tuple[dict[str, Tensor], Any]] = []
    have = 0
    with tqdm(total=replications, disable=not progress, desc="calibrate") as bar:
        while have < replications:
            truth, data = _simulated(bare, args, kwargs, exact)
            program = Program.read(poutine.condition(bare, data=data), *args, **kwargs)
            samples = inference(data)
            named = samples.samples if isinstance(samples, Draws) else samples
            found.append(_ranks(program, truth, named, draws))
            new = len(found[-1][0][LOG_JOINT])
            have += new
            bar.update(new)
    ranks = {q: torch.cat([part[q] for part, _ in found]) for q in found[0][0]}
    _check_ess(list(ranks), np.concatenate([ess for _, ess in found]), draws)
    return Calibration(ranks, draws)


def _simulated(
    bare: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], exact: Sampler
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """True values of the latent sites, and of those that are observed."""
    with torch.no_grad(), drawn_by(exact), poutine.block():
        trace = poutine.trace(bare).get_trace(*args, **kwargs)
    truth: dict[str, Tensor] = {}
    data: dict[str, Tensor] = {}
    for name, node in trace.iter_stochastic_nodes():
        infer: Any = node["infer"]
        if infer.get("_deterministic"):
            continue
        if isinstance(node["fn"], Unit):
            raise ValueError(
                f"model: expected a program that draws its own data, got the factor {name!r}"
            )
        value: Any = node["value"]
        (data if infer.get("was_observed") else truth)[name] = value.detach()
    return truth, data


def _ranks(
    program: Program, truth: dict[str, Tensor], samples: Mapping[str, Tensor], draws: int
) -> tuple[dict[str, Tensor], Any]:
    """Of each quantity, ``(elements,)``; and effective sample sizes, ``(elements, quantities)``."""
    missing = {site.name for site in program.sites} - set(samples)
    if missing:
        raise ValueError(f"inference: expected draws of {sorted(missing)} too, got none")
    with torch.no_grad():
        true = program.pack(truth)
        z = program.pack({site.name: samples[site.name] for site in program.sites})
        joint = program.log_density(z)[..., None], program.log_density(true[None])[0, ..., None]
        every = torch.cat([z, joint[0]], -1).reshape(*z.shape[:2], -1, z.shape[-1] + 1)
        true = torch.cat([true, joint[1]], -1).reshape(-1, z.shape[-1] + 1)
    flat = every.flatten(0, 1)
    spaced = flat[torch.linspace(0, len(flat) - 1, draws).round().long()]
    below = (spaced < true).sum(0)
    return dict(zip([*_names(program), LOG_JOINT], below.T, strict=True)), _ess(every)


def _ess(z: Tensor) -> Any:
    """Of ``(chains, draws, elements, quantities)``, the last two."""
    columns = z.flatten(2).double().cpu().numpy()
    found = [arviz.ess(columns[..., k]) for k in range(columns.shape[-1])]  # type: ignore[no-untyped-call]
    return np.array(found, dtype=float).reshape(z.shape[2:])


def _check_ess(quantities: list[str], ess: Any, draws: int) -> None:
    """The median over replications: single estimates scatter."""
    for quantity, typical in zip(quantities, np.median(ess, 0), strict=True):
        if not typical >= draws:
            raise ValueError(
                f"inference: expected draws of an effective sample size of at least {draws}, got "
                f"{typical:.0f} of {quantity!r}; draw more, or rank fewer"
            )


def _names(program: Program) -> list[str]:
    return [
        site.name if width == 1 else f"{site.name}[{k}]"
        for site, width in zip(program.sites, program.widths, strict=True)
        for k in range(width)
    ]
