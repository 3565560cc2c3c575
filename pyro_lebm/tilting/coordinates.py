"""Flat coordinates of a program's sites: a tilt's chains move in them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from ..factor import Sites
from ..programs.program import Program
from ..programs.reading import Enough
from ..programs.scoring import Fixed, Fixing


class Own(nn.Module):
    """The sites' own values, unconstrained and side by side; calling it gives their density.

    Args:
        structure: the program's sites, read once. The program is no part of this module.
    """

    def __init__(self, structure: Program) -> None:
        super().__init__()
        self.structure = structure

    def forward(self) -> TorchDistribution:
        """The distribution of the vectors ``(dim,)``."""
        return Latents(self)

    def values(self, rows: Tensor) -> dict[str, Tensor]:
        """Site values ``(*batch, *event)`` of vectors ``(*batch, dim)``."""
        return _values(self.structure, rows)

    def rows(self, values: Sites) -> Tensor:
        """Vectors ``(*batch, dim)`` of values ``(*batch, *event)`` of all sites."""
        structure, parts = self.structure, []
        for site, width in zip(structure.sites, structure.widths, strict=True):
            part = site.transform.inv(values[site.name])
            parts.append(part.reshape(*part.shape[: part.ndim - len(site.event)], width))
        return torch.cat(parts, -1)

    def log_jacobian(self, rows: Tensor) -> Tensor:
        """Of the map from vectors ``(*batch, dim)`` to values, the log of its volume."""
        total, structure = rows.new_zeros(rows.shape[:-1]), self.structure
        parts = zip(structure.sites, rows.split(structure.widths, -1), strict=True)
        for site, part in parts:
            if site.moves:
                u = part.reshape(rows.shape[:-1] + site.event)
                each = site.transform.log_abs_det_jacobian(u, site.transform(u))
                total = total + each.reshape(*rows.shape[:-1], -1).sum(-1)
        return total

    def given(self, batch: torch.Size, values: Sites) -> tuple[Tensor, Tensor]:
        """Vectors ``(*batch, dim)`` of values ``(*batch, *event)`` of some sites.

        The other sites' are the program's own draws given these. And which numbers are given.
        """
        structure, n = self.structure, batch.numel()
        like = next(iter(values.values()))
        parts, known = [], []
        for site, width in zip(structure.sites, structure.widths, strict=True):
            given = site.name in values
            part = site.transform.inv(values[site.name]) if given else like.new_zeros(())
            parts.append(part.reshape(n, width) if given else part.expand(n, width))
            known.append(part.new_full((width,), given, dtype=torch.bool))
        sets = whole(structure, torch.cat(parts, -1))
        fixed = {name: v for name, v in structure.unpack(sets).items() if name in values}
        with structure.hidden():
            rows = structure.prior_draws(len(sets), fixed).reshape(-1, structure.dim)
        return rows[:n].reshape(*batch, -1), torch.cat(known)


class Noise:
    r"""Noise :math:`\epsilon \sim N(0, I)` of which Gaussian sites are made, one after another.

    .. math:: z_i = \mu_i(z_{<i}) + L_i(z_{<i})\, \epsilon_i

    In it a hierarchy is round, however narrow its conditionals (Cui, Wu & Han 2023, arXiv
    2306.06323, second stage).

    Args:
        structure: as for `Own`.
    """

    def __init__(self, structure: Program) -> None:
        self.structure = structure

    def values(self, rows: Tensor) -> dict[str, Tensor]:
        """Site values ``(*batch, *event)`` of vectors ``(*batch, dim)``."""
        flat = whole(self.structure, rows.reshape(-1, rows.shape[-1]))
        with self.structure.hidden():
            (found,) = self.structure.mapped(self._made, flat)
        found = found.reshape(-1, rows.shape[-1])[: rows.shape[:-1].numel()]
        return _values(self.structure, found.reshape(rows.shape))

    def _made(self, noise: Tensor) -> tuple[Tensor]:
        made = _Made(self.structure, dict(self.structure.unconstrained(noise)))
        with suppress(Enough), made:
            self.structure.model(*self.structure.args, **self.structure.kwargs)
        return (self.structure.pack(made.found),)


class Latents(TorchDistribution):
    """The latent sites of a program as one vector: their density, of live parameters."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - the name and type are torch's
    support = constraints.independent(constraints.real, 1)
    has_rsample = False

    def __init__(self, own: Own) -> None:
        self.own = own
        event = torch.Size((own.structure.dim,))
        super().__init__(torch.Size(), event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at ``(*batch, dim)``, with the Jacobians of constrained sites."""
        flat = value.reshape(-1, value.shape[-1])
        found = self.own.structure.log_prior(whole(self.own.structure, flat)).reshape(-1)
        return found[: len(flat)].reshape(value.shape[:-1])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the program itself, ``(*sample_shape, dim)``."""
        n, structure = torch.Size(sample_shape).numel(), self.own.structure
        sets = -(-n // structure.elements.numel())
        with structure.hidden():
            rows = structure.prior_draws(sets).reshape(-1, structure.dim)
        return rows[:n].reshape(*sample_shape, structure.dim)


def _values(structure: Program, rows: Tensor) -> dict[str, Tensor]:
    parts = zip(structure.sites, rows.split(structure.widths, -1), strict=True)
    batch = rows.shape[:-1]
    return {site.name: site.transform(part.reshape(batch + site.event)) for site, part in parts}


def whole(structure: Program, rows: Tensor) -> Tensor:
    """Vectors ``(n, dim)`` as positions of the program, ``(sets, *elements, dim)``.

    A program that has plates of its own takes as many at once as they have elements; what is
    missing in the last set are copies of the first vector.
    """
    spare = -len(rows) % structure.elements.numel()
    padded = torch.cat([rows, rows[:1].expand(spare, -1)]) if spare else rows
    return padded.reshape(-1, *structure.elements, rows.shape[-1])


class _Made(Fixing):
    """Makes each site's value of noise, which is given in the place of values."""

    def __init__(self, program: Program, noise: Fixed) -> None:
        super().__init__(program, noise)
        self.found: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if msg["name"] not in self.values and msg["name"] in self.program.values:
            msg["value"] = self.program.values[msg["name"]]  # another latent, that no site hangs on
        if msg["name"] in self.values:
            noise, _ = self.values[msg["name"]]
            msg["value"] = self.found[msg["name"]] = of_noise(msg["fn"], noise, msg["name"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if len(self.found) == len(self.values):
            raise Enough


def of_noise(fn: Any, noise: Tensor, name: str) -> Tensor:
    """The draw of a Gaussian that standard normal ``noise`` makes.

    Raises:
        ValueError: for any other distribution.
    """
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    if isinstance(fn, dist.Normal):
        return fn.loc + fn.scale * noise
    if isinstance(fn, dist.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    raise ValueError(
        f"coordinates: 'noise' expects Gaussian sites, got {type(fn).__name__} at {name!r}; use "
        "'own'"
    )
