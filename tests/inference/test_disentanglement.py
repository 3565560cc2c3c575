"""What latents mean: perfect, mixed and empty codes get the scores that their definitions give.

Bounds lie at least four standard deviations, over seeds, from what is usual: a false alarm is one
seed in some ten thousand.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.scores import block_r2, dci, mutual_information_gap, sap

MANY, FEW = 600, 100
SIZES = pytest.mark.parametrize("n", [MANY, FEW])


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(n: int) -> dict[str, Tensor]:
    generator = source(0)
    label = torch.randint(0, 4, (n,), generator=generator)
    return {"label": label, "size": torch.rand(n, generator=generator)}


def noise(*size: int) -> Tensor:
    return torch.randn(*size, generator=source(1))


def perfect(n: int) -> Tensor:
    known = factors(n)
    return torch.stack([known["label"].float(), known["size"], 0.1 * noise(n)], -1)


def mixed(n: int) -> Tensor:
    """Each factor in two latents alike."""
    a, b, _ = perfect(n).unbind(-1)
    return torch.stack([a / 3 + b, b - a / 3, a / 3 + b + 0.01 * noise(n)], -1)


@SIZES
def test_a_code_with_a_latent_for_each_factor(n: int) -> None:
    found = dci(perfect(n), factors(n))
    assert min(found) > 0.95
    assert mutual_information_gap(perfect(n), factors(n)) > 0.9
    # four classes in a row cannot be told by one line
    assert sap(perfect(n), {"size": factors(n)["size"]}) > 0.9


@SIZES
def test_a_code_that_mixes_them(n: int) -> None:
    straight, crooked = perfect(n), mixed(n)
    assert mutual_information_gap(crooked, factors(n)) < 0.2
    assert sap(crooked, factors(n)) < 0.3
    found, best = dci(crooked, factors(n)), dci(straight, factors(n))
    assert found.disentanglement < 0.5 * best.disentanglement
    assert found.informativeness > 0.9  # sums and differences are lines


@SIZES
def test_a_code_that_knows_nothing(n: int) -> None:
    empty = noise(n, 3)
    assert mutual_information_gap(empty, factors(n)) < 0.1
    assert sap(empty, factors(n)) < 0.2
    assert abs(dci(empty, factors(n)).informativeness) < 0.25
    still = dci(torch.zeros(n, 3), factors(n))
    assert still[:2] == pytest.approx((0.0, 0.0)) and abs(still.informativeness) < 0.25


@pytest.mark.parametrize(("n", "least"), [(64, 0.85), (100, 0.9), (200, 0.94), (1000, 0.98)])
def test_the_gap_does_not_depend_on_how_many_points_there_are(n: int, least: float) -> None:
    generator = source(0)
    value = torch.rand(n, 3, generator=generator)
    known = dict(zip("abc", value.T, strict=True))
    code = torch.randn(n, 10, generator=generator)
    assert mutual_information_gap(code, known) < 0.1
    code[:, :3] = value.exp()  # bins of equal mass do not mind what bends
    assert least < mutual_information_gap(code, known) <= 1
    code[value.argmax(0), range(3)] = 1e6  # nor what lies far out
    assert least < mutual_information_gap(code, known)


def test_the_gap_of_classes_is_in_units_of_their_entropy() -> None:
    rare = torch.arange(200) % 20
    label = (rare == 0).long() + 2 * (rare == 1)  # 180, 10 and 10: H = .39, log 3 = 1.10
    code = torch.stack([label + 0.05 * noise(200), noise(200, 2)[:, 1]], -1)
    assert mutual_information_gap(code, {"label": label}) > 0.8
    # of numbers that are mostly 0, the others are a bin of their own
    amount = torch.rand(1000, generator=source(2)) * (torch.arange(1000) % 25 == 0)
    code = torch.stack([amount, noise(1000)], -1)
    assert mutual_information_gap(code, {"amount": amount}) > 0.9


@SIZES
def test_disentanglement_and_completeness_are_not_each_other(n: int) -> None:
    z = torch.rand(n, 3, generator=source(3))
    # each latent is about one factor, but one factor is in two latents:
    # the weights (1/2, 1/2, 0) have entropy log 2, of log 3 at most
    spread = dci(z, {"sum": z[:, 0] + z[:, 1], "last": z[:, 2]})
    assert spread.disentanglement > 0.95
    assert spread.completeness == pytest.approx(1 - math.log(2) / math.log(3) / 2, abs=0.05)
    # each factor is in one latent, but one latent is about two factors alike
    shared = dci(z, {"value": z[:, 0], "distance": (z[:, 0] - 0.5).abs()})
    assert shared.disentanglement < 0.05
    assert shared.completeness > 0.9


def test_gaps_by_hand() -> None:
    bit = torch.arange(80) % 2
    same, other = bit.float(), (torch.arange(80) // 2 % 2).float()
    z = torch.stack([same, other], -1)
    assert mutual_information_gap(z, {"bit": bit}) == pytest.approx(1.0)
    half = torch.stack([same, same], -1)
    assert mutual_information_gap(half, {"bit": bit}) == pytest.approx(0.0)
    assert sap(z, {"bit": bit}) == pytest.approx(0.5)  # 1 against guessing
    x = torch.linspace(-1, 1, 81)
    line = torch.stack([x, x.square()], -1)
    assert sap(line, {"x": x}) == pytest.approx(1.0, abs=1e-6)


@SIZES
def test_blocks_and_what_leaks_between_them(n: int) -> None:
    known = factors(n)
    angle = 2 * math.pi * torch.rand(n, generator=source(2))
    known |= {"sine": angle.sin(), "cosine": angle.cos()}
    static = torch.stack([known["label"].float(), known["size"]], -1)
    dynamic = torch.stack([known["sine"], known["cosine"]], -1)
    found = block_r2({"static": static, "dynamic": dynamic}, known)
    for name in ("label", "size"):
        assert found["static"][name] > 0.9
        assert found["dynamic"][name] < 0.15
    for name in ("sine", "cosine"):
        assert found["dynamic"][name] > 0.9
        assert found["static"][name] < 0.15
    leaking = torch.cat([dynamic, static[:, 1:]], -1)
    assert block_r2({"dynamic": leaking}, known)["dynamic"]["size"] > 0.9


def test_what_few_points_tell() -> None:
    generator = source(0)
    label = torch.randint(0, 8, (100,), generator=generator)
    wide = torch.eye(8)[label]
    assert block_r2({"z": wide}, {"label": label})["z"]["label"] == 1.0
    z = torch.randn(64, 10, generator=generator)
    line = z @ torch.randn(10, generator=generator)
    assert block_r2({"z": z}, {"line": line})["z"]["line"] > 0.999
    # what bends, which no line can tell
    angle = 2 * math.pi * torch.rand(64, generator=generator)
    ring = torch.stack([angle.sin(), angle.cos()], -1)
    assert block_r2({"z": ring}, {"turns": (3 * angle).sin()})["z"]["turns"] > 0.7
    quadrant = (ring[:, 0] * ring[:, 1] > 0).long()
    assert block_r2({"z": ring}, {"quadrant": quadrant})["z"]["quadrant"] > 0.5


@pytest.mark.filterwarnings("ignore:z. expected 50 points or more")
def test_what_very_few_points_tell() -> None:
    bit = torch.arange(30) % 2
    assert block_r2({"z": bit[:, None].float()}, {"bit": bit})["z"]["bit"] == 1.0
    # a model that had seen what it predicts would know it by heart
    found = [
        block_r2(
            {"z": torch.randn(30, 12, generator=source(k))}, {"x": torch.randn(30), "bit": bit}
        )
        for k in range(5)
    ]
    assert sum(sum(each["z"].values()) for each in found) / 10 < 0.3
    # classes so rare that some folds lack them, or hold nothing else
    for rare in (
        [0, 0, 1, 2, 3],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 1, 2, 2, 3],
        [0, 0, 0, 0, *range(20)],
        [True] + 5 * [False],
    ):
        z = noise(len(rare), 2)
        assert max(dci(z, {"rare": torch.tensor(rare)})) <= 1
        assert 0 <= mutual_information_gap(z, {"rare": torch.tensor(rare)}) <= 1
        assert 0 <= mutual_information_gap(z, {"x": noise(len(rare))}) <= 1
    # in as many bins as there are points, a perfect code is like any other
    z = noise(20, 10)
    assert mutual_information_gap(z, {"x": z[:, 0]}) > 0.35


def test_too_few_points_are_said_to_be() -> None:
    z, known = noise(49, 2), {"x": noise(49)}
    for score in (mutual_information_gap, sap, dci):
        with pytest.warns(
            UserWarning, match="z: expected 50 points or more, as 49 say little"
        ) as w:
            score(z, known)
        assert w[0].filename == __file__
    with pytest.warns(UserWarning, match="as 49 say little") as w:
        block_r2({"z": z}, known)
    assert w[0].filename == __file__


NAN = torch.tensor([math.nan, 1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("z", "known", "message"),
    [
        (torch.zeros(5), {"a": torch.arange(5)}, "z: expected shape (n, dim) with dim of at least"),
        (torch.zeros(5, 1), {"a": torch.arange(5)}, "at least 2, got (5, 1)"),
        (torch.zeros(5, 2), {}, "factors: expected at least one, got none"),
        (torch.zeros(5, 2), {"a": torch.arange(4)}, "a: expected shape (5,), got (4,)"),
        (torch.zeros(5, 2), {"a": torch.ones(5)}, "a: expected a factor that varies, got 1.0"),
        (torch.zeros(5, 2), {"a": NAN}, "a: expected finite numbers, got NaN or inf"),
        (torch.zeros(5, 2) / 0, {"a": torch.arange(5)}, "z: expected finite numbers, got NaN or"),
        (torch.zeros(4, 2), {"a": torch.arange(4)}, "z: expected at least 5 points, got 4"),
        (torch.zeros(0, 2), {"a": torch.arange(0)}, "z: expected at least 5 points, got 0"),
        (torch.zeros(5, 2), {"a": torch.arange(5)}, "a: expected classes of which one comes twice"),
    ],
)
def test_bad_input(z: Tensor, known: dict[str, Any], message: str) -> None:
    for score in (mutual_information_gap, sap, dci):
        with pytest.raises(ValueError, match=re.escape(message)):
            score(z, known)
    if z.ndim == 2 and z.shape[1] == 2:
        with pytest.raises(ValueError, match=re.escape(message)):
            block_r2({"z": z}, known)
