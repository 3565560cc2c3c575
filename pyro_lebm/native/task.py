"""A problem handed to the native code."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lebm.problem import ACTIVATIONS, LIKELIHOODS, Perceptron, Problem

from .library import Network, Task, run


def solve(
    problem: Problem, z0: Tensor, scale: Tensor, *, grad: bool = False, seed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `pyro_lebm.seen.solve`."""
    n, (data, times, observed) = len(z0), problem.data.values.shape
    value, grad_z0 = z0.new_empty(n), torch.empty_like(z0)
    both = (*problem.field.parameters, *problem.emission.parameters)
    count = sum(p.numel() for p in both) + observed
    sums = None if seed is None else z0.new_zeros(count)
    field, emission = _network(problem.field), _network(problem.emission)  # alive until it has run
    task = Task(
        field=field,
        emission=emission,
        sequences=n,
        data=data,
        times=times,
        observed=observed,
        steps=problem.readout.steps,
        h=problem.readout.h,
        own_times=int(problem.readout.node.ndim == 2),
        likelihood=LIKELIHOODS.index(problem.likelihood),
        parameters=count,
    )
    arrays = {"node": problem.readout.node, "weights": problem.readout.weights}
    arrays |= {"values": problem.data.values, "mask": problem.data.mask, "scale": scale, "z0": z0}
    arrays |= {"value": value} | ({"grad_z0": grad_z0} if grad else {})
    if seed is not None and sums is not None:
        arrays |= {"seed": seed, "grad_weights": sums}
    for name, array in arrays.items():
        setattr(task, name, array.data_ptr())
    run(task, z0.dtype)
    return value, grad_z0, sums


def _network(perceptron: Perceptron) -> Network:
    kind = ACTIVATIONS.index(perceptron.activation)
    return Network.of(perceptron.weights, perceptron.biases, kind)
