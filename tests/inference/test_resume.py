"""A run that was killed and resumed gives the numbers of the run that was not killed.

Run as a script (`test_resume.py CHECKPOINT RESULT DELAY`) this file is the run itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_lebm.checkpoint import CheckpointError, read_state
from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.inference.training.fit import fit
from pyro_lebm.inference.training.history import History
from pyro_lebm.series import Series
from scripts import run_script

# The prior's wandering chain sends runs back now and then, as intended.
pytestmark = pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")

STEPS = 80


class Prior(PyroModule):
    """N(0, 1) tilted by exp(-slope z), learned from negatives that persistent chains give."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.1))
        self.chains = Chains(torch.randn(16, 1), step_size=0.5)
        self.learning = True
        self.seen: dict[str, float] = {}

    def forward(self, z: Tensor) -> Tensor:
        slope = self.slope
        if not self.learning:
            return -slope.detach() * z
        fixed = slope.detach()
        target = lambda x: (-fixed * x - 0.5 * x**2).squeeze(-1)  # noqa: E731
        negatives = self.chains.run(target, steps=2)
        # One chain wanders far enough, now and then, to be taken for a runaway energy.
        self.seen = {"energy_positive": float(negatives[0]), "energy_negative": 0.0}
        return -slope * (z - negatives.mean())

    def statistics(self) -> dict[str, float]:
        return self.seen


class Model(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.prior = Prior()
        self.decoder: nn.Module = nn.Sequential(
            nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 6)
        )
        self.noise: Any = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)
        self.register_buffer("offset", torch.zeros(()), persistent=False)
        self.register_buffer("gain", torch.ones(()))
        self.plain_gain = 1.0
        self.delay = 0.0

    def refresh(self, series: Series) -> None:
        self.offset = 0.01 * torch.randn(())
        self.gain.fill_(1.0 + 0.1 * torch.rand(()))
        self.plain_gain = float(self.gain)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.plain_gain = float(self.gain)

    def forward(self, series: Series) -> None:
        time.sleep(self.delay)
        prior, decoder, noise = self.prior, self.decoder, self.noise
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.factor("tilt", prior(z).squeeze(-1))
            x = self.plain_gain * decoder(z)[:, : series.length, None] + self.offset
            observed = dist.Normal(x, noise).mask(series.mask).to_event(2)
            pyro.sample("x", observed, obs=series.filled)


class Guide(PyroModule):
    loss_name = "negative ELBO"

    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Linear(6, 2)
        self.register_buffer("heat", torch.ones(()), persistent=False)
        self.register_buffer("visits", torch.zeros(60), persistent=False)

    def schedule(self, progress: float) -> None:
        self.heat.fill_(1.0 - 0.5 * progress)

    def statistics(self) -> dict[str, float]:
        return {"acceptance": float(self.visits.mean())}

    def forward(self, series: Series) -> None:
        encoder = self.encoder
        self.visits[series.index] += 0.01
        with pyro.plate("sequences", series.total, subsample=series.index):
            whole = nn.functional.pad(series.filled[..., 0], (0, 6 - series.length))
            loc, scale = encoder(whole).chunk(2, -1)
            # What the guide remembers of earlier visits matters: forgetting it must show.
            scale = scale.exp() * self.heat + self.visits[series.index, None]
            pyro.sample("z0", dist.Normal(loc, scale).to_event(1))


def data(n: int = 60) -> Series:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, 6, 1, generator=generator)
    return Series(torch.arange(6.0), values, torch.rand(n, 6, 1, generator=generator) > 0.2)


def run(
    path: Path | None,
    *,
    model: Model | None = None,
    guide: Guide | None = None,
    series: Series | None = None,
    **changes: Any,
) -> tuple[Model, Guide, History]:
    torch.manual_seed(7)
    fresh = Model(), Guide()
    model, guide = model or fresh[0], guide or fresh[1]
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "batch_size": 16,  # four steps an epoch: runs are stopped inside one
        "learning_rate": 1e-2,
        "learning_rates": {"prior.": 0.2},
        "clip_norm": 5.0,
        "kl_warmup": 0.5,
        "horizon_warmup": 0.5,
        "betas": (0.9, 0.99),
        "energy_from": 0.2,
        "energy_limit": 1.5,
        "max_rollbacks": 50,
        "snapshot_every": 7,
        "checkpoint": path,
        "checkpoint_every": 3,
        "checkpoint_seconds": None,
        "resume": path is not None,
        "progress": False,
        "seed": 3,
    }
    history = fit(model, guide, data() if series is None else series, **(settings | changes))
    return model, guide, history


def result(model: Model, guide: Guide, history: History) -> dict[str, Any]:
    return {
        **{f"model.{k}": v for k, v in model.state_dict().items()},
        **{f"guide.{k}": v for k, v in guide.state_dict().items()},
        **{f"chains.{k}": v for k, v in model.prior.chains.training_state().items()},
        **{f"history.{k}": history.column(k) for k in history.columns if k != "seconds"},
        "visits": guide.visits,
        "offset": model.offset,
        "random": torch.get_rng_state(),
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key].nan_to_num(), value.nan_to_num()), key


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    return subprocess.Popen([sys.executable, __file__, *arguments], env=environment)


def kill_at(process: subprocess.Popen[bytes], path: Path, step: int) -> int:
    """SIGKILL once the checkpoint is that far; the step it had come to."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and read_state(path, kind="training")["current"]["step"] >= step:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    return int(read_state(path, kind="training")["current"]["step"])


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    killed = start(str(path), str(tmp_path / "none.pt"), "0.02")
    try:
        assert 30 <= kill_at(killed, path, step=30) < STEPS
    finally:
        killed.kill()
        killed.wait()
    expected = result(*run(None))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    arguments = (str(path), str(tmp_path / "resumed.pt"), "0")
    resumed = run_script(__file__, *arguments, cwd=tmp_path, env=environment, timeout=60)
    assert resumed.returncode == 0, resumed.stderr
    assert expected["history.rollbacks"][-1] > expected["history.rollbacks"][29] > 0
    assert expected["history.step"].tolist() == list(range(1, STEPS + 1))
    assert_same(torch.load(tmp_path / "resumed.pt", weights_only=True), expected)


@pytest.mark.parametrize(("stop", "limit"), [(2, 1.5), (20, 1e6), (50, 1.5)])
def test_an_interrupted_run_resumes_to_the_same_numbers(
    tmp_path: Path, stop: int, limit: float
) -> None:
    settings: dict[str, Any] = {"checkpoint_every": None, "energy_limit": limit}
    expected = result(*run(None, **settings))
    calls = 0

    class Interrupted(Model):
        def forward(self, series: Series) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            super().forward(series)

    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run.pt", model=Interrupted(), **settings)
    reached = read_state(tmp_path / "run.pt", kind="training")["current"]["step"]
    assert (reached == 0) == (stop == 2) and reached < stop
    assert_same(result(*run(tmp_path / "run.pt", **settings)), expected)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume") / "run.pt"
    run(path, max_steps=8)
    return path


def test_resuming_a_finished_run_returns_at_once(finished: Path) -> None:
    before = finished.read_bytes()
    other, _, expected = run(None, max_steps=8)
    model, _, history = run(finished, max_steps=8)
    assert len(history) == 8
    assert torch.equal(history.column("loss"), expected.column("loss"))
    assert torch.equal(model.noise, other.noise)
    assert finished.read_bytes() == before


def test_a_larger_max_steps_goes_on(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.pt"
    path.write_bytes(finished.read_bytes())
    *_, history = run(path, max_steps=12)
    assert history.column("step").tolist() == list(range(1, 13))
    assert bool((history.column("seconds").diff() > 0).all())


def test_without_a_file_the_run_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.pt"
    *_, history = run(path, max_steps=3)
    assert len(history) == 3 and path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 20}, "batch_size was 16, now 20"),
        ({"learning_rates": {"prior.": 0.1}}, r"learning_rates was \{'prior.': 0.2\}, now"),
        ({"kl_warmup": 0.25}, "kl_warmup was 0.5, now 0.25"),
        ({"betas": (0.9, 0.9)}, r"betas was \(0.9, 0.99\), now \(0.9, 0.9\)"),
        ({"elbo": pyro.infer.Trace_ELBO(num_particles=2)}, "elbo was .* 1 part.*, now .* 2 part"),
        ({"series": data(40)}, r"series was 'Series\(N=60"),
        ({"series": data()[torch.arange(59, -1, -1)]}, "series was"),
    ],
)
def test_other_settings_or_data_are_refused(
    finished: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint is of another run: .*{message}"):
        run(finished, **changes)


def test_other_programs_are_refused(finished: Path) -> None:
    model, guide = Model(), Guide()
    model.decoder = nn.Sequential(nn.Linear(1, 6))
    guide.encoder = nn.Sequential(nn.Linear(6, 2))
    with pytest.raises(CheckpointError, match=r"another model: decoder\.0\.weight: expected"):
        run(finished, max_steps=8, model=model)
    with pytest.raises(CheckpointError, match=r"another guide: encoder\.0\.weight: expected"):
        run(finished, max_steps=8, guide=guide)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(7)
    slow = Model()
    slow.delay = float(sys.argv[3])
    outcome = run(Path(sys.argv[1]) if sys.argv[1] else None, model=slow)
    torch.save(result(*outcome), sys.argv[2])
