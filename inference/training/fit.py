"""fit: any model, any guide, one function."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping

import pyro
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch import nn
from tqdm.auto import tqdm

from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series, check_series

from ..parallel.ranks import LostRank, Ranks
from ..parallel.shards import begin_alike, end_alike
from .history import History
from .profile import Profile, in_parts
from .registration import check_names
from .settings import Settings
from .snapshot import restore
from .trainer import Training
from .training_file import TrainingFile, check_alike, resume_from
from .validation import EarlyStop, check_validation


def fit(
    model: nn.Module,
    guide: nn.Module,
    series: Series,
    *,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    batch_size: int = 100,
    learning_rate: float = 3e-3,
    learning_rates: Mapping[str, float] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    rate_warmup: float = 0.0,
    final_rate: float = 0.1,
    clip_norm: float | None = None,
    kl_warmup: float = 0.0,
    horizon_warmup: float = 0.0,
    energy_from: float = 0.0,
    elbo: ELBO | None = None,
    validation: tuple[Series, Series] | None = None,
    validate_every: int = 100,
    validation_draws: int = 20,
    patience: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = 60.0,
    resume: bool = False,
    snapshot_every: int = 25,
    energy_limit: float = 100.0,
    max_rollbacks: int = 5,
    progress: bool = True,
    profile: bool | str | os.PathLike[str] = False,
    seed: int | None = None,
) -> History:
    r"""Train `model` with `guide` on `series` by stochastic variational inference.

    Each step is `pyro.infer.SVI.step` on a minibatch, whatever the guide: an encoder makes it
    amortised variational inference, a guide that samples the posterior makes it maximum likelihood
    by MCMC, :math:`\nabla\log p(x) = \mathbb E_{p(z|x)}[\nabla\log p(x, z)]`, and the loss is then
    an unnormalised log joint and labelled so (`history.loss_name`). Schedules follow the *progress*
    of the run, the larger of `step / max_steps` and `seconds / max_seconds`.

    Both modules are trained in place and left in evaluation mode. Pyro's global parameter store is
    neither read nor written, so that two fits never meet there.

    Under ``torchrun`` (see :func:`~pyro_lebm.inference.distributed`) the processes train together:
    each minibatch of `batch_size` is split, sequence `i` on rank ``i mod size``, and gradients are
    averaged. Parameters are the same on all ranks; each keeps its own sequences' chains, negatives
    of energy priors and random numbers. Rank 0 says what the parameters are at the start, calls
    `refresh`, scores `validation` and writes the checkpoint. In the end all have all sequences'
    chains.

    Args:
        model: a Pyro program, called with a minibatch; its parameters are its own attributes.
            Optional: `refresh(series)`, called at the start of each epoch; submodules with
            `learning` (energy priors) and `statistics()`.
        guide: the guide, called likewise. Optional: `loss_name`, `elbo`, `schedule(progress)`,
            `statistics()`, `posterior(series, draws)`, and `offered(series)`: what of a minibatch
            the guide is given, what the model is scored on, and how much that counts.
        series: the data.
        max_steps: stop after so many steps. At least one of this and `max_seconds` is needed.
        max_seconds: stop after so many seconds. The numbers then depend on the machine's speed.
        clock: seconds from a point in the past; `time.process_time` counts those of a processor,
            for a run beside other work.
        batch_size: sequences a step, over all ranks; each epoch visits every sequence once, in
            random order.
        learning_rate: Adam's, for parameters that no prefix below matches.
        learning_rates: rates by prefix of the parameter's name, such as `{"prior.": 5e-5}`; the
            longest prefix wins. An energy prior that none matches has a tenth of `learning_rate`.
        betas: Adam's decay rates of the two moments. A second one of .99 forgets an exploding
            gradient, as long trajectories have them, ten times sooner than the default.
        rate_warmup: fraction of the run over which learning rates rise from near 0: where first
            steps at the full rate would throw a model to where latents say nothing.
        final_rate: learning rates fall along a cosine to this fraction.
        clip_norm: the largest norm of the gradient of the loss per sequence, for each prefix of
            `learning_rates` apart; None: no clipping.
        kl_warmup: fraction of the run over which the log-probabilities of latent sites, in model
            and guide, are scaled up from near 0 to 1. Only for guides whose loss is an ELBO.
        horizon_warmup: fraction of the run over which training goes from the first fifth of all
            observations, in time, to all of them: long paths are learned from their beginnings
            (:class:`~pyro_lebm.inference.training.horizon.Horizon`).
        energy_from: fraction of the run before which energy priors are held fixed.
        elbo: the loss; None: the guide's own class `elbo` if it has one, or `Trace_ELBO`.
        validation: `(given, target)`, the same sequences with fewer and with more points observed.
            What `given` hides is scored by the mean log predictive density under draws of
            `guide.posterior(given, ...)`; at the end the modules hold the state that scored best.
        validate_every: steps between scores.
        validation_draws: posterior draws a score, at least 2.
        patience: scores without a new best after which to stop.
        checkpoint: file to keep the run in; written beside and renamed into place.
        checkpoint_every: steps between writing it; None: only by time and at the end.
        checkpoint_seconds: seconds between writing it; None: only by steps and at the end.
        resume: go on from `checkpoint` if that file exists; start anew if it does not. With one
            number of threads a run bounded by `max_steps` then gives the very numbers of a run that
            was never interrupted. A larger `max_steps` is allowed; the schedules then follow the
            new total from there on. So is another number of ranks, with other random numbers.
        snapshot_every: steps between the states in memory that a rollback returns to.
        energy_limit: largest difference between the mean energies of posterior and prior draws.
        max_rollbacks: how often a non-finite loss, gradient or parameter, or a runaway energy may
            send the run back to its last good state, at half the learning rate (the energy's alone
            if the energy ran away), before it fails.
        progress: whether to show a progress bar.
        profile: whether to measure where the time goes: posterior and prior chains, guide and
            model, the parameters' gradient, the optimiser and more, each without the parts inside
            it. The table is printed at the end and kept in `history.profile`. A file name asks
            besides for a trace of the steps 3 to 5 by `torch.profiler`, for chrome://tracing, on
            rank 0 if there are several.
        seed: seeds torch, numpy and random, with numbers derived from it on ranks other than 0;
            None: go on with their present states, those of rank 0 if there are several.

    Returns:
        The history, one row a step.

    Raises:
        TypeError: a model or guide that is no module; a `series` that is no Series; a guide without
            `posterior` for `validation`.
        ValueError: a setting out of range; a guide built on another model or, if it keeps a chain
            for each sequence, on another number of them; `validation` unlike `series`; a prefix
            that matches no parameter; a parameter that is never registered with Pyro, belongs to no
            module, or shares its name with another; a `series` of one time for a model of steps.
        CheckpointError: `resume` with a file that is damaged or of another model, guide, data set
            or other settings.
        RuntimeError: training failed more than `max_rollbacks` times, or (`LostRank`) another rank
            ended or failed.
        KeyboardInterrupt: passed on, after model, guide and checkpoint were put to the last good
            state in memory. Several ranks stop together at the end of a step; a second Ctrl-C
            before that stops its rank at once, and writes no checkpoint.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyro.nn import PyroModule
        >>> class Level(PyroModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.level = nn.Parameter(torch.zeros(()))
        ...
        ...     def forward(self, series):
        ...         with pyro.plate("sequences", series.total, subsample=series.index):
        ...             x = dist.Normal(self.level, 1.0).expand(series.values.shape[1:]).to_event(2)
        ...             pyro.sample("x", x, obs=series.values)
        >>> class Nothing(PyroModule):
        ...     def forward(self, series): ...
        >>> model = Level()
        >>> series = Series(torch.arange(2.0), torch.full((8, 2, 1), 3.0))
        >>> history = fit(model, Nothing(), series, max_steps=300, learning_rate=0.05)
        >>> round(model.level.item(), 1)
        3.0
    """
    settings = Settings(
        max_steps=max_steps,
        max_seconds=max_seconds,
        batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rates=dict(learning_rates or {}),
        betas=betas,
        rate_warmup=rate_warmup,
        final_rate=final_rate,
        clip_norm=clip_norm,
        kl_warmup=kl_warmup,
        horizon_warmup=horizon_warmup,
        energy_from=energy_from,
        validate_every=validate_every,
        validation_draws=validation_draws,
        patience=patience,
        snapshot_every=snapshot_every,
        energy_limit=energy_limit,
        max_rollbacks=max_rollbacks,
    )
    _check(model, guide, series, settings)
    if validation is not None:
        check_validation(series, validation)
    ranks = Ranks()
    file = TrainingFile(
        checkpoint,
        steps=checkpoint_every,
        seconds=checkpoint_seconds,
        resume=resume,
        ranks=ranks,
    )
    saved = file.read()
    if seed is not None:
        pyro.set_rng_seed(seed)
    ranks.part_ways()
    if elbo is None:
        elbo = getattr(guide, "elbo", Trace_ELBO)()
    profiled = Profile(profile, series.values.device, ranks.rank)
    if profiled.clock is not None:
        elbo = in_parts(elbo)
    early_stop = None
    if validation is not None:
        early_stop = EarlyStop(model, guide, *validation, draws=validation_draws, patience=patience)
    with pyro.get_param_store().scope():
        run = Training(model, guide, series, settings, elbo, early_stop, ranks, clock)
        with run.modes():
            check_alike(run)
            begin_alike(run.both, ranks)
            run.prepare()
            if saved is not None:
                resume_from(saved, run)
            first = run.step
            with profiled.running(), run.averaged.interruptible():
                _loop(run, file, progress, profiled.step)
            run.history.profile = profiled.table(run.step - first)
            if early_stop is not None and early_stop.best is not None:
                restore(run.both, early_stop.best["modules"])
            end_alike(run.both, ranks, series)
    if run.history.profile is not None and ranks.rank == 0:
        print(run.history.profile.round(3).to_string())
    return run.history


def _check(model: nn.Module, guide: nn.Module, series: Series, settings: Settings) -> None:
    for name, module in (("model", model), ("guide", guide)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name}: expected a torch.nn.Module, got {type(module).__name__}")
    check_series(series)
    _check_origin(model, guide, series)
    loss_name = getattr(guide, "loss_name", "negative ELBO")
    if settings.kl_warmup > 0 and not loss_name.startswith("negative ELBO"):
        raise ValueError(
            f"kl_warmup: expected 0 with a guide whose loss is the {loss_name}: it draws from the "
            "posterior itself and there is no KL term to scale"
        )
    refine_from = getattr(guide, "refine_from", 1.0)
    if settings.kl_warmup > refine_from:
        raise ValueError(
            f"kl_warmup: expected at most the guide's refine_from, {refine_from}, from which on it "
            f"draws from the posterior itself; got {settings.kl_warmup}"
        )
    if settings.horizon_warmup > 0 and getattr(model, "bound_to_times", False):
        raise ValueError(
            "horizon_warmup: expected 0 for a model whose noise belongs to its times, which a "
            f"beginning has fewer of; got {settings.horizon_warmup}"
        )
    check_names(model, guide)


def _check_origin(model: nn.Module, guide: nn.Module, series: Series) -> None:
    """Refuse a guide that was read off another model, or keeps chains of another data set."""
    program = getattr(guide, "program", None)
    if not isinstance(program, Program):
        return
    if program.model is not model:
        # Its draws would be those of a posterior that training never changes.
        raise ValueError(
            "guide: expected one built on the model to train, got one built on another "
            f"{type(program.model).__name__} object"
        )
    total = _sequences_read(program)
    if isinstance(getattr(guide, "chains", None), Chains) and total not in (None, series.total):
        raise ValueError(
            f"guide: expected a chain for each of the {series.total} sequences of series, "
            f"got {total}: build it on the series to train on"
        )


def _sequences_read(program: Program) -> int | None:
    """How many sequences the chains of a program are for; None: not one a sequence."""
    arguments = (*program.args, *program.kwargs.values())
    totals = [a.total for a in arguments if isinstance(a, Series) and a.total in program.full]
    return totals[0] if totals else None


def _loop(run: Training, file: TrainingFile, progress: bool, tell: Callable[[], None]) -> None:
    quiet = not progress or run.ranks.rank > 0
    bar = tqdm(total=run.settings.max_steps, initial=run.step, disable=quiet, unit="step")
    first = run.step
    try:
        while not run.agree_on_end():
            run.advance()
            run.validate()
            if file.due(run.step):
                file.write(run)
            tell()
            bar.update(run.step - bar.n)
            bar.set_postfix(_shown(run.history), refresh=False)
        if run.step > first:
            file.write(run)
    except BaseException as error:
        # Mid-step nothing is consistent: what stays, in memory and on disk, is the last good state.
        step = run.step
        run.load_state(run.guard.last)
        # Writing takes all ranks: where only this one stops, the others are elsewhere.
        if isinstance(error, KeyboardInterrupt) and (run.ranks.alone or run.averaged.interrupted):
            file.write(run)
        if isinstance(error, LostRank):
            raise LostRank(f"step {step + 1}: {error}; {file.way_back}") from error
        raise
    finally:
        bar.close()


def _shown(history: History) -> dict[str, str]:
    last = history.last
    names = ("loss", "acceptance", "rollbacks")
    told = {n: last[n] for n in names if math.isfinite(last.get(n, math.nan))}
    return {n: f"{value:.4g}" for n, value in told.items() if n != "rollbacks" or value}
