"""Sequences seen along a latent trajectory, as one distribution whose density is fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from . import native
from .once import Once

ACTIVATIONS = ("tanh", "softplus", "elu", "silu", "relu")  # in the native code's order
LIKELIHOODS = ("gaussian", "bernoulli", "poisson")


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with an activation between them: weights ``(out, in)``, biases ``(out)``."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str

    @classmethod
    def of(cls, layers: Sequence[Any], activation: str) -> Perceptron:
        """Of `torch.nn.Linear` layers as they are now."""
        return cls(tuple(x.weight for x in layers), tuple(x.bias for x in layers), activation)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Layer by layer, weight and bias."""
        return tuple(x for pair in zip(self.weights, self.biases, strict=True) for x in pair)

    def holding(self, parameters: Sequence[Tensor]) -> Perceptron:
        """With these in their places, contiguous."""
        kept = [p.detach().contiguous() for p in parameters]
        return replace(self, weights=tuple(kept[::2]), biases=tuple(kept[1::2]))

    def native(self) -> Any:
        """For the native code."""
        kind = ACTIVATIONS.index(self.activation)
        return native.Network.of(self.weights, self.biases, kind)


@dataclass(frozen=True)
class Readout:
    """Where times lie on a uniform grid of ``steps`` steps of ``h``, and the cubic's weights there.

    Attributes:
        node: int32 ``(T)``, or ``(N, T)``.
        weights: of z_k, z_k+1 and the slopes there, ``(4, T)`` or ``(N, 4, T)``.
    """

    node: Tensor
    weights: Tensor
    steps: int
    h: float

    @classmethod
    def at(cls, times: Tensor, t0: float, end: float, steps: int, dtype: torch.dtype) -> Readout:
        """Of these times, ``(T)`` or ``(N, T)``, between t0 and end."""
        h = (end - t0) / steps
        s = (times.detach() - t0) / h
        k = s.floor().clamp(0, steps - 1)
        s = s - k
        r = 1 - s
        parts = (r * r * (1 + 2 * s), s * s * (3 - 2 * s), h * s * r * r, -h * s * s * r)
        return cls(k.int().contiguous(), torch.stack(parts, -2).to(dtype).contiguous(), steps, h)


@dataclass(frozen=True)
class Problem:
    """What the native code computes, but for the latent states."""

    readout: Readout
    values: Tensor  # (N, T, D)
    mask: Tensor  # (N, T, D), uint8
    field: Perceptron
    emission: Perceptron
    likelihood: str

    def solve(
        self,
        z0: Tensor,
        scale: Tensor,
        *,
        grad: bool = False,
        seed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log likelihoods ``(n)`` of states ``(n, L)``, gradients there, and those of parameters.

        Args:
            seed: what each sequence counts in the parameters' gradients; None: none are wanted.
        """
        n, observed = len(z0), self.values.shape[2]
        value, grad_z0 = z0.new_empty(n), torch.empty_like(z0)
        count = sum(p.numel() for p in (*self.field.parameters, *self.emission.parameters))
        sums = None if seed is None else z0.new_zeros(count + observed)
        field, emission = self.field.native(), self.emission.native()  # alive until it has run
        task = native.Task(
            field=field,
            emission=emission,
            sequences=n,
            data=len(self.values),
            times=self.values.shape[1],
            observed=observed,
            steps=self.readout.steps,
            h=self.readout.h,
            own_times=int(self.readout.node.ndim == 2),
            likelihood=LIKELIHOODS.index(self.likelihood),
            parameters=count + observed,
        )
        arrays = {"node": self.readout.node, "weights": self.readout.weights}
        arrays |= {"values": self.values, "mask": self.mask, "scale": scale, "z0": z0}
        arrays |= {"value": value} | ({"grad_z0": grad_z0} if grad else {})
        if seed is not None and sums is not None:
            arrays |= {"seed": seed, "grad_weights": sums}
        for name, array in arrays.items():
            setattr(task, name, array.data_ptr())
        native.run(task, z0.dtype)
        return value, grad_z0, sums


class _LogLikelihood(torch.autograd.Function):
    """Value and gradient in the states from one pass; the parameters' when they are asked for."""

    @staticmethod
    def forward(
        problem: Problem, grad: bool, z0: Tensor, scale: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        flat = z0.detach().reshape(-1, z0.shape[-1]).contiguous()
        value, grad_z0, _ = _holding(problem, parameters).solve(
            flat, _wide(problem, scale), grad=grad
        )
        return value.reshape(z0.shape[:-1]), grad_z0.reshape(z0.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.problem, _, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, seed: Tensor, _: Any) -> tuple[Any, ...]:
        grad_z0, *inputs = ctx.saved_tensors
        z0, scale, *parameters = inputs
        wanted, once = ctx.needs_input_grad[2:], cast(Any, Once.apply)
        found: list[Tensor | None] = [None] * len(wanted)
        if wanted[0]:
            found[0] = seed.unsqueeze(-1) * once(grad_z0, *inputs)
        if any(wanted[1:]):
            flat = z0.detach().reshape(-1, z0.shape[-1]).contiguous()
            problem = _holding(ctx.problem, parameters)
            each = seed.reshape(-1).contiguous()
            _, _, sums = problem.solve(flat, _wide(problem, scale), seed=each)
            assert sums is not None
            *parts, of_scale = once(sums, seed, *inputs).split(
                [*(p.numel() for p in parameters), problem.values.shape[2]]
            )
            found[1] = of_scale.sum_to_size(scale.shape)
            found[2:] = [g.reshape(p.shape) for g, p in zip(parts, parameters, strict=True)]
        return (None, None, *found)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], problem: Problem, grad: bool, *tensors: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        apply: Any = _LogLikelihood.apply
        z_dim, *others = dims[2:]
        if all(d is None for d in others):  # more lanes
            z0, *rest = tensors
            return apply(problem, grad, z0.movedim(z_dim, 0), *rest), (0, 0)
        rows = [
            [x if d is None else x.select(d, i) for x, d in zip(tensors, dims[2:], strict=True)]
            for i in range(info.batch_size)
        ]
        found = [apply(problem, grad, *row) for row in rows]
        values, gradients = zip(*found, strict=True)
        return (torch.stack(values), torch.stack(gradients)), (0, 0)


def _holding(problem: Problem, parameters: Sequence[Tensor]) -> Problem:
    split = 2 * len(problem.field.weights)
    return replace(
        problem,
        field=problem.field.holding(parameters[:split]),
        emission=problem.emission.holding(parameters[split:]),
    )


def _flat(z0: Tensor) -> Tensor:
    return z0.detach().reshape(-1, z0.shape[-1]).contiguous()


def _wide(problem: Problem, scale: Tensor) -> Tensor:
    return scale.detach().expand(problem.values.shape[2]).contiguous()


class SeenPath(TorchDistribution):
    r"""Sequences seen along the trajectories from ``z0``, entry by entry.

    .. math:: \log p(x \mid z_0) = \sum_t m_t \log p(x_t \mid G(z(t))), \quad \dot z = F(z)

    with perceptrons F and G: what a path, an emission and a mask make of it, in one pass of native
    code over blocks of sequences, in memory that does not grow with the times. Anything but the
    density is left to the distribution that ``eager`` makes.

    Args:
        z0: ``(*batch, N, L)``.
        problem: the data's mask, the networks and where the times lie; its values are not used.
        scale: of a Gaussian, ``()`` or ``(D)``.
        eager: makes the same distribution by PyTorch's own operations.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        z0: Tensor,
        problem: Problem,
        scale: Tensor,
        eager: Callable[[], TorchDistribution],
    ) -> None:
        super().__init__(z0.shape[:-1], problem.mask.shape[1:], validate_args=False)
        self._z0, self._problem, self._scale, self._make = z0, problem, scale, eager

    @cached_property
    def eager(self) -> TorchDistribution:
        """The same distribution by PyTorch's own operations."""
        return self._make()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log likelihood of each sequence, ``(*batch, N)``."""
        mask = self._problem.mask
        if value.shape != mask.shape or value.requires_grad or value.dtype != self._z0.dtype:
            other: Tensor = self.eager.log_prob(value)
            return other
        values = value.detach().contiguous()
        problem = replace(self._problem, values=values)
        parameters = (*problem.field.parameters, *problem.emission.parameters)
        apply: Any = _LogLikelihood.apply
        grad = torch.is_grad_enabled()
        found: Tensor = apply(problem, grad, self._z0, self._scale, *parameters)[0]
        if problem.likelihood == "poisson":
            found = found - (torch.lgamma(values + 1) * mask).sum((-1, -2))
        return found

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of every entry, observed or not."""
        drawn: Tensor = self.eager.sample(torch.Size(sample_shape))
        return drawn

    def expand(self, batch_shape: Any, _instance: Any = None) -> TorchDistribution:
        """Itself where nothing changes."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        wide: TorchDistribution = self.eager.expand(batch_shape)
        return wide

    @property
    def support(self) -> Any:
        """That of the emission."""
        return self.eager.support

    @property
    def mean(self) -> Tensor:
        """Of every entry."""
        return self.eager.mean

    @property
    def variance(self) -> Tensor:
        """Of every entry."""
        return self.eager.variance
