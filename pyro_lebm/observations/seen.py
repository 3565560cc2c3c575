"""Sequences seen along a latent trajectory, as one distribution whose density is fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from .. import handwritten, native
from .once import Once
from .problem import Observed, Problem
from .rescored import Rescored


def solve(
    problem: Problem, z0: Tensor, scale: Tensor, *, grad: bool = False, seed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log likelihoods ``(n)`` of states ``(n, L)``, gradients there, and those of parameters.

    By the problem's engine, outside of PyTorch's graph.

    Args:
        problem: with parameters that are contiguous and need no gradient, see `Problem.holding`.
        z0: contiguous; n is a multiple of the sequences in the data.
        scale: of a Gaussian, ``(D)``.
        grad: whether the gradient in the states is wanted; it is not set otherwise.
        seed: what each sequence counts in the parameters' gradients, ``(n)``; None: none are
            wanted. They come flat: the field's, the emission's, the scale's.
    """
    run = native.solve if problem.engine == "native" else handwritten.solve
    return run(problem, z0, scale, grad=grad, seed=seed)


class _LogLikelihood(torch.autograd.Function):
    """Value and gradient in the states from one pass; the parameters' when they are asked for."""

    @staticmethod
    def forward(
        problem: Problem, grad: bool, z0: Tensor, scale: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        value, grad_z0, _ = solve(
            problem.holding(parameters), _flat(z0), _wide(problem, scale), grad=grad
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
            sums = cast(Any, _ParameterGradients.apply)(ctx.problem, seed, z0, scale, *parameters)
            *parts, of_scale = sums.split(
                [*(p.numel() for p in parameters), ctx.problem.data.values.shape[2]]
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
        found = [apply(problem, grad, *row) for row in _rows(info, dims[2:], tensors)]
        values, gradients = zip(*found, strict=True)
        return (torch.stack(values), torch.stack(gradients)), (0, 0)


class _ParameterGradients(torch.autograd.Function):
    """Those of `_LogLikelihood`, flat, where each sequence counts as its seed says."""

    @staticmethod
    def forward(
        problem: Problem, seed: Tensor, z0: Tensor, scale: Tensor, *parameters: Tensor
    ) -> Tensor:
        if torch._C._functorch.is_legacy_batchedtensor(seed):  # maps in a way that cannot loop
            raise RuntimeError(
                "is_grads_batched: expected False with compiled code, got True; map "
                "torch.autograd.grad by torch.func.vmap, or use pyro_lebm.engine('eager')"
            )
        each = seed.reshape(-1).contiguous()
        _, _, sums = solve(problem.holding(parameters), _flat(z0), _wide(problem, scale), seed=each)
        assert sums is not None
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    backward = Once.backward

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], problem: Problem, *tensors: Tensor
    ) -> tuple[Tensor, int]:
        apply: Any = _ParameterGradients.apply
        return torch.stack([apply(problem, *row) for row in _rows(info, dims[1:], tensors)]), 0


def _rows(info: Any, dims: tuple[Any, ...], tensors: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """The tensors of each place in a batch that vmap maps over."""
    return [
        [x if d is None else x.select(d, i) for x, d in zip(tensors, dims, strict=True)]
        for i in range(info.batch_size)
    ]


def _flat(z0: Tensor) -> Tensor:
    return z0.detach().reshape(-1, z0.shape[-1]).contiguous()


def _wide(problem: Problem, scale: Tensor) -> Tensor:
    return scale.detach().expand(problem.data.values.shape[2]).contiguous()


class SeenPath(Rescored):
    r"""Sequences seen along the trajectories from ``z0``, entry by entry.

    .. math:: \log p(x \mid z_0) = \sum_t m_t \log p(x_t \mid G(z(t))), \quad \dot z = F(z)

    with perceptrons F and G: what a path, an emission and a mask make of it, in one pass over
    blocks of sequences, in memory that does not grow with the times. Anything but the density is
    left to the distribution that ``eager`` makes.

    Args:
        z0: ``(*batch, N, L)``.
        problem: the data, the networks and where the times lie. Of other values than the data's,
            those that the mask shows are scored.
        scale: of a Gaussian, ``()`` or ``(D)``.
        eager: makes the same distribution by PyTorch's own operations.
    """

    def __init__(
        self,
        z0: Tensor,
        problem: Problem,
        scale: Tensor,
        eager: Callable[[], TorchDistribution],
    ) -> None:
        super().__init__(z0.shape[:-1], problem.data.mask.shape[1:], eager)
        self._z0, self._problem, self._scale = z0, problem, scale

    @property
    def values(self) -> Tensor:
        """The data's own, 0 where hidden, ``(N, T, D)``: scored faster than a copy of them."""
        return self._problem.data.values

    def log_prob(self, value: Tensor) -> Tensor:
        """Log likelihood of each sequence, ``(*batch, N)``."""
        data = self._data(value)
        if data is None:
            other: Tensor = self.plain.log_prob(value)
            return other
        problem = replace(self._problem, data=data)
        parameters = (*problem.field.parameters, *problem.emission.parameters)
        apply: Any = _LogLikelihood.apply
        grad = torch.is_grad_enabled()
        found: Tensor = apply(problem, grad, self._z0, self._scale, *parameters)[0]
        if problem.likelihood == "poisson":
            found = found - data.log_factorials
        return found

    def _data(self, value: Tensor) -> Observed | None:
        """The value in the data's form; None where PyTorch has to score it, or to refuse it."""
        data = self._problem.data
        if value.shape != data.mask.shape or value.requires_grad or value.dtype != self._z0.dtype:
            return None
        if value is not data.values:
            data = Observed(value.detach().where(data.mask.bool(), 0.0).contiguous(), data.mask)
        if TorchDistribution._validate_args and not data.within(self._problem.likelihood):
            return None
        return data
