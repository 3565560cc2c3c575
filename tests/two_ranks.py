"""What two processes do together, for `test_distributed.py`: run as a script, by torchrun or alone.

`two_ranks.py SCENARIO FOLDER`: what a rank found goes to `FOLDER/SCENARIO-RANK.pt`.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm import EnergyPrior, MLPEnergy, Series
from pyro_lebm.dynamics.inner_steps import InnerSteps
from pyro_lebm.inference import MALA, LangevinGuide, VectorizedMCMC, distributed, fit, fit_prior
from pyro_lebm.inference.training.history import History

RANK = int(os.environ.get("RANK", "0"))
STEPS, SEEDS, N = 40, range(4), 21  # an epoch's last minibatch is of one sequence: rank 1 has none
MEAN, SD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])


class Model(PyroModule):
    """x = A z + noise, z from an energy prior; a buffer that rank 0 is to choose for all."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = EnergyPrior(MLPEnergy(2, (8,)), base=2, num_chains=32, steps=2)
        self.decoder: nn.Module = nn.Linear(2, 3)
        self.register_buffer("gain", torch.ones(()))

    def refresh(self, series: Series) -> None:
        self.gain.fill_(1.0 + 0.01 * torch.rand(()))

    def forward(self, series: Series) -> None:
        decoder = self.decoder
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z", self.prior())
            x = dist.Normal(self.gain * decoder(z)[..., None], 0.5)
            pyro.sample("x", x.to_event(2), obs=series.filled)


class Guide(LangevinGuide):  # type: ignore[misc]
    """Notes whose chains it moved; at one step, on rank 1, `trouble` happens."""

    def __init__(
        self, model: Model, series: Series, when: int = -1, trouble: Callable[[], object] = int
    ) -> None:
        self.step, self.when, self.trouble = 0, when, trouble
        self.moved: set[int] = set()
        self.steps_taken: list[float] = []
        super().__init__(model, series, steps=(1, 4), step_size=0.2)

    def schedule(self, progress: float) -> None:
        super().schedule(progress)
        self.step = round(progress * STEPS)

    def forward(self, series: Series) -> None:
        if torch.is_grad_enabled():  # and not to look which parameters there are
            self.moved |= set(series.index.tolist())
            self.steps_taken += [m.exact for m in self.modules() if isinstance(m, InnerSteps)]
        if self.step == self.when and RANK == 1:
            self.when = -1
            self.trouble()
        super().forward(series)


class Level(PyroModule):
    """x ~ N(level, 1): nothing random in its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            x = dist.Normal(self.level, 1.0).expand(series.values.shape[1:])
            pyro.sample("x", x.to_event(2), obs=series.values)


class Unlike(Level):
    """Its ranks differ: in what they met, in what they began with, and in what is drawn later."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(()))
        self.drawn = nn.Parameter(torch.zeros(()), requires_grad=False)

    def refresh(self, series: Series) -> None:
        self.drawn.data.fill_(torch.rand(()))

    def forward(self, series: Series) -> None:
        if not hasattr(self, "late"):
            self.late: Any = nn.Parameter(torch.tensor(float(RANK)))
        mean = (self.level + self.late).expand(len(series))
        if 0 in series.index.tolist():  # never on rank 1
            mean = mean + self.first * (series.index == 0)
        with pyro.plate("sequences", series.total, subsample=series.index):
            x = dist.Normal(mean[:, None, None], 1.0).expand(series.values.shape)
            pyro.sample("x", x.to_event(2), obs=series.values)


class Nothing(PyroModule):
    """No latent sites; at one call, on one rank, there is a fault."""

    def __init__(self, when: int = -1, rank: int = 0) -> None:
        super().__init__()
        self.calls, self.when = 0, when if rank == RANK else -1

    def forward(self, series: Series) -> None:
        self.calls += 1
        if self.calls == self.when:
            fault()


def data() -> Series:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(N, 2, generator=generator) @ torch.randn(2, 3, generator=generator)
    return Series(torch.arange(3.0), (1 + values)[..., None])


def train(
    path: Path | None = None,
    seed: int = 0,
    when: int = -1,
    trouble: Callable[[], object] = int,
    **changes: Any,
) -> tuple[Model, Guide, History]:
    pyro.set_rng_seed(0)
    model = Model()
    for p in model.parameters():
        p.data += RANK  # what rank 0 has must count
    guide = Guide(model, data(), when, trouble)
    settings: dict[str, Any] = {"max_steps": STEPS, "batch_size": 10, "learning_rate": 0.02}
    settings |= {"checkpoint": path, "checkpoint_every": 10, "checkpoint_seconds": None}
    settings |= {"resume": path is not None, "snapshot_every": 5, "progress": False, "seed": seed}
    return model, guide, fit(model, guide, data(), **(settings | changes))


def exact(when: int = -1, rank: int = 0, **changes: Any) -> tuple[Tensor, Tensor]:
    """Seven sequences: four on one rank and three on the other."""
    model, guide = Level(), Nothing(when, rank)
    series = Series(torch.arange(2.0), torch.arange(14.0).reshape(7, 2, 1))
    settings: dict[str, Any] = {"max_steps": 20, "learning_rate": 0.3, "progress": False}
    history = fit(model, guide, series, **(settings | changes))
    return model.level.detach(), history.column("loss")


def unlike() -> dict[str, Tensor]:
    model, values = Unlike(), torch.arange(14.0).reshape(7, 2, 1)
    series = Series(torch.arange(2.0), values)
    fit(model, Nothing(), series, max_steps=20, learning_rate=0.3, progress=False)
    return {name: p.detach() for name, p in model.named_parameters()}


def found(model: Model, guide: Guide, history: History) -> dict[str, Any]:
    return {
        "parameters": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "gain": model.gain,
        "negatives": model.prior.chains.position,
        "chains": guide.chains.position,
        "visited": guide.chains.visited,
        "moved": guide.moved,
        "steps": torch.tensor(guide.steps_taken),
        "numbers": {k: history.column(k) for k in history.columns if k != "seconds"},
    }


def caught(action: Callable[[], Any]) -> str:
    try:
        action()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fault() -> None:
    raise FloatingPointError("a path blew up")


def failure() -> None:
    raise KeyError("a mistake")


def gaussian() -> None:
    with pyro.plate("d", 2):
        pyro.sample("z", dist.Normal(MEAN, SD))


def sample(draws: int, chains: int, **options: Any) -> VectorizedMCMC:
    return VectorizedMCMC(MALA(gaussian), draws, 200, num_chains=chains, progress=False, **options)


def chains(folder: Path) -> dict[str, Any]:
    pyro.set_rng_seed(1)  # the same on both: their chains must not be
    run = sample(200, 100)
    run.run()
    pyro.set_rng_seed(2)
    kept = sample(30, 5, checkpoint=folder / "chains.pt", save_every=210)
    kept.run()
    if RANK == 0:
        kept.save(folder / "chains.pt")  # nobody else is needed
    more = sample(40, 5, checkpoint=folder / "chains.pt")
    pyro.set_rng_seed(3)
    more.resume()
    return {
        "z": run.get_samples(group_by_chain=True)["z"],
        "acceptance": run.statistics["acceptance_rate"],
        "kept": kept.get_samples(group_by_chain=True)["z"],
        "more": more.get_samples(group_by_chain=True)["z"],
        "too few": caught(sample(1, 1).run),
        "superchains": caught(sample(1, 9, superchains=3).run),
    }


def together(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {"exact": exact(), "rank": RANK}
    results["unlike"] = unlike()
    results["loss"] = torch.stack([train(seed=s)[2].column("loss") for s in SEEDS])
    results["whole"] = found(*train(folder / "two.pt"))
    failed = folder / "failed.pt"
    results["failure"] = caught(lambda: train(failed, when=25, trouble=failure))
    results["resumed"] = found(*train(failed))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        results["fault"] = found(*train(when=7, trouble=fault))
        results["exact fault"] = exact(when=9, rank=1, snapshot_every=5)
    results["told"] = [str(one.message) for one in told if "rollback" in str(one.message)]
    stop = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    results["interrupt"] = caught(lambda: train(folder / "stopped.pt", when=23, trouble=stop))
    results["as one had it"] = found(*train(folder / "one.pt", max_steps=STEPS))
    results["on from one"] = found(*train(folder / "one.pt", max_steps=STEPS + 20))
    results["differ"] = caught(lambda: exact(learning_rate=0.1 * (1 + RANK)))
    results["too small"] = caught(lambda: exact(batch_size=1))
    results["chains"] = chains(folder)
    prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=8)
    fit_prior(prior, torch.randn(30, 2), max_steps=3, progress=False)
    results["prior"] = torch.cat([p.detach().flatten() for p in prior.parameters()])
    seen = torch.ones(N, 3, dtype=torch.bool)
    given = Series(data().times, data().values, seen & (torch.arange(3) < 2))
    timed: dict[str, Any] = {"max_steps": None, "max_seconds": 1.0, "validation": (given, data())}
    results["timed"] = found(*train(**timed, validate_every=5, validation_draws=2))
    *_, history = train(max_steps=5, profile=True)
    results["parts"] = None if history.profile is None else list(history.profile.index)
    return results


def ended(folder: Path, numbers: Sequence[int]) -> dict[str, Any]:
    """Rank 1 gets some signals in the middle of a step."""

    def trouble() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    train(folder / "ended.pt", when=25, trouble=trouble)
    return {}


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "together": together,
    "killed": lambda folder: ended(folder, [signal.SIGKILL]),
    "interrupted twice": lambda folder: ended(folder, [signal.SIGINT] * 2),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    with distributed(timeout=60):
        group = weakref.ref(torch.distributed.group.WORLD)
        outcome = SCENARIOS[scenario](folder)
    outcome["group is freed"] = group() is None
    torch.save(outcome, folder / f"{scenario}-{RANK}.pt")
