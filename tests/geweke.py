"""Geweke's joint-distribution test of a sampler (Geweke 2004), with many independent chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine
from scipy.stats import ks_2samp
from torch import Tensor

from pyro_lebm.inference.sampling.sampler import Mover, Sampler
from pyro_lebm.programs.program import Program

Values = dict[str, Tensor]


def geweke(
    model: Callable[[int], Any], datum: str, kernel: Mover, *, chains: int, rounds: int
) -> dict[str, float]:
    """P-values: do turns of drawing the data and moving the parameters keep the joint distribution?

    Chains start at exact draws of parameters and data. In each round the kernel moves the
    parameters once given the data, then the data are drawn anew given the parameters. If its moves
    leave every posterior invariant, and the density it is told is that of the data drawn,
    parameters and data have their joint distribution in the end, too. As chains are independent
    that is a two-sample test (Kolmogorov-Smirnov) against fresh draws, with no time series in it.

    Args:
        model: called with the number of chains, which are a plate of it; draws its own data.
        datum: the site that counts as observed.
        kernel: moves chains, at the step size it has.

    Returns:
        p-values of each coordinate, of its square, and of its product with the datum's sum.
    """

    def drawn(given: Values) -> Values:
        trace = poutine.trace(poutine.condition(model, data=given)).get_trace(chains)
        nodes: Any = trace.iter_stochastic_nodes()
        return given | {name: node["value"] for name, node in nodes}

    def program(values: Values) -> Program:
        return Program.read(poutine.condition(model, data={datum: values[datum]}), chains)

    def packed(values: Values) -> Tensor:
        read = program(values)
        return read.pack({site.name: values[site.name] for site in read.sites})

    now = drawn({})
    for _ in range(rounds):
        posterior = program(now)
        sampler = Sampler(kernel, posterior.log_density, packed(now), warmup=0)
        sampler.advance()
        now = drawn(posterior.unpack(sampler.position))
    after, before = (_quantities(packed(v), v[datum]) for v in (now, drawn({})))
    return {name: float(ks_2samp(after[name], before[name]).pvalue) for name in after}


def _quantities(z: Tensor, data: Tensor) -> dict[str, Any]:
    total = data.reshape(len(z), -1).sum(-1, keepdim=True)
    parts = {"value": z, "square": z**2, "with data": z * total}
    return {f"{k} {i}": v[:, i].numpy() for k, v in parts.items() for i in range(z.shape[1])}
