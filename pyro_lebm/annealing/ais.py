"""Normalising constants from both sides, by annealed importance sampling."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from .bridge import Path, evaluate, move
from .ratio import LogRatio
from .smc import Annealing


class Schedule(NamedTuple):
    """Temperatures from 0 to 1, and what the moves at each take.

    Attributes:
        temperature: ``(rungs + 1, problems)``.
        step_size: ``(rungs + 1, problems)``.
        scale: ``(rungs + 1, problems, dim)``.
    """

    temperature: Tensor
    step_size: Tensor
    scale: Tensor

    @property
    def rungs(self) -> int:
        """Intervals between temperatures."""
        return len(self.temperature) - 1


def log_ratio(
    path: Path,
    start: Tensor,
    target: Tensor,
    *,
    pilot: Tensor,
    exact: bool = False,
    repeats: int = 8,
    rungs: int = 200,
    moves: int = 1,
    level: float = 0.95,
    progress: bool = False,
) -> LogRatio:
    r"""Annealed importance sampling from a start density to a target, and back.

    Particles go along :math:`p_0^{1-\lambda} p_1^{\lambda}` (Neal 2001) by Metropolis-adjusted
    Langevin steps, which leave the density of each rung invariant. Temperatures, step sizes and
    preconditioners are found by annealed sequential Monte Carlo on ``pilot`` alone and then stand,
    so that the weights' means are exact.

    Args:
        path: log densities of both ends, each of which may lack its constant.
        start: exact draws of the start, ``(n, *problems, dim)``.
        target: draws of the target, ``(m, *problems, dim)``, at least one. Fewer than ``repeats``
            serve several particles each, and these are one group: see `LogRatio.upper`.
        pilot: draws of the start, at least two, of which no weights are taken.
        exact: whether the target's draws are exact and independent.
        repeats: groups of particles, over which the confidence is taken.
        rungs: intervals between temperatures.
        moves: steps a rung.
        level: confidence of the bounds.
        progress: show a bar.

    Warns:
        RuntimeWarning: where weights rest on too few particles, see `LogRatio.poor`.

    Raises:
        ValueError: for fewer than two repeats, fewer draws of the start than repeats, none of the
            target, fewer than two of the pilot, no rung or move, a level outside (0, 1), shapes,
            dtypes or devices that disagree, or NaN.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> normal = lambda z, sd: -0.5 * (z / sd).square().sum(-1)
        >>> path = lambda z: (normal(z, 1.0), normal(z, 2.0))  # Z is twice as large
        >>> x, pilot = torch.randn(512, 1), torch.randn(64, 1)
        >>> found = log_ratio(path, x, 2 * torch.randn(512, 1), pilot=pilot, exact=True, rungs=20)
        >>> bool(found.lower < torch.tensor(2.0).log() < found.upper)
        True
    """
    check_settings(repeats, rungs, moves, level)
    _check_draws(start, target, pilot, repeats)
    problems = start.shape[1:-1]
    size = problems.numel()

    def flat(z: Tensor) -> tuple[Tensor, Tensor]:
        a, b = path(z.reshape(len(z), *problems, z.shape[-1]))
        return a.reshape(z.shape[:-1]), b.reshape(z.shape[:-1])

    def columns(z: Tensor) -> Tensor:
        return z.detach().reshape(len(z), size, z.shape[-1])

    def grouped(log_weight: Tensor, groups: int) -> Tensor:
        return log_weight.reshape(groups, -1, *problems)

    groups = repeats
    if len(target) < repeats:
        target = target.repeat(math.ceil(len(start) / len(target)), *[1] * (target.ndim - 1))
        groups = 1
    with torch.inference_mode(False), torch.no_grad():
        schedule = tuned(flat, columns(pilot), rungs)
        with tqdm(total=2 * rungs, unit="rung", disable=not progress) as bar:
            ends = [columns(z[: len(z) // n * n]) for z, n in ((start, repeats), (target, groups))]
            forward = weigh(flat, ends[0], schedule, moves=moves, bar=bar)
            backward = weigh(flat, ends[1], schedule, moves=moves, reverse=True, bar=bar)
    found = LogRatio(grouped(forward, repeats), grouped(backward, groups), exact, level)
    if bool(found.poor.any()):
        warnings.warn(
            f"log_ratio: the weights rest on {float(found.effective.min()):.1%} of the particles, "
            f"{float(found.effective_number.min()):.1f} of them; take more rungs (a prior keeps no "
            "log Z of such weights)",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def check_settings(repeats: int, rungs: int, moves: int, level: float) -> None:
    """Refuse settings of `log_ratio`, before any work starts.

    Raises:
        ValueError: for fewer than two repeats, no rung or move, or a level outside (0, 1).
    """
    if repeats < 2 or rungs < 1 or moves < 1:
        raise ValueError(
            "repeats, rungs, moves: expected at least 2, 1 and 1, got "
            f"{repeats}, {rungs} and {moves}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")


def _check_draws(start: Tensor, target: Tensor, pilot: Tensor, repeats: int) -> None:
    for name, z, least in (("start", start, repeats), ("target", target, 1), ("pilot", pilot, 2)):
        if z.ndim < 2 or len(z) < least or z.shape[1:] != start.shape[1:]:
            raise ValueError(
                f"{name}: expected at least {least} draws of shape (n, *problems, dim), alike at "
                f"both ends, got shape {tuple(z.shape)}"
            )
        if (z.dtype, z.device) != (start.dtype, start.device):
            raise ValueError(
                f"{name}: expected {start.dtype} on {start.device} as start is, got {z.dtype} on "
                f"{z.device}"
            )
        if not bool(z.isfinite().all()):
            raise ValueError(f"{name}: expected finite draws, got NaN or inf")


def tuned(path: Path, pilot: Tensor, rungs: int, *, moves: int = 3) -> Schedule:
    """A schedule of so many rungs, from the ladder that an annealed population climbs by itself.

    The population's rungs each cost it the same share of its effective particles; here they are
    divided, or joined, evenly.

    Args:
        path: on ``(particles, problems, dim)``.
        pilot: draws of the start, ``(particles, problems, dim)``.
    """
    run = Annealing(path, pilot, keep=0.85)
    seen: list[Schedule] = []
    while not seen or bool((run.temperature < 1).any()):
        run.climb(last=len(seen) == 10 * max(rungs, 20))
        for _ in range(moves):
            run.move()
        seen.append(Schedule(run.temperature.clone(), run.step_size.clone(), run.scale.clone()))
    ladder = [torch.stack(each) for each in zip(*seen, strict=True)]
    cold = [torch.zeros_like(ladder[0][:1]), ladder[1][:1], ladder[2][:1]]
    temperature, step_size, scale = (torch.cat([a, b]) for a, b in zip(cold, ladder, strict=True))
    # where each of the rungs lies among those climbed, problem by problem: some arrive earlier
    climbed = (temperature < 1).sum(0)
    place = torch.linspace(0, 1, rungs + 1).to(temperature).unsqueeze(-1) * climbed
    low = place.floor().long().clamp(max=len(seen) - 1)
    share = place - low

    def between(x: Tensor) -> Tensor:
        wide = (*low.shape, *[1] * (x.ndim - 2))
        index = low.reshape(wide).expand(len(low), *x.shape[1:])
        return torch.lerp(x.gather(0, index), x.gather(0, index + 1), share.reshape(wide))

    found = between(temperature)
    found[-1] = 1.0
    return Schedule(found, between(step_size.log()).exp(), between(scale.log()).exp())


def weigh(
    path: Path,
    start: Tensor,
    schedule: Schedule,
    *,
    moves: int = 1,
    reverse: bool = False,
    bar: tqdm[NoReturn] | None = None,
) -> Tensor:
    """Log importance weights ``(particles, problems)`` of an annealing up, or down again.

    The way down is that up with each (reversible) move undone: it begins at draws of the target,
    and takes from the weight what the way up adds. Draws of either end where the other has no
    density weigh nothing.
    """
    cloud = evaluate(path, start)
    total = torch.zeros_like(cloud.start)
    for k in reversed(range(schedule.rungs)) if reverse else range(schedule.rungs):
        difference = schedule.temperature[k + 1] - schedule.temperature[k]
        # 0 times -inf is NaN: a rung of no height weighs nothing
        gain = cloud.loss if reverse else cloud.gain
        total = total + torch.where(difference > 0, difference * gain, 0.0)
        at = k if reverse else k + 1
        if 0 < at < schedule.rungs:  # the last move would be made after the last weight
            for _ in range(moves):
                settings = (x[at] for x in schedule)
                cloud, _ = move(path, cloud, *settings)
        if bar is not None:
            bar.update()
    return total
