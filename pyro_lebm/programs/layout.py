"""Named values of a program's latent sites, and one flat vector for each element of its plates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .reading import Plate, Site


@dataclass(frozen=True)
class Layout:
    """How the latent sites of a program are packed into positions ``(*leading, *elements, dim)``.

    Attributes:
        sites: latent sites, in program order.
        plates: by name.
        common: the plates that all sites share, from the left.
        elements: sizes of the common plates in this run.
        full: sizes of the common plates in the whole data set.
        dim: numbers per element.
    """

    sites: tuple[Site, ...]
    plates: dict[str, Plate]
    common: tuple[str, ...]

    @property
    def elements(self) -> torch.Size:
        return torch.Size(self.plates[name].size for name in self.common)

    @property
    def full(self) -> torch.Size:
        return torch.Size(self.plates[name].full_size for name in self.common)

    @property
    def index(self) -> tuple[Tensor, ...]:
        """The elements' places in the whole data set, ready for advanced indexing."""
        return torch.meshgrid(*(self.plates[name].index for name in self.common), indexing="ij")

    @property
    def dim(self) -> int:
        return sum(self.widths)

    @property
    def widths(self) -> list[int]:
        """Numbers per element of each site."""
        elements = self.elements.numel()
        return [(site.batch + site.event).numel() // max(elements, 1) for site in self.sites]

    def _dims(self, site: Site) -> list[int]:
        """Where the common plates lie in the site's value, counted from the left."""
        return [len(site.batch) + self.plates[name].dim for name in self.common]

    def pack(self, values: Mapping[str, Tensor], *, constrained: bool = True) -> Tensor:
        """Site values, constrained or not, to positions ``(*leading, *elements, dim)``."""
        packed = []
        for site in self.sites:
            u = values[site.name]
            u = site.transform.inv(u) if constrained else u
            lead = u.ndim - len(site.batch) - len(site.event)
            dims = self._dims(site)
            u = u.movedim([lead + d for d in dims], [lead + i for i in range(len(dims))])
            packed.append(u.reshape((*u.shape[: lead + len(dims)], -1)))
        return torch.cat(packed, -1)

    def unflatten(self, z: Tensor) -> Iterator[tuple[Site, Tensor]]:
        """The parts of packed numbers that belong to each site, in the site's shape."""
        lead = z.ndim - 1 - len(self.common)
        for site, part in zip(self.sites, z.split(self.widths, -1), strict=True):
            dims = self._dims(site)
            own = [size for d, size in enumerate(site.batch) if d not in dims]
            u = part.reshape(z.shape[:-1] + torch.Size(own) + site.event)
            yield site, u.movedim([lead + i for i in range(len(dims))], [lead + d for d in dims])

    def unpack(self, z: Tensor) -> dict[str, Tensor]:
        """Positions to constrained site values, ``(*leading, *site shape)``."""
        return {site.name: site.transform(u) for site, u in self.unflatten(z)}

    def unconstrained(self, z: Tensor) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
        """Each site's value, and log |Jacobian| of its transform where it has one."""
        for site, u in self.unflatten(z):
            if not site.moves:
                yield site.name, (u, None)
                continue
            value = site.transform(u)
            jacobian = site.transform.log_abs_det_jacobian(u, value)
            lead = u.ndim - len(site.batch) - len(site.event)
            spare = list(range(lead + len(site.batch), jacobian.ndim))
            # torch reads an empty list of dimensions as all of them
            yield site.name, (value, jacobian.sum(spare) if spare else jacobian)

    def reduce(self, log_prob: Tensor) -> Tensor:
        """Sum a site's log probability over all dimensions but those of the common plates."""
        keep = {log_prob.ndim + self.plates[name].dim for name in self.common}
        drop = [d for d in range(log_prob.ndim) if d not in keep]
        return log_prob.sum(drop) if drop else log_prob
