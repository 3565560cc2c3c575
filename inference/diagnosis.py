"""What the diagnostics of a run say, in words, and what to try next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import arviz
import numpy as np

R_HAT, ESS, LEAST_BFMI = 1.01, 400, 0.3  # Vehtari et al. 2021; Betancourt 2016
GRADIENT_NOISE = 0.1


Row = tuple[str, float, float, float]  # name, R-hat, bulk and tail effective sample size
Table = list[Row]


@dataclass(frozen=True)
class Finding:
    """One thing that a run shows.

    Attributes:
        what: a short name, such as ``"r_hat"``.
        grave: whether the draws are not to be trusted for it.
        text: what was seen, with numbers.
        advice: what to try.
    """

    what: str
    grave: bool
    text: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings of a run; prints as text.

    Attributes:
        findings: the grave ones first.
        r_hat, ess_bulk, ess_tail: the worst over all variables.
    """

    findings: tuple[Finding, ...]
    r_hat: float
    ess_bulk: float
    ess_tail: float

    @property
    def passed(self) -> bool:
        """Whether nothing grave was found."""
        return not any(finding.grave for finding in self.findings)

    def __str__(self) -> str:
        head = (
            f"worst R-hat {self.r_hat:.3f}, least bulk ESS {self.ess_bulk:.0f}, "
            f"least tail ESS {self.ess_tail:.0f}"
        )
        if not self.findings:
            return f"No problem found: {head}."
        lines = [f"{'Not converged' if not self.passed else 'Usable, with remarks'}: {head}."]
        for f in self.findings:
            lines.append(f"{'!' if f.grave else '-'} {f.what}: {f.text} {f.advice}")
        return "\n".join(lines)


def nested_r_hat(draws: Any, superchains: int) -> float:
    r"""Nested R-hat of many short chains (Margossian et al. 2024, arXiv 2110.13017).

    .. math:: \hat R_\nu = \sqrt{1 + \hat B / \hat W},

    with B the variance of the means of groups of chains ("superchains", those of one start), W the
    mean over groups of the variance of chain means plus the mean variance within chains. Unlike
    R-hat it goes to 1 with the number of chains, however short they are.

    Args:
        draws: of one quantity, ``(chains, draws)``, chains of a superchain side by side.
        superchains: how many groups, at least 2, of equally many chains.

    Raises:
        ValueError: for another shape, or chains that do not go into so many groups.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(64, 10))
        >>> 1.0 <= nested_r_hat(x, superchains=8) < 1.05
        True
        >>> nested_r_hat(x + np.repeat(np.arange(8), 8)[:, None], superchains=8) > 2
        True
    """
    x = np.asarray(draws, dtype=float)
    if x.ndim != 2:
        raise ValueError(f"draws: expected shape (chains, draws), got {x.shape}")
    chains, length = x.shape
    if superchains < 2 or chains % superchains:
        raise ValueError(
            f"superchains: expected at least 2, a divisor of {chains} chains, got {superchains}"
        )
    x = x.reshape(superchains, chains // superchains, length)
    means = x.mean(2)
    between = means.mean(1).var(ddof=1)
    among = means.var(1, ddof=1).mean() if means.shape[1] > 1 else 0.0
    within = x.var(2, ddof=1).mean() if length > 1 else 0.0
    return float(np.sqrt(1 + between / (among + within)))


def diagnose(
    data: Any, *, r_hat: float = R_HAT, ess: float = ESS, superchains: int | None = None
) -> Diagnosis:
    """Look at a run as ArviZ holds it: do its chains agree, and are there enough draws?

    Split rank-normalised R-hat, bulk and tail effective sample size (Vehtari et al. 2021,
    arXiv 1903.08008), divergences, chains that never moved, the energy fraction of missing
    information (Betancourt 2016, arXiv 1604.00695), and by which modes chains disagree.

    Args:
        data: what `to_arviz` returns, or any ``InferenceData`` with a posterior.
        r_hat: the largest value taken for agreement.
        ess: the least effective sample size wanted, of the bulk and of the tails.
        superchains: for many short chains: R-hat is then `nested_r_hat`, of so many groups.

    Raises:
        ValueError: for data without a posterior, or with fewer than four draws a chain.

    Example:
        >>> data = arviz.from_dict({"x": np.random.default_rng(0).normal(size=(4, 500))})
        >>> print(diagnose(data))  # doctest: +ELLIPSIS
        No problem found: worst R-hat 1.0..., least bulk ESS ..., least tail ESS ....
    """
    posterior = getattr(data, "posterior", None)
    if posterior is None:
        raise ValueError("data: expected a group 'posterior', got none")
    if posterior.sizes["draw"] < 4:
        raise ValueError(f"data: expected at least 4 draws a chain, got {posterior.sizes['draw']}")
    values = {k: _flat(v) for k, v in posterior.data_vars.items() if v.size}
    if not values:
        raise ValueError("data: expected a variable with draws in the posterior, got none")
    table = _table(values, superchains)
    found = [*_mixing(values, table, r_hat, ess), *_moves(data, values)]
    found.sort(key=lambda finding: not finding.grave)
    worst = (max(t[1] for t in table), min(t[2] for t in table), min(t[3] for t in table))
    return Diagnosis(tuple(found), *worst)


def _flat(values: Any) -> Any:
    """``(chains, draws, components)``."""
    array = np.asarray(values.transpose("chain", "draw", ...).values, dtype=float)
    return array.reshape(*array.shape[:2], -1)


def _table(values: dict[str, Any], superchains: int | None) -> Table:
    """Of every component that varies."""
    rows = []
    for name, value in values.items():
        for k in range(value.shape[2]):
            x = value[:, :, k]
            label = name if value.shape[2] == 1 else f"{name}[{k}]"
            if np.isfinite(x).all() and np.ptp(x) > 0:
                mixed = nested_r_hat(x, superchains) if superchains else _r_hat(x)
                rows.append((label, mixed, _ess(x, "bulk"), _ess(x, "tail")))
    return rows or [("nothing that varies", np.nan, 0.0, 0.0)]


def _r_hat(x: Any) -> float:
    if len(x) == 1:  # one chain is compared with itself, half against half
        x = x[:, : x.shape[1] // 2 * 2].reshape(2, -1)
    return float(arviz.rhat(x))  # type: ignore[no-untyped-call]


def _ess(x: Any, part: str) -> float:
    return float(arviz.ess(x, method=part))  # type: ignore[no-untyped-call]


def _mixing(values: dict[str, Any], table: Table, r_hat: float, ess: float) -> Iterator[Finding]:
    chains, draws = next(iter(values.values())).shape[:2]
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    if broken:
        yield Finding(
            "not finite",
            True,
            f"{', '.join(broken)} holds draws that are not finite.",
            "Look at the model's transforms and at where it is undefined.",
        )
    if chains == 1:
        yield Finding(
            "one chain",
            False,
            "One chain cannot disagree with itself: R-hat compares its halves.",
            "Run four or more from different starts.",
        )
    worst = max(table, key=lambda row: row[1])
    if not worst[1] <= r_hat:
        modes = _modes(values, worst[0])
        yield Finding(
            "r_hat",
            True,
            f"chains disagree, most about {worst[0]} (R-hat {worst[1]:.2f}).{modes}",
            "Sample separate modes with Tempered or by annealing."
            if modes
            else "Run longer, or with a longer warm-up or another kernel.",
        )
    for part, of in (("bulk", itemgetter(2)), ("tail", itemgetter(3))):
        least = min(table, key=of)
        if of(least) < ess:
            yield Finding(
                f"ess_{part}",
                True,
                f"{of(least):.0f} effective draws in the {part} of {least[0]} out of "
                f"{chains * draws}, {ess:.0f} wanted.",
                "Draw more, or thin less; a kernel with momentum or a dense metric mixes faster.",
            )


def _modes(values: dict[str, Any], label: str) -> str:
    """Where chains sit, if they sit apart: gaps between them wider than they are."""
    name, _, index = label.partition("[")
    if name not in values:
        return ""
    x = values[name][:, :, int(index[:-1]) if index else 0]
    centres, width = np.median(x, axis=1), np.median(x.std(axis=1))
    order = np.argsort(centres)
    cuts = np.flatnonzero(np.diff(centres[order]) > 3 * width)
    if not len(cuts):
        return ""
    groups = np.split(order, cuts + 1)
    told = "; ".join(
        f"{len(g)} of {len(centres)} chains near {centres[g].mean():.3g}" for g in groups[:4]
    )
    return f" They sit in {len(groups)} places: {told}."


def _moves(data: Any, values: dict[str, Any]) -> Iterator[Finding]:
    stats = getattr(data, "sample_stats", None)
    known = {} if stats is None else {k: np.asarray(stats[k].values) for k in stats.data_vars}
    diverging = known.get("diverging")
    if diverging is not None and diverging.any():
        share = diverging.mean()
        yield Finding(
            "diverging",
            True,
            f"{int(diverging.sum())} draws ({share:.1%}) diverged.",
            "The target is too curved for the step somewhere: raise target_acceptance, or write "
            "the model non-centred.",
        )
    still = np.ones(next(iter(values.values())).shape[0], dtype=bool)
    for value in values.values():
        still &= np.ptp(value, axis=1).max(-1) == 0
    if still.any():
        yield Finding(
            "zero acceptance",
            True,
            f"chains {np.flatnonzero(still).tolist()} never moved.",
            "Start them elsewhere, or with a smaller step_size and a longer warm-up.",
        )
    # an unadjusted kernel keeps its momentum from draw to draw: that measures another thing
    about = {} if stats is None else dict(stats.attrs)
    adjusted = bool(about.get("adjusted", True))
    if not adjusted:
        yield Finding(
            "unadjusted",
            False,
            f"{about.get('kernel')} makes no Metropolis test: its draws are biased by the "
            "step size, which no agreement of chains shows.",
            "Compare with a run at half the step size, or with an adjusted kernel.",
        )
    if about.get("restarts"):
        yield Finding(
            "restarts",
            False,
            f"{int(about['restarts'])} times in the warm-up a chain was moved to another, as "
            "around it there seemed to be next to nothing of the posterior.",
            "If modes may be many, compare with Tempered, or with other starts.",
        )
    noise = float(np.nanmean(known["gradient_noise"])) if "gradient_noise" in known else 0.0
    if noise > GRADIENT_NOISE:
        yield Finding(
            "gradient_noise",
            True,
            f"minibatches add {noise:.0%} to the variance of a move: the draws' variance is too "
            "large by about as much.",
            "Use control_variates, larger batches or a smaller step_size.",
        )
    if adjusted and "energy" in known and known["energy"].shape[1] > 3:
        energy = known["energy"]
        bfmi = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1)
        if bfmi.min() < LEAST_BFMI:
            yield Finding(
                "energy",
                True,
                f"the momentum's refreshment moves the energy too little (E-BFMI "
                f"{bfmi.min():.2f} in chain {int(bfmi.argmin())}): tails are not reached.",
                "Write the model non-centred.",
            )
