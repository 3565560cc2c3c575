"""An energy of the values of several sites, as an energy of flat vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor

from ..factor import Sites
from ..programs.program import Program
from .coordinates import Noise, Own


class OfSites(PyroModule):
    """An energy ``{name: (*batch, *event)} -> (*batch)`` as one of vectors ``(*batch, dim)``.

    Attributes:
        through: what else the vectors' energy hangs on, though it is no part of the energy: of
            noise, the program that makes values of it.
    """

    def __init__(self, energy: Callable[[Sites], Tensor], coordinates: Own | Noise) -> None:
        super().__init__()
        self.energy = energy
        self._coordinates = (coordinates,)  # in a tuple: else it would be registered

    @property
    def through(self) -> tuple[Any, ...]:
        """See above."""
        coordinates = self._coordinates[0]
        return (coordinates.structure.model,) if isinstance(coordinates, Noise) else ()

    def forward(self, rows: Tensor) -> Tensor:
        """``(*batch, dim) -> (*batch)``."""
        return self.of(self._coordinates[0].values(rows))

    def of(self, values: Sites) -> Tensor:
        """The energy of site values, its shape checked.

        Raises:
            ValueError: for one that asks for other sites, or of another shape.
        """
        structure = self._coordinates[0].structure
        site = structure.sites[0]
        energy = self.energy(_Known(values, structure))
        if not isinstance(energy, Tensor):
            raise ValueError(
                f"energy: expected a tensor, one number per element, got {type(energy).__name__}"
            )
        shape = values[site.name].shape
        expected = shape[: len(shape) - site.event_dim]
        if energy.shape != expected:
            shapes = {name: tuple(value.shape) for name, value in values.items()}
            raise ValueError(
                f"energy: expected one number per element, shape {tuple(expected)} for sites of "
                f"shapes {shapes}, got shape {tuple(energy.shape)}"
            )
        return energy


class _Known(dict[str, Tensor]):
    """Site values by name, which says of other names that there are none."""

    def __init__(self, values: Sites, structure: Program) -> None:
        super().__init__(values)
        self.structure = structure

    def __missing__(self, name: str) -> Tensor:
        sites = [site.name for site in self.structure.sites]
        raise ValueError(
            f"energy: expected to ask for tilted sites, of which there are {sites}, got {name!r}, "
            "which is no site, or observed, or not tilted"
        )
