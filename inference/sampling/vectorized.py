"""Hundreds of chains in one process: chains as a batch dimension."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.infer.mcmc.util import diagnostics
from torch import Tensor
from tqdm.auto import tqdm

from pyro_lebm.checkpoint import CheckpointError, read_state, write_state
from pyro_lebm.dynamics.langevin import evaluate
from pyro_lebm.programs.potential import STRATEGIES, Strategy

from ..parallel.ranks import Ranks, moved
from ..training.settings import check_same
from ..training.snapshot import rng_state, set_rng_state
from .kernel import Kernel
from .run import Run
from .sampler import Sampler, Statistics, joined, stacked
from .targets import FunctionTarget, ModelTarget, Target, check_counts


class VectorizedMCMC(Run):
    """Markov chain Monte Carlo with many chains of one of our kernels, advanced together.

    Under ``torchrun`` (see `pyro_lebm.inference.distributed`) the chains are shared out between the
    processes. Those of a rank adapt by themselves, like a block; in the end every rank has the
    draws of all.

    Args:
        kernel: one of this library's.
        num_samples: draws kept of each chain.
        warmup_steps: moves of adaptation before them, shared by all chains of a block;
            by default as many as draws.
        num_chains: how many.
        strategy: ``"vmap"`` maps a trace of one chain over all of them, right for any program
            without Python branches on latent values; ``"plate"`` runs the program once inside a
            further plate, faster for small programs written to broadcast, and checked against one
            chain; ``"loop"`` runs chain by chain: always possible; ``"auto"`` is vmap, and a loop
            where that has no rule.
        initial_params: unconstrained starting values, ``{site: (num_chains, *shape)}``.
        superchains: how many groups of chains share a start; `diagnose` then judges many short
            chains by nested R-hat, given the same number. None: every chain has its own.
        thinning: moves per draw kept.
        block_size: chains evaluated at a time, which bounds memory; each block adapts by itself.
        r_hat, ess: stop early once the worst split R-hat is below the one, and the least effective
            sample size above the other; looked at every ``check_every`` draws.
        checkpoint: a file that the run is saved to every ``save_every`` moves and at the end; see
            `resume`.
        progress: show a bar with acceptance and step size.

    Raises:
        TypeError: for a kernel of Pyro's own, which moves one chain.
        ValueError: for an argument out of its range; by ``run``, for fewer chains than ranks, or
            superchains that are no multiple of the ranks.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_lebm.inference import MALA
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = VectorizedMCMC(MALA(model), 20, 20, num_chains=8, progress=False)
        >>> mcmc.run()
        >>> mcmc.get_samples(group_by_chain=True)["x"].shape
        torch.Size([8, 20])
    """

    def __init__(
        self,
        kernel: Kernel,
        num_samples: int,
        warmup_steps: int | None = None,
        *,
        num_chains: int = 64,
        strategy: Strategy = "vmap",
        initial_params: Mapping[str, Tensor] | None = None,
        superchains: int | None = None,
        thinning: int = 1,
        block_size: int | None = None,
        r_hat: float | None = None,
        ess: float | None = None,
        check_every: int = 100,
        checkpoint: str | os.PathLike[str] | None = None,
        save_every: int = 500,
        progress: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(kernel, Kernel):
            raise TypeError(
                "kernel: expected one of pyro_lebm's kernels, which move many chains at once, got "
                f"{type(kernel).__name__}; Pyro's own run in pyro.infer.MCMC"
            )
        self.warmup_steps = num_samples if warmup_steps is None else warmup_steps
        counts = {"num_samples": num_samples, "num_chains": num_chains, "thinning": thinning}
        counts |= {"check_every": check_every, "save_every": save_every}
        counts["block_size"] = num_chains if block_size is None else block_size
        for name, value in counts.items():
            if int(value) != value or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: expected at least 0, got {self.warmup_steps}")
        if superchains is not None and (superchains < 2 or num_chains % superchains):
            raise ValueError(
                f"superchains: expected at least 2, a divisor of {num_chains} chains, got "
                f"{superchains}"
            )
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {STRATEGIES}, got {strategy!r}")
        if superchains is not None and initial_params is not None:
            raise ValueError("superchains, initial_params: expected at most one of them, got both")
        check_counts(initial_params, num_chains)
        self.kernel, self.num_samples, self.num_chains = kernel, num_samples, num_chains
        self.method = f"{num_chains} chains of {type(kernel).__name__}"
        self.adjusted = kernel.adjusted
        self.strategy, self.initial_params, self.thinning = strategy, initial_params, thinning
        self.superchains = superchains or num_chains
        self.block_size = min(block_size or num_chains, num_chains)
        self.r_hat, self.ess, self.check_every, self.progress = r_hat, ess, check_every, progress
        self.checkpoint, self.save_every = checkpoint, save_every
        self._forget()

    def _forget(self) -> None:
        self._samplers: list[Sampler] = []
        self._positions: list[Tensor] = []
        self._statistics: list[Statistics] = []
        self._gathered: tuple[Tensor, dict[str, Tensor], int] | None = None
        self._of_all: dict[str, Any] | None = None
        self._moves = 0
        self._ranks = Ranks()

    # Running

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Warm up, and draw; the arguments are the model's. A second run starts anew.

        Raises:
            ValueError: for a model that cannot be read (see `pyro_lebm.Potential`), or
                without a starting point of finite density.
        """
        self._forget()
        self._target = self._read(args, kwargs)
        self._ranks.part_ways()
        with pyro.validation_enabled(False):
            self._samplers = self._begin(self._start(self._target))
        self._continue()

    def _start(self, target: Target) -> Tensor:
        mine = self._ranks.portion(self.num_chains)
        if self.initial_params is not None:
            return target.pack(self.initial_params).detach()[mine]
        each = self.num_chains // self.superchains
        if each > 1 and self.superchains % self._ranks.size:
            raise ValueError(
                f"superchains: expected a multiple of {self._ranks.size} ranks, got "
                f"{self.superchains}"
            )
        return target.initial((mine.stop - mine.start) // each).repeat_interleave(each, 0)

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Go on with the run that ``checkpoint`` holds, to the draws of one never interrupted.

        More draws than before may be asked for; all else must be as it was.

        Raises:
            CheckpointError: for a file that is missing, damaged, or of another run.
        """
        if self.checkpoint is None:
            raise ValueError("checkpoint: expected a path to resume from, got none")
        self._forget()
        path = self.checkpoint
        state = self._ranks.on_first(lambda: read_state(path, kind="chains"))
        check_same({"ranks": 1} | state["run"], self._described())
        state = state.get("ranks", [state])[self._ranks.rank]
        self._target = self._read(args, kwargs)
        start, positions, statistics = moved(
            [state[name] for name in ("start", "positions", "statistics")], self._target.device
        )
        self._samplers = self._begin(start, state["samplers"])
        self._moves, self._positions = state["moves"], positions
        self._statistics = [Statistics(*saved) for saved in statistics]
        self._check_density(start)
        set_rng_state(state["rng"], start.device)
        self._continue()

    def _check_density(self, position: Tensor) -> None:
        """The density now must be the one that the chains were saved with."""
        if type(self.kernel).seen is not Kernel.seen:
            return  # of minibatches, drawn anew
        assert self._target is not None
        saved = torch.cat([sampler.state.log_density for sampler in self._samplers])
        now = evaluate(self._target.log_density, position).log_density
        if not torch.allclose(now, saved, rtol=1e-3, atol=1e-2):
            raise CheckpointError(
                "resume: the checkpoint is of another run: the model or its data give other log "
                "densities at the chains' positions"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run as it stands, so that `resume` goes on from here, on as many ranks.

        Of several ranks the first writes, once the run is over; on the others this does nothing.

        Raises:
            RuntimeError: before a run.
        """
        if not self._samplers or (self._ranks.size > 1 and self._of_all is None):
            raise RuntimeError("save: expected a run, got none; call run() first")
        if self._ranks.rank == 0:
            write_state(path, self._of_all or self._state(), kind="chains")

    def _state(self) -> dict[str, Any]:
        """This rank's part of the run."""
        start = torch.cat([sampler.position for sampler in self._samplers])
        return {
            "run": self._described(),
            "moves": self._moves,
            "start": start,
            "samplers": [sampler.get_state() for sampler in self._samplers],
            "positions": self._positions,
            "statistics": [tuple(found) for found in self._statistics],
            "rng": rng_state(start.device),
        }

    def _collect(self) -> None:
        """Let rank 0 have the parts of all ranks; all of them together do this."""
        if not self._ranks.alone:
            every = self._ranks.gather_on_first(self._state())
            self._of_all = {"run": self._described(), "ranks": every}

    def _described(self) -> dict[str, Any]:
        """What a run to be resumed must have in common with this one."""
        settings = {
            f"kernel's {name}": value
            for name, value in vars(self.kernel).items()
            if isinstance(value, int | float | str) and not name.startswith("_")
        }
        return settings | {
            "ranks": self._ranks.size,
            "kernel": type(self.kernel).__name__,
            "strategy": self.strategy,
            "num_chains": self.num_chains,
            "warmup_steps": self.warmup_steps,
            "thinning": self.thinning,
            "block_size": self.block_size,
        }

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
        kernel, self.args, self.kwargs = self.kernel, args, kwargs
        if kernel.model is not None:
            if kernel.transforms:
                raise ValueError(
                    "transforms: expected none with a model, which has its own, got some"
                )
            init = kernel.init_strategy
            return ModelTarget(kernel.model, args, kwargs, self.strategy, init)
        assert kernel.potential_fn is not None
        values = self.initial_params or {}
        return FunctionTarget(kernel.potential_fn, values, self.strategy, kernel.transforms)

    def _begin(self, start: Tensor, saved: list[Any] | None = None) -> list[Sampler]:
        assert self._target is not None
        parts = start.split(self.block_size)
        return [
            Sampler(self.kernel, self._target.log_density, part, self.warmup_steps, state)
            for part, state in zip(parts, saved or [None] * len(parts), strict=True)
        ]

    def _continue(self) -> None:
        total = self.warmup_steps + self.num_samples * self.thinning
        quiet = not self.progress or self._ranks.rank > 0
        with (
            pyro.validation_enabled(False),
            tqdm(total=total, initial=self._moves, disable=quiet) as bar,
        ):
            while self._moves < total and not self._done():
                self._advance(bar)
                if self.checkpoint is not None and self._moves % self.save_every == 0:
                    self._collect()
                    self.save(self.checkpoint)
        self._collect()
        if self.checkpoint is not None:
            self.save(self.checkpoint)
        self._gather()

    def _gather(self) -> None:
        """Let all ranks have the draws of all."""
        z = self._drawn()
        if self._ranks.alone or z is None:
            return
        every, stats, restarts = zip(
            *self._ranks.gather((z, self.statistics, self.restarts)), strict=True
        )
        joined = {name: torch.cat([s[name] for s in stats]).to(z.device) for name in stats[0]}
        self._gathered = torch.cat(every).to(z.device), joined, sum(restarts)

    def _advance(self, bar: Any) -> None:
        found = [sampler.advance() for sampler in self._samplers]
        self._moves += 1
        kept = self._moves - self.warmup_steps
        bar.set_description("Sample" if kept > 0 else "Warm-up", refresh=False)
        together = joined(found)
        if not bar.disable:  # numbers to show are waited for
            acceptance, step = together.acceptance_rate.mean(), together.step_size.mean()
            shown = {"acceptance": f"{float(acceptance):.2f}", "step_size": f"{float(step):.3g}"}
            bar.set_postfix(shown, refresh=False)
        bar.update()
        if kept > 0 and kept % self.thinning == 0:
            self._positions.append(torch.cat([sampler.position for sampler in self._samplers]))
            self._statistics.append(together)

    def _done(self) -> bool:
        n = len(self._positions)
        if (self.r_hat is None and self.ess is None) or n < 4 or n % self.check_every:
            return False
        every = self._ranks.gather(torch.stack(self._positions, 1))
        found = diagnostics({"z": torch.cat(every)})["z"]
        mixed = self.r_hat is None or bool((found["r_hat"] < self.r_hat).all())
        return mixed and (self.ess is None or bool((found["n_eff"] > self.ess).all()))

    # Results

    @property
    def model(self) -> Any:
        """The kernel's model; None where it has a potential function."""
        return self.kernel.model

    @property
    def restarts(self) -> int:  # type: ignore[override]
        """How often, in the warm-up, a chain was moved to where another was."""
        if self._gathered is not None:
            return self._gathered[2]
        return sum(sampler.restarts for sampler in self._samplers)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Statistics of each draw."""
        if self._gathered is not None:
            return self._gathered[1]
        return stacked(self._statistics[: self.num_samples])

    def _drawn(self) -> Tensor | None:
        if self._gathered is not None:
            return self._gathered[0]
        kept = self._positions[: self.num_samples]
        return torch.stack(kept, 1) if kept else None
