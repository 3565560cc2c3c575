"""Vector fields: what moves a latent state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.number_checks import check_whole

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
}

# Hidden numbers in one slice of a large input on a CPU: it stays in cache, and its memory is used
# again instead of being asked of the system anew, which costs more than the arithmetic.
SLICE = 2**18


class Layers(nn.Module):
    """Linear layers with an activation between them; no hidden layer gives one linear map.

    Args:
        inputs: size of the last dimension that comes in.
        outputs: size of the last dimension that goes out.
        hidden: widths of the hidden layers.
        activation: one of :data:`ACTIVATIONS`.

    Raises:
        TypeError: a size that is no whole number, ``hidden`` that is no sequence.
        ValueError: a size below 1 or an unknown activation.
    """

    layers: Sequence[nn.Linear]

    def __init__(
        self, inputs: int, outputs: int, hidden: Sequence[int] = (100,), activation: str = "tanh"
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs)
        check_hidden(hidden)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        sizes = [inputs, *hidden, outputs]
        layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.layers = layers  # type: ignore[assignment]
        self.activation = activation
        self.widest = max(sizes)

    def after_first(self, x: Tensor, rest: Sequence[nn.Linear]) -> Tensor:
        """The layers after the first, each with the activation before it."""
        activate = ACTIVATIONS[self.activation]
        # F.linear, not the layer's own call: a sixth of the field's time in a solver's loop.
        for layer in rest:
            x = F.linear(activate(x), layer.weight, layer.bias)
        return x


class MLP(Layers):
    """``(..., inputs) -> (..., outputs)``, with the arguments of :class:`Layers`.

    Example:
        >>> MLP(3, 2, hidden=(16, 16))(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """The network."""
        first, *rest = self.layers
        return self.after_first(F.linear(x, first.weight, first.bias), rest)


def by_rows(network: nn.Module, x: Tensor) -> Tensor:
    """A network that takes each row of ``(..., inputs)`` by itself, in slices where x is large."""
    rows = max(1, SLICE // _widest(network))
    if x.is_cuda or math.prod(x.shape[:-1]) <= 2 * rows:
        whole: Tensor = network(x)
        return whole
    parts = [network(part) for part in x.reshape(-1, x.shape[-1]).split(rows)]
    return torch.cat(parts).view(*x.shape[:-1], -1)


def _widest(network: nn.Module) -> int:
    if isinstance(network, Layers):
        return network.widest
    return max((p.shape[0] for p in network.parameters() if p.ndim > 1), default=1)


class MLPField(Layers):
    """dz/dt = MLP(z), or of (z, t), or of (z, u(t)): a learned vector field.

    Chen et al. 2018, arXiv 1806.07366. Weights start at N(0, 0.1^2) and biases at 0, as in Latent
    ODE (Rubanova et al. 2019, arXiv 1907.03907), so that the first trajectories are smooth.

    Args:
        latent: L, size of the state.
        hidden: widths of the hidden layers.
        activation: one of :data:`ACTIVATIONS`; smooth ones suit a solver.
        time: the field depends on t itself.
        covariates: C, size of the covariates that drive it; 0 for none.

    Raises:
        TypeError: as :class:`Layers`.
        ValueError: a size below 1 (covariates: below 0), an unknown activation; on call:
            covariates missing, not expected, or of another size.

    Example:
        >>> field = MLPField(3, covariates=2)
        >>> field(torch.tensor(0.0), torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        latent: int,
        hidden: Sequence[int] = (100,),
        activation: str = "tanh",
        *,
        time: bool = False,
        covariates: int = 0,
    ) -> None:
        check_sizes(latent=latent)
        check_whole(covariates=covariates)
        super().__init__(latent, latent, hidden, activation)
        if covariates < 0:
            raise ValueError(f"covariates: expected 0 or more, got {covariates}")
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.1)
        width = self.layers[0].out_features
        # Weights of their own, not wider inputs: z is never concatenated in the solver's loop.
        self.clock = nn.Parameter(0.1 * torch.randn(width)) if time else None
        self.control = nn.Parameter(0.1 * torch.randn(width, covariates)) if covariates else None

    def forward(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """dz/dt ``(..., L)`` at time t ``()``, state z ``(..., L)``, covariates u ``(..., C)``."""
        first, *rest = self.layers
        x = F.linear(z, first.weight, first.bias)
        if self.clock is not None:
            x = x + t * self.clock
        if self.control is not None or u is not None:
            x = x + self._driven(u)
        return self.after_first(x, rest)

    def _driven(self, u: Tensor | None) -> Tensor:
        expected = 0 if self.control is None else self.control.shape[1]
        got = 0 if u is None else u.shape[-1]
        if self.control is None or u is None or got != expected:
            raise ValueError(f"u: expected covariates of size {expected} (0: none), got {got}")
        return F.linear(u, self.control)


class Driven(nn.Module):
    """A field under given covariates; a module, for the adjoint method to see its parameters."""

    def __init__(self, field: Callable[..., Tensor], control: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.field, self.control = field, control

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.field(t, z, self.control(t))


def check_hidden(hidden: Sequence[int]) -> None:
    """Refuse what is no sequence of widths."""
    if not isinstance(hidden, Sequence):
        raise TypeError(f"hidden: expected a sequence of widths, such as (64,), got {hidden!r}")
    check_sizes(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})


def check_sizes(**sizes: int) -> None:
    """Raise, naming it, TypeError for a size that is no whole number, ValueError below 1."""
    check_whole(**sizes)
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected a size of at least 1, got {size}")
