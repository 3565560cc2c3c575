"""The loop behind `fit`: one object that knows where a run is and can be put anywhere else."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from pyro_lebm.clock import timed
from pyro_lebm.dynamics.inner_steps import InnerSteps
from pyro_lebm.series import Series

from ..parallel.data_parallel import Averaged
from ..parallel.ranks import Ranks
from ..parallel.shards import act_on_first, begin_alike, check_parameters
from .guard import FAULTS, Fault, Guard
from .history import History
from .horizon import Horizon
from .optimiser import Optimiser
from .registration import RefuseUnnormalised, never_registered, never_stepped, register
from .settings import Settings, warmed
from .snapshot import is_finite, restore, rng_state, set_rng_state, take, undone
from .validation import EarlyStop
from .warmup import Warm


class Training:
    """A run of SVI: programs, optimiser, minibatches, random numbers, history, guard.

    Lives inside a fresh parameter store; `fit` sees to that.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        series: Series,
        settings: Settings,
        elbo: ELBO,
        early_stop: EarlyStop | None = None,
        ranks: Ranks | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.ranks = Ranks() if ranks is None else ranks
        self.settings, self.series, self.early_stop = settings, series, early_stop
        self.model, self.guide = model, guide
        self.both = nn.ModuleDict({"model": model, "guide": guide})
        self.device = series.values.device
        self.priors = {n: m for n, m in model.named_modules() if hasattr(m, "learning")}
        self.inner = {n: m for n, m in self.both.named_modules() if isinstance(m, InnerSteps)}
        self.step, self.epoch, self.clock = 0, -1, clock
        self.set_clock(0.0)
        self.order = torch.empty(0, dtype=torch.long)
        self.position = 0
        self.horizon = Horizon(series, settings.horizon_warmup)
        self.history = History(getattr(guide, "loss_name", "negative ELBO"))
        self.guard = Guard(settings.energy_limit, settings.max_rollbacks)
        self.programs = Warm(model), Warm(guide)
        self.elbo = elbo
        self.optimiser = self._optimiser()
        self.svi = SVI(*self.programs, self.optimiser, elbo)
        self.averaged = Averaged(elbo, self.ranks, list(self.both.parameters()))
        if not self.ranks.alone:
            self.svi.loss_and_grads = self.averaged

    def _optimiser(self) -> Optimiser:
        s = self.settings
        energies = [p for prior in self.priors.values() for p in _energy(prior)]
        return Optimiser(
            s.learning_rate,
            s.learning_rates,
            betas=s.betas,
            # Losses sum over the data set: the bound is meant for the loss of one sequence.
            clip_norm=None if s.clip_norm is None else s.clip_norm * self.series.total,
            frozen=[p for p in self.both.parameters() if not p.requires_grad],
            energies=energies,
        )

    def prepare(self) -> None:
        """Run the programs once, with Pyro's checks on; see that every parameter is registered."""
        for p in self.both.parameters():
            p.data = p.data.contiguous()  # of any other Pyro's store would keep a copy
        # Of all ranks: what one of them meets, the others must know as well.
        first = self.series.batch(
            torch.arange(min(len(self.series), self.settings.batch_size), device=self.device)
        )
        learns = self.settings.energy_from < 1
        held = [] if learns else [p for prior in self.priors.values() for p in _energy(prior)]
        self._set_learning(learns)

        def run() -> None:
            self._schedule(0.0)
            with torch.no_grad():
                guide = RefuseUnnormalised()(self.guide)
                self.elbo.loss(self.model, guide, first)  # type: ignore[attr-defined]

        def check() -> None:
            steps = self.series.length > 1 or not getattr(self.model, "bound_to_times", False)
            unmet = never_registered if steps else never_stepped
            self.optimiser.check_prefixes(register(self.both, run, held, unmet))

        undone(self.both, check, self.device)
        if not any(p.requires_grad for p in self.both.parameters()):
            raise ValueError("model, guide: expected parameters to train, got none")
        begin_alike(self.both, self.ranks)  # those created just now, too
        self.averaged.parameters = list(self.both.parameters())
        self.guard.keep(self.state())

    def _set_learning(self, learning: bool) -> None:
        for prior in self.priors.values():
            prior.learning = learning

    def _schedule(self, progress: float) -> None:
        schedule = getattr(self.guide, "schedule", None)
        if callable(schedule):
            schedule(progress)

    # --- where the run is ---

    @property
    def seconds(self) -> float:
        """Time of training so far, that of the runs resumed included."""
        return self._spent + self.clock() - self._started

    def set_clock(self, seconds: float) -> None:
        """Let `seconds` be the time of training so far."""
        self._spent, self._started = seconds, self.clock()

    def agree_on_progress(self) -> float:
        """How much of the run is done, in [0, 1]; all ranks together ask for rank 0's clock."""
        timed = self.settings.max_seconds is not None
        return self.settings.progress(self.step, self.ranks.first(self.seconds) if timed else 0.0)

    def agree_on_end(self) -> bool:
        """Whether steps, time or patience have run out, as for `agree_on_progress`."""
        over = self.early_stop is not None and self.early_stop.over
        return self.agree_on_progress() >= 1 or over

    def state(self, modules: dict[str, Any] | None = None) -> dict[str, Any]:
        """All that the next step depends on; `modules` is what `take` gives, if taken already."""
        return {
            "modules": take(self.both) if modules is None else modules,
            "optimiser": self.optimiser.get_state(),
            "rng": rng_state(self.device),
            "order": self.order.clone(),
            "position": self.position,
            "step": self.step,
            "epoch": self.epoch,
            "rows": len(self.history),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go where `state` says."""
        restore(self.both, state["modules"])
        self.optimiser.set_state(state["optimiser"])
        set_rng_state(state["rng"], self.device)
        self.order, self.position = state["order"].clone(), state["position"]
        self.step, self.epoch = state["step"], state["epoch"]
        self.history.truncate(state["rows"])

    # --- steps ---

    def advance(self) -> None:
        """One step of SVI; a step that cannot stand is undone and taken again.

        Raises:
            RuntimeError: too many rollbacks.
            KeyboardInterrupt: Ctrl-C was pressed at one of several ranks.
        """
        while (fault := self._attempt()) is not None:
            # Other random numbers than before: the fault may have been one unlucky draw.
            rng = rng_state(self.device)
            self.load_state(self.guard.roll_back(fault, self.step + 1, rng))
        if self.averaged.interrupted:
            raise KeyboardInterrupt

    def _forget(self) -> None:
        """Drop what no state holds and no step may hang on: of a step before, or one undone."""
        for prior in self.priors.values():
            forget = getattr(prior, "forget", None)  # its negatives
            if callable(forget):
                forget()
        self.both.zero_grad(set_to_none=True)

    def _attempt(self) -> Fault | None:
        self._forget()
        try:
            progress = self.agree_on_progress()
            batch = self.horizon.cut(self._batch(), progress)
            rate = self._set_progress(progress)
            # `prepare` ran with Pyro's checks on; from here on a NaN is the guard's to see.
            with pyro.validation_enabled(False), timed("parameters' gradient"):
                loss = float(self.svi.step(self._offer(batch)))
        except FAULTS as error:
            return Fault(str(error))
        statistics = self.ranks.mean(self._statistics())
        self._level_inner_steps()
        fault = self.guard.check(loss, statistics)
        if fault is not None:
            return fault
        due = (self.step + 1) % self.settings.snapshot_every == 0
        if due:
            with timed("snapshots"):
                modules = take(self.both)
            if not all(self.ranks.gather(is_finite(modules))):
                return Fault("a parameter or a chain is not finite")
            check_parameters(modules["parameters"], self.ranks)
        self.step += 1
        row = {"step": self.step, "epoch": self.epoch, "seconds": self.seconds, "loss": loss}
        row |= {"learning_rate": rate, "rollbacks": self.guard.rollbacks}
        self.history.append(row | statistics)
        if due and self.guard.calm(statistics):
            self.guard.keep(self.state(modules))
        return None

    def _offer(self, batch: Series) -> Series:
        """What of a minibatch the model is scored on; the guide may be given something else."""
        offered = getattr(self.guide, "offered", None)
        if not callable(offered):
            return batch
        model, guide = self.programs
        scored: Series
        guide.given, scored, model.weight = offered(batch)
        return scored

    def _batch(self) -> Series:
        if self.position >= len(self.order):
            self._begin_epoch()
        order = self.order[self.position :][: self.settings.batch_size]
        self.position += len(order)
        return self._cut(order)

    def _begin_epoch(self) -> None:
        # A full batch stays in order: Pyro's plates take full size to mean that.
        full = self.settings.batch_size >= len(self.series)
        order = (torch.arange if full or self.ranks.rank else torch.randperm)(len(self.series))
        self.order, self.position = self.ranks.dealt(self.ranks.first(order)), 0
        self.epoch += 1
        refresh = getattr(self.model, "refresh", None)
        if callable(refresh):
            with timed("solver step"):
                act_on_first(lambda: refresh(self.series), self.model, self.ranks)

    def _cut(self, order: Tensor) -> Series:
        """This rank's share of a minibatch."""
        mine = self.ranks.share(order)
        self.averaged.weight = len(mine) / len(order)
        if not len(mine):  # the end of an epoch: the others need this rank, but for no sequence
            mine = torch.tensor([self.ranks.rank])
        return self.series.batch(mine.to(self.device))

    def _set_progress(self, progress: float) -> float:
        """Put everything that follows a schedule where it belongs; the base learning rate."""
        self._schedule(progress)
        self._set_learning(progress >= self.settings.energy_from)
        for program in self.programs:
            program.scale = warmed(progress, self.settings.kl_warmup)
        self.optimiser.factor = self.settings.rate_factor(progress) * self.guard.factor
        self.optimiser.energy_factor = self.guard.energy_factor
        return self.settings.learning_rate * self.optimiser.factor

    def _statistics(self) -> dict[str, float]:
        report = getattr(self.guide, "statistics", None)
        found: dict[str, float] = dict(report()) if callable(report) else {}
        for name, prior in self.priors.items():
            report = getattr(prior, "statistics", None)
            if prior.learning and callable(report):  # what a held prior reports is from earlier
                prefix = f"{name}." if len(self.priors) > 1 else ""
                found |= {prefix + key: value for key, value in report().items()}
        return found

    def _level_inner_steps(self) -> None:
        """Let all ranks take as many steps a visit: each waits for the longest."""
        if self.inner and not self.ranks.alone:
            counts = self.ranks.mean({name: steps.exact for name, steps in self.inner.items()})
            for name, steps in self.inner.items():
                steps.count.fill_(counts[name])

    def validate(self) -> None:
        """Score the held-out points, if it is time to."""
        if self.early_stop is not None and self.step % self.settings.validate_every == 0:
            with timed("validation"):
                score = self.ranks.on_first(self.early_stop.score)
            self.history.amend("validation", score)
            self.early_stop.record(score, self.state())

    # --- a run's beginning and end ---

    @contextmanager
    def modes(self) -> Iterator[None]:
        """Training mode inside; evaluation mode, and the priors' own `learning`, afterwards."""
        learning = {name: prior.learning for name, prior in self.priors.items()}
        frozen = [p for p in self.both.parameters() if not p.requires_grad]
        self.both.train()
        self.set_clock(0.0)
        try:
            with warnings.catch_warnings():
                # Pyro warns of what is frozen on purpose.
                warnings.filterwarnings("ignore", message=".*because requires_grad=False")
                yield
        finally:
            self.both.eval()
            for name, prior in self.priors.items():
                prior.learning = learning[name]
            for p in frozen:
                p.requires_grad_(False)  # Pyro's store undid it


def _energy(prior: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters of an energy prior that are its energy's."""
    own: Callable[[], Iterable[nn.Parameter]] = getattr(
        prior, "energy_parameters", prior.parameters
    )
    return own()
