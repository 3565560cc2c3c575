"""Latents that stand still beside those that an ODE moves: z = [z_s, z_d]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_lebm.observations.problem import Perceptron

from .fields import MLPField


class Driving(nn.Module):
    """The field of [z_s, z_d] where z_s drives z_d, as covariates do, and does not move.

    A state of the solver's rather than a constant in its field, so that gradients reach z_s by
    every solver, the adjoint equation included.

    Args:
        field: ``(t, z_d, u) -> dz_d/dt``; u are the covariates, where there are any, and z_s.
        static: S, size of z_s.
        control: covariates at a time, or None.
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        static: int,
        control: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.field, self.static, self.control = field, static, control

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        fixed, moving = z[..., : self.static], z[..., self.static :]
        u = fixed
        if self.control is not None:
            known = self.control(t)
            u = torch.cat([known.expand(*fixed.shape[:-1], known.shape[-1]), fixed], -1)
        return torch.cat([torch.zeros_like(fixed), self.field(t, moving, u)], -1)


def beside(fixed: Tensor, path: Tensor) -> Tensor:
    """z_s ``(..., N, S)`` at each time of a path ``(..., N, T, L)`` of z_d, before it."""
    return torch.cat([fixed.unsqueeze(-2).expand(*path.shape[:-1], -1), path], -1)


def still(field: MLPField, static: int) -> Perceptron:
    """The field of [z_s, z_d] as one perceptron, whose first outputs are zero.

    Args:
        field: without a clock; its control is by z_s, where it has one.
    """
    plain = Perceptron.of(field.layers, field.activation)
    weights, biases = list(plain.weights), list(plain.biases)
    if static and biases[-1] is not None:  # a layer without bias is refused by whoever asks
        first = weights[0]
        control = first.new_zeros(len(first), static) if field.control is None else field.control
        weights[0] = torch.cat([control, first], 1)
        last = weights[-1]
        weights[-1] = torch.cat([last.new_zeros(static, last.shape[1]), last])
        biases[-1] = torch.cat([last.new_zeros(static), biases[-1]])
    return Perceptron(tuple(weights), tuple(biases), plain.activation)
