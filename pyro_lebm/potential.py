"""The potential energy of a Pyro program: what every kernel stands on."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .program import Model, Program


class Potential:
    r"""Potential energy :math:`U(z) = -\log p(x, z) - \log|J(z)|` of one chain, parameters frozen.

    ``z`` is one flat unconstrained vector of all latent sites; J is the Jacobian of the map to the
    sites' supports. `single` scores one chain; calling the object scores a batch of them by
    ``torch.func.vmap``, which is right for any program without Python branches on latent values.

    Args:
        program: the program read off one trace.

    Attributes:
        dim: length of ``z``.

    Raises:
        ValueError: for a program with a subsampled plate: its posterior is not that of the data.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        >>> u = potential(model)
        >>> u.single(torch.zeros(1)).round(decimals=4)  # a standard normal in log scale
        tensor(0.9189)
        >>> u(torch.zeros(8, 1)).shape
        torch.Size([8])
    """

    def __init__(self, program: Program, *, engine: Literal["eager"] = "eager") -> None:
        if engine != "eager":
            raise ValueError(f"engine: expected 'eager', got {engine!r}")
        for name, (size, full) in program.minibatches.items():
            raise ValueError(
                f"model: expected full data, got plate {name!r} with a minibatch of {size} out of "
                f"{full}"
            )
        self.program, self.engine = program, engine
        self.dim = program.dim * program.elements.numel()

    def _per_element(self, z: Tensor) -> Tensor:
        return z.reshape((*z.shape[:-1], *self.program.elements, self.program.dim))

    def single(self, z: Tensor) -> Tensor:
        """The potential of one chain: ``(dim,) -> ()``."""
        if z.shape != (self.dim,):
            raise ValueError(f"z: expected shape ({self.dim},), got {tuple(z.shape)}")
        return -self.program.log_density(self._per_element(z)).sum()

    def __call__(self, z: Tensor) -> Tensor:
        """The potential of many chains: ``(*chains, dim) -> (*chains)``."""
        if z.ndim < 2 or z.shape[-1] != self.dim:
            raise ValueError(f"z: expected shape (*chains, {self.dim}), got {tuple(z.shape)}")
        log_density = self.program.log_density(self._per_element(z))
        return -log_density.reshape((*z.shape[:-1], -1)).sum(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """-U, the form that `pyro_lebm.langevin` takes."""
        return -self(z)

    def initial(self, chains: int) -> Tensor:
        """Starting points ``(chains, dim)`` drawn from the program's own prior."""
        if chains < 1:
            raise ValueError(f"chains: expected at least 1, got {chains}")
        return self.program.prior_draws(chains).reshape(chains, self.dim)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Named site values on their supports, ``(*chains, *site shape)``."""
        return self.program.unpack(self._per_element(z))


def potential(
    model: Model, *args: Any, engine: Literal["eager"] = "eager", **kwargs: Any
) -> Potential:
    """The potential energy of ``model(*args, **kwargs)``; see `Potential`."""
    return Potential(Program.read(model, *args, **kwargs), engine=engine)
