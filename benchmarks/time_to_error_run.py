"""One training, its snapshots and their errors: a part of ``time_to_error.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import sines_run
import torch
from obvious_training import fit_plainly
from sines_run import Data, Fit, Run, sines
from torch import Tensor, nn
from tqdm import tqdm

from pyro_lebm.inference import History, LangevinGuide, anneal, fit, posterior_predict
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.inference.scores import mse
from pyro_lebm.models import LatentODE

# shares of a training at which it is looked at; the beginning more often
AT = (0.0, 1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
OBVIOUS = "obvious"
# what a model that training has torn apart may raise, of which no draws can be had
FAILURES = (ArithmeticError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Timed:
    """A training: which, for how long, how it is scored, and where it runs."""

    method: str
    seed: int
    seconds: float
    tested: int = 100
    draws: int = 20
    device: str = "cpu"

    def sines(self, validation: bool = False) -> Run:
        """As the other benchmarks of the sinusoids take it."""
        method = "ode_lebm_langevin" if self.method == OBVIOUS else self.method
        sizes = {"tested": self.tested, "draws": self.draws, "validation": validation}
        return Run(method, seed=self.seed, seconds=self.seconds, **sizes)  # type: ignore[arg-type]


@dataclass
class Recorder:
    """A `fit` that keeps the weights at given seconds of training; to copy them takes no time."""

    fit: Fit
    at: list[float]
    kept: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: nn.Module, guide: Guide, series: Any, **options: Any) -> History:
        schedule, limit, steps = guide.schedule, options["max_seconds"], 0

        def watched(progress: float) -> None:
            nonlocal steps
            schedule(progress)
            if self.at and progress * limit >= self.at[0]:
                self.keep(model, guide, progress * limit, steps)
            steps += 1

        vars(guide)["schedule"] = watched
        try:
            return self.fit(model, guide, series, **options)
        finally:
            del vars(guide)["schedule"]

    def keep(self, model: nn.Module, guide: Guide, seconds: float, steps: int) -> None:
        """The weights of now."""
        self.at = [second for second in self.at if second > seconds]
        state = {name: _copy(each) for name, each in (("model", model), ("guide", guide))}
        self.kept.append({"seconds": seconds, "iterations": steps, **state})


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def train(timed: Timed, data: Data) -> tuple[LatentODE, Guide, list[dict[str, Any]], float]:
    """Model, guide, snapshots, and the share of a core that the training had."""
    recorder = Recorder(
        fit_plainly if timed.method == OBVIOUS else fit, [share * timed.seconds for share in AT]
    )
    run = timed.sines()
    torch.manual_seed(timed.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    model, guides, histories = TRAININGS[run.method](run, data, recorder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    guide = guides[run.method]
    recorder.keep(model, guide, timed.seconds, len(histories["history"]))
    return model, guide, recorder.kept, cpu / wall


TRAININGS: dict[str, Callable[[Run, Data, Fit], sines_run.Trained]] = {
    "latent_ode": sines_run.train_latent_ode,
    "ode_lebm_refined": sines_run.train_refined,
    "ode_lebm_langevin": sines_run.train_langevin,
}


def errors(model: LatentODE, guide: Guide, data: Data, timed: Timed) -> dict[str, float | None]:
    """Mean squared errors at the hidden points, of posteriors by two ways; None: there is none."""

    def error(draw: Callable[[], Draws]) -> float | None:
        torch.manual_seed(timed.seed)  # the same random numbers for each snapshot
        try:
            means = posterior_predict(model, draw(), data.given, mean=True, batch_size=20)
        except FAILURES as failure:
            tqdm.write(f"{timed.method}: no draws: {failure}")
            return None
        found = mse(means.flatten(0, 1).mean(0), data.truth, data.hidden.mask)
        return found if found == found else None

    annealed = error(lambda: anneal(guide.program, data.given, timed.draws))
    if isinstance(guide, LangevinGuide):  # its own way is that very one
        return {"own": annealed, "annealed": annealed}
    own = error(lambda: guide.posterior(data.given, draws=timed.draws))
    return {"own": own, "annealed": annealed}


def measure(timed: Timed) -> dict[str, Any]:
    """Train, then score every snapshot on test sequences, and the last one on validation ones."""
    data, kept = (moved(sines(timed.sines(validation=v)), timed.device) for v in (False, True))
    with torch.device(timed.device):  # of the networks, chains and draws to come
        model, guide, snapshots, share = train(timed, data)
        rows = []
        for snapshot in tqdm(snapshots, unit="score", position=1, leave=False):
            model.load_state_dict(snapshot["model"])
            guide.load_state_dict(snapshot["guide"])
            at = {name: snapshot[name] for name in ("seconds", "iterations")}
            rows.append({**at, **errors(model, guide, data, timed)})
        validation = errors(model, guide, kept, timed)
    return {"run": asdict(timed), "rows": rows, "validation": validation, "core_share": share}


def moved(data: Data, device: str) -> Data:
    """On another device."""
    return replace(
        data,
        train=data.train.to(device),
        given=data.given.to(device),
        hidden=data.hidden.to(device),
        truth=data.truth.to(device),
    )
