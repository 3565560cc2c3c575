"""log p(x) of models in which it is known, and the scores that hang on it.

Bounds are asked for at a level at which none of the sequences of a test misses once in a million.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import straight_lines
from pyro_lebm import EnergyBased, EnergyPrior, LogRatio, MLPEnergy, Series, log_z
from pyro_lebm.inference import EncoderGuide, LangevinGuide, log_evidence, strangeness
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.scores import input_complexity
from pyro_lebm.models import LatentODE
from straight_lines import Lines, lines

SURE: dict[str, Any] = {"level": 1 - 1e-7, "particles": 32, "repeats": 8}


def exact_draws(series: Series, n: int) -> Draws:
    draws = straight_lines.posterior(series).sample(torch.Size((n,)))
    return Draws({"z0": draws.unsqueeze(0)})


def test_the_evidence_of_lines_lies_between_its_bounds() -> None:
    series = lines(6, shared=False).hide(4)
    guide = LangevinGuide(Lines(), series)
    truth = straight_lines.evidence(series)
    found = log_evidence(
        guide, series, draws=exact_draws(series, 256), exact=True, batch_size=4, **SURE
    )
    assert found.estimate.shape == (6,)
    assert bool((found.lower < truth).all()) and bool((truth < found.upper).all())
    assert found.gap.abs().max() < 0.1
    assert torch.allclose(found.estimate, truth, atol=0.1)
    assert found.effective.min() > 0.3
    # one exact draw of each, such as sequences that were simulated have
    one = log_evidence(guide, series, draws=exact_draws(series, 1), exact=True, **SURE)
    assert torch.allclose(one.upper, one.reverse - math.log(0.5e-7))
    assert bool((truth < one.upper).all()) and torch.allclose(one.reverse, truth, atol=0.3)
    # without exact draws, the same from annealed ones, and no bound above
    estimated = log_evidence(guide, series, particles=32, repeats=8)
    assert torch.allclose(estimated.reverse, truth, atol=0.3)
    with pytest.raises(ValueError, match="upper: expected exact draws"):
        _ = estimated.upper


def test_draws_of_another_posterior_betray_themselves() -> None:
    series = lines(3)
    wrong = exact_draws(series, 256)
    far = Draws({"z0": wrong["z0"] + 3.0})
    guide = LangevinGuide(Lines(), series)
    with pytest.warns(RuntimeWarning, match="take more rungs"):
        found = log_evidence(guide, series, draws=far, exact=True, rungs=10, **SURE)
    assert bool((found.gap.abs() > 1).all())


class Tilted(PyroModule):
    """z ~ N(0, 1) tilted to N(2, 1), x ~ N(z, noise^2): x ~ N(2, 1 + noise^2)."""

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.noise = noise
        self.prior = EnergyPrior(Slope(), base=1, num_chains=8)

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z", self.prior())
            x = dist.Normal(z.unsqueeze(-1), self.noise).mask(series.mask).to_event(2)
            pyro.sample("x", x, obs=series.filled)


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, z: Tensor) -> Tensor:
        return -self.slope * z.sum(-1)


def test_the_constant_of_an_energy_is_in_it() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 5.0])
    series, model = Series(torch.zeros(1), x[:, None, None]), Tilted()
    guide = LangevinGuide(model, series)
    with pytest.raises(ValueError, match=re.escape("got none for z; estimate it with")):
        log_evidence(guide, series)
    assert isinstance(model.prior(), EnergyBased)
    assert abs(float(log_z(model.prior).estimate) - 2.0) < 0.05
    truth = dist.Normal(2.0, math.sqrt(2.0)).log_prob(x)
    found = log_evidence(guide, series, particles=32, repeats=8)
    assert torch.allclose(found.estimate, truth, atol=0.15)

    told = strangeness(guide, series, num_draws=64)
    posterior = (x + 2) / 2
    # five standard errors of a mean over 64 annealed draws, as if there were 20 of them
    error = 5 * math.sqrt(0.5 / 20)
    assert torch.allclose(told["energy"], -2 * posterior, atol=2 * error)
    assert torch.allclose(told["evidence"], -truth, atol=0.2)
    assert told["evidence"].argmax() == 3 == told["log joint"].argmax()


def test_each_score_is_of_what_its_name_says() -> None:
    n, noise, x = 4000, 0.5, torch.tensor([0.0, 1.0, 2.0, 5.0])
    series, model = Series(torch.zeros(1), x[:, None, None]), Tilted(noise)
    guide, truth = LangevinGuide(model, series), dist.Normal(2.0, 1.25**0.5).log_prob(x)
    model.prior.log_z = 2.0
    mean, sd = (2 + 4 * x) / 5, 0.2**0.5  # of the posterior
    draws = Draws({"z": (mean + sd * torch.randn(n, 4))[None, ..., None]})
    told = strangeness(guide, series, draws=draws, log_p=truth)

    def surprise(loc: Tensor | float, scale: float) -> tuple[Tensor, Tensor]:
        """Mean of -log N(loc, scale^2) over the posterior, and five standard errors of draws'."""
        gap = mean - loc
        expected = 0.5 * (gap**2 + sd**2) / scale**2 + math.log(scale * math.sqrt(2 * math.pi))
        spread = (gap**2 * sd**2 + 0.5 * sd**4).sqrt() / scale**2
        return expected, 5 * spread / math.sqrt(n)

    for name, (expected, error) in {
        "prior": surprise(2.0, 1.0),
        "reconstruction": surprise(x, noise),
        "energy": (-2 * mean, torch.tensor(5 * 2 * sd / math.sqrt(n))),
    }.items():
        assert bool(((told[name] - expected).abs() < error).all()), name
        assert float(error.max()) < 0.2
    # the best of so many draws is next to the mode
    best = truth + dist.Normal(0.0, sd).log_prob(torch.tensor(0.0))
    assert torch.allclose(told["log joint"], -best, atol=1e-3)


def test_bounds_of_the_evidence_know_how_well_log_z_is_known() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 5.0])
    series, model = Series(torch.zeros(1), x[:, None, None]), Tilted()
    guide, truth = LangevinGuide(model, series), dist.Normal(2.0, math.sqrt(2.0)).log_prob(x)
    z = (x + 2) / 2 + math.sqrt(0.5) * torch.randn(256, 4)
    options: dict[str, Any] = {**SURE, "draws": Draws({"z": z[None, ..., None]}), "exact": True}
    options["rungs"] = 40

    def evidence(known: LogRatio | float) -> LogRatio:
        torch.manual_seed(0)
        model.prior.log_z = known
        found: LogRatio = log_evidence(guide, series, **options)
        return found

    exactly = evidence(2.0)
    assert bool((exactly.lower < truth).all()) and bool((truth < exactly.upper).all())
    # log Z between .9 and 1.6, or so; in truth it is 2
    low = torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]).unsqueeze(1)
    off = LogRatio(low, -low, exact=True)
    found = evidence(off)
    assert torch.allclose(found.estimate, exactly.estimate + 2.0 - off.estimate, atol=1e-4)
    half = 1 - (1 - SURE["level"]) / 2
    (alone, constant) = (replace(each, level=half) for each in (exactly, off))
    assert torch.allclose(found.lower, alone.lower + 2.0 - constant.upper, atol=1e-3)
    assert torch.allclose(found.upper, alone.upper + 2.0 - constant.lower, atol=1e-3)

    log_z(model.prior, rungs=6)
    with pytest.raises(ValueError, match="lower: expected a log Z of the prior"):
        _ = log_evidence(guide, series, particles=2, repeats=2, rungs=10).lower


def test_scores_that_hang_on_others() -> None:
    torch.manual_seed(0)
    series = Series(torch.linspace(0, 1, 5), torch.randn(4, 5, 1))
    model = LatentODE(2, 1)
    guide = EncoderGuide(model, series)
    log_p, background = torch.arange(4.0), torch.tensor([3.0, 3.0, 3.0, 3.0])
    told = strangeness(guide, series, num_draws=3, log_p=log_p, background=background)
    assert "energy" not in told  # a Gaussian prior has none
    assert torch.equal(told["evidence"], -log_p)
    assert told["likelihood ratio"].tolist() == [3.0, 2.0, 1.0, 0.0]
    assert bool((told["input complexity"] < told["evidence"]).all())
    assert all(score.shape == (4,) and bool(score.isfinite().all()) for score in told.values())
    clipped = strangeness(guide, series, num_draws=3, log_p=log_p, limits=(50.0, 60.0))
    size = input_complexity(series, limits=(50.0, 60.0))
    assert torch.equal(clipped["input complexity"], -log_p - size)
    assert not torch.equal(clipped["input complexity"], told["input complexity"])
    with pytest.raises(ValueError, match=re.escape("log_p: expected shape (4,), got (3,)")):
        strangeness(guide, series, log_p=torch.zeros(3))
    with pytest.raises(ValueError, match=re.escape("background: expected shape (4,), got ()")):
        strangeness(guide, series, log_p=log_p, background=torch.tensor(0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inflation": 0.0}, "inflation, batch_size: expected more than 0 and at least 1, got 0.0"),
        ({"batch_size": 0}, "got 1.5 and 0"),
        ({"exact": True}, "draws: expected exact ones for exact=True, got None"),
        ({"repeats": 1}, "repeats, rungs, moves: expected at least 2"),
        ({"rungs": 0}, "got 4, 0 and 1"),
        ({"level": 2.0}, "level: expected a number in (0, 1), got 2.0"),
        ({"particles": 1}, "particles: expected at least 2, got 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_annealed(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = lines(2)
    guide = LangevinGuide(Lines(), series)
    monkeypatch.setattr(LangevinGuide, "annealed", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ValueError, match=re.escape(message)):
        log_evidence(guide, series, **options)


def test_draws_of_other_sequences_and_nan_are_refused() -> None:
    series = lines(3)
    guide = LangevinGuide(Lines(), series)
    message = re.escape("draws: expected draws for the 2 sequences of series, got 3")
    for score in (log_evidence, strangeness):
        with pytest.raises(ValueError, match=message):
            score(guide, series[:2], draws=exact_draws(series, 8))
    holed = exact_draws(series, 8)
    holed["z0"][0, 5, 1] = torch.nan
    with pytest.raises(ValueError, match="draws: expected finite ones, got NaN or inf"):
        log_evidence(guide, series, draws=holed)


def test_an_energy_prior_s_constant_counts_once_a_sequence() -> None:
    torch.manual_seed(0)
    prior = EnergyPrior(MLPEnergy(2, (8,)), base=2, num_chains=8)
    series = Series(torch.linspace(0, 1, 4), torch.randn(3, 4, 1))
    model = LatentODE(2, 1, prior=prior)
    guide = LangevinGuide(model, series)
    prior.log_z = 0.0
    first = log_evidence(guide, series, particles=16, repeats=4)
    prior.log_z = 10.0
    second = log_evidence(guide, series, particles=16, repeats=4)
    assert torch.allclose(first.estimate - second.estimate, torch.full((3,), 10.0), atol=0.5)
