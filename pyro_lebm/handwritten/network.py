"""Perceptrons over columns: a lane is a column, and a row of ones carries the biases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lebm.observations.problem import Perceptron

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative, each one operation that writes into a given place.

    Attributes:
        of: what comes in, and where the value goes.
        pull: a gradient, overwritten by that of what came in, and what is kept for it.
        keeps_input: it is the input, not the value, that is kept for the derivative.
    """

    of: Callable[[Tensor, Tensor], object]
    pull: Callable[[Tensor, Tensor], object]
    keeps_input: bool = False


_ACTIVATIONS = {
    # tanh x = 2 sigmoid(2 x) - 1, the rest in the weights: a sixth of the time of PyTorch's tanh
    "tanh": Activation(
        lambda x, y: torch.sigmoid(x, out=y),
        lambda g, y: aten.sigmoid_backward.grad_input(g, y, grad_input=g),
    ),
    "softplus": Activation(
        lambda x, y: aten.softplus.out(x, out=y),
        lambda g, x: aten.softplus_backward.grad_input(g, x, 1.0, 20.0, grad_input=g),
        keeps_input=True,
    ),
    "elu": Activation(
        lambda x, y: aten.elu.out(x, out=y),
        lambda g, y: aten.elu_backward.grad_input(g, 1.0, 1.0, 1.0, True, y, grad_input=g),
    ),
    "silu": Activation(
        lambda x, y: aten.silu.out(x, out=y),
        lambda g, x: aten.silu_backward.grad_input(g, x, grad_input=g),
        keeps_input=True,
    ),
    "relu": Activation(
        lambda x, y: torch.clamp(x, min=0.0, out=y),
        lambda g, y: aten.threshold_backward.grad_input(g, y, 0.0, grad_input=g),
    ),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of the layers, input first, and the activation: what a network's buffers hang on."""

    sizes: tuple[int, ...]
    activation: str

    @classmethod
    def of(cls, perceptron: Perceptron) -> Shape:
        """Of these weights."""
        first, *_ = perceptron.weights
        sizes = (first.shape[1], *(len(w) for w in perceptron.weights))
        return cls(sizes, perceptron.activation)


@dataclass(frozen=True)
class Place:
    """Where one evaluation keeps what its derivative needs; arrays are ``(rows, lanes)``.

    Attributes:
        x: the input above a row of ones.
        hidden: values of each hidden layer, without their row of ones.
        whole: the same with it.
        kept: what each activation keeps, which may be the values.
        scratch: room for a gradient at each hidden layer; of a linear map, at its output.
    """

    x: Tensor
    hidden: list[Tensor]
    whole: list[Tensor]
    kept: list[Tensor]
    scratch: list[Tensor]


class Tape:
    """The hidden values of some evaluations, ``(evaluations, rows, *lanes)`` each layer."""

    def __init__(self, shape: Shape, evaluations: int, lanes: Sequence[int], like: Tensor) -> None:
        widths, keeps = shape.sizes[1:-1], _ACTIVATIONS[shape.activation].keeps_input
        self.whole = [like.new_ones(evaluations, width + 1, *lanes) for width in widths]
        self.kept = [
            like.new_empty(evaluations, width, *lanes) if keeps else whole[:, :width]
            for width, whole in zip(widths, self.whole, strict=True)
        ]
        self.scratch = [like.new_empty(rows, *lanes) for rows in widths or shape.sizes[1:]]

    def place(self, i: int, x: Tensor, lanes: slice = slice(None)) -> Place:
        """Of evaluation i, whose input is x; of some of its lanes."""
        whole = [w[i, :, lanes].flatten(1) for w in self.whole]
        kept = [k[i, :, lanes].flatten(1) for k in self.kept]
        scratch = [s[:, lanes].flatten(1) for s in self.scratch]
        return Place(x.flatten(1), [w[:-1] for w in whole], whole, kept, scratch)


class Network:
    """A perceptron's weights as they are used, ``(out, in + 1)`` with the biases last.

    Args:
        perceptron: the weights.
        learned: whether gradients in the weights are summed up.
    """

    def __init__(self, perceptron: Perceptron, *, learned: bool) -> None:
        activation = _ACTIVATIONS[perceptron.activation]
        self.activate, self.derive = activation.of, activation.pull
        self.folds = perceptron.activation == "tanh"
        pairs = zip(perceptron.weights, perceptron.biases, strict=True)
        count = len(perceptron.weights)
        self.weights = [self._folded(w, b, i, count) for i, (w, b) in enumerate(pairs)]
        *self.first, self.last = self.weights
        self.back = [w[:, :-1].t().contiguous() for w in self.weights]
        self.sums = [torch.zeros_like(w) for w in self.weights] if learned else None

    def _folded(self, weight: Tensor, bias: Tensor, layer: int, count: int) -> Tensor:
        if self.folds and layer > 0:
            weight, bias = 2 * weight, bias - weight.sum(1)
        whole = torch.cat([weight, bias[:, None]], 1)
        return 2 * whole if self.folds and layer < count - 1 else whole

    def gradients(self) -> list[Tensor]:
        """Those of weights and biases as they were given, flat, layer by layer."""
        assert self.sums is not None
        found = []
        for layer, whole in enumerate(self.sums):
            weight, bias = whole[:, :-1], whole[:, -1]
            if self.folds and layer > 0:
                weight = 2 * weight - bias[:, None]
            outer = 2.0 if self.folds and layer < len(self.sums) - 1 else 1.0
            found += [outer * weight.flatten(), outer * bias]
        return found

    def hidden(self, place: Place) -> Tensor:
        """The last hidden layer and its row of ones: ``last`` times it is the output."""
        x = place.x
        for weight, kept, hidden, whole in zip(
            self.first, place.kept, place.hidden, place.whole, strict=True
        ):
            self.activate(torch.mm(weight, x, out=kept), hidden)
            x = whole
        return x

    def up(self, place: Place, g: Tensor, scale: float = 1.0) -> Tensor:
        """``scale`` times a gradient at the output, pulled back to the first layer's sums.

        ``back[0]`` times it is the gradient at the input. Those in the weights are added up.
        """
        if not place.hidden:
            now = torch.mul(g, scale, out=place.scratch[0])
        else:
            now = place.scratch[-1].addmm_(self.back[-1], g, beta=0, alpha=scale)
            self.derive(now, place.kept[-1])
            if self.sums is not None:
                self.sums[-1].addmm_(g, place.whole[-1].t(), alpha=scale)
        for i in range(len(place.hidden) - 1, 0, -1):
            if self.sums is not None:
                self.sums[i].addmm_(now, place.whole[i - 1].t())
            now = torch.mm(self.back[i], now, out=place.scratch[i - 1])
            self.derive(now, place.kept[i - 1])
        if self.sums is not None:
            self.sums[0].addmm_(now, place.x.t())
        return now
