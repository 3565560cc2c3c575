"""A problem handed to the native code."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_lebm.observations.problem import ACTIVATIONS, LIKELIHOODS, Perceptron, Problem

from .compilation import library


class Network(ctypes.Structure):
    """A perceptron, as ``network.h`` has it."""

    _fields_ = [
        ("layers", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("sizes", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("biases", ctypes.c_void_p),
    ]

    @classmethod
    def of(cls, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: int) -> Network:
        """Of contiguous tensors, which must outlive it."""
        sizes = [weights[0].shape[1], *(len(w) for w in weights)]
        count = len(weights)
        arrays = (
            (ctypes.c_int32 * (count + 1))(*sizes),
            (ctypes.c_void_p * count)(*(w.data_ptr() for w in weights)),
            (ctypes.c_void_p * count)(*(b.data_ptr() for b in biases)),
        )
        network = cls(count, activation, *(ctypes.addressof(array) for array in arrays))
        network.arrays = arrays  # kept alive with it
        return network


class Task(ctypes.Structure):
    """What is to be computed, as ``path.cpp`` has it."""

    _fields_ = [
        ("field", Network),
        ("emission", Network),
        *((name, ctypes.c_int64) for name in ("sequences", "data", "times", "observed", "steps")),
        ("h", ctypes.c_double),
        ("own_times", ctypes.c_int32),
        ("likelihood", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("node", "weights", "values", "mask", "scale", "z0", "seed")
        ),
        *((name, ctypes.c_void_p) for name in ("value", "grad_z0", "grad_weights")),
        ("parameters", ctypes.c_int64),
        ("threads", ctypes.c_int32),
    ]


def solve(
    problem: Problem, z0: Tensor, scale: Tensor, *, grad: bool = False, seed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `pyro_lebm.observations.seen.solve`."""
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
    task.threads = torch.get_num_threads()
    if library().pyro_lebm_path(ctypes.byref(task), int(z0.dtype == torch.float64)):
        raise MemoryError(f"engine: not enough memory for {task.steps} steps of 'native'")
    return value, grad_z0, sums


def _network(perceptron: Perceptron) -> Network:
    kind = ACTIVATIONS.index(perceptron.activation)
    return Network.of(perceptron.weights, perceptron.biases, kind)
