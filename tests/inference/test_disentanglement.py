"""What latents mean: perfect, mixed and empty codes get the scores that their definitions give."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.scores import block_r2, dci, mutual_information_gap, sap

N = 600


def factors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "label": torch.randint(0, 4, (N,), generator=generator),
        "size": torch.rand(N, generator=generator),
    }


def noise(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def perfect() -> Tensor:
    known = factors()
    return torch.stack([known["label"].float(), known["size"], 0.1 * noise(N)], -1)


def mixed() -> Tensor:
    """Each factor in two latents alike."""
    a, b, _ = perfect().unbind(-1)
    return torch.stack([a / 3 + b, b - a / 3, a / 3 + b + 0.01 * noise(N)], -1)


def test_a_code_with_a_latent_for_each_factor() -> None:
    found = dci(perfect(), factors())
    assert min(found) > 0.95
    assert mutual_information_gap(perfect(), factors()) > 0.9
    # four classes in a row cannot be told by one line
    assert sap(perfect(), {"size": factors()["size"]}) > 0.95


def test_a_code_that_mixes_them() -> None:
    straight, crooked = perfect(), mixed()
    assert mutual_information_gap(crooked, factors()) < 0.2
    assert sap(crooked, factors()) < 0.3
    found, best = dci(crooked, factors()), dci(straight, factors())
    assert found.disentanglement < 0.5 * best.disentanglement
    assert found.informativeness > 0.8


def test_a_code_that_knows_nothing() -> None:
    empty = noise(N, 3)
    assert mutual_information_gap(empty, factors()) < 0.1
    assert sap(empty, factors()) < 0.1
    assert dci(empty, factors()).informativeness < 0.1


def test_gaps_by_hand() -> None:
    bit = torch.arange(40) % 2
    same, other = bit.float(), (torch.arange(40) // 2 % 2).float()
    z = torch.stack([same, other], -1)
    assert mutual_information_gap(z, {"bit": bit}) == pytest.approx(1.0)
    half = torch.stack([same, same], -1)
    assert mutual_information_gap(half, {"bit": bit}) == pytest.approx(0.0)
    assert sap(z, {"bit": bit}) == pytest.approx(0.5)  # 1 against guessing
    x = torch.linspace(-1, 1, 41)
    line = torch.stack([x, x.square()], -1)
    assert sap(line, {"x": x}) == pytest.approx(1.0, abs=1e-6)


def test_blocks_and_what_leaks_between_them() -> None:
    known = factors()
    angle = 2 * math.pi * torch.rand(N, generator=torch.Generator().manual_seed(2))
    known |= {"sine": angle.sin(), "cosine": angle.cos()}
    static = torch.stack([known["label"].float(), known["size"]], -1)
    dynamic = torch.stack([known["sine"], known["cosine"]], -1)
    found = block_r2({"static": static, "dynamic": dynamic}, known)
    for name in ("label", "size"):
        assert found["static"][name] > 0.9
        assert found["dynamic"][name] < 0.1
    for name in ("sine", "cosine"):
        assert found["dynamic"][name] > 0.9
        assert found["static"][name] < 0.1
    leaking = torch.cat([dynamic, static[:, 1:]], -1)
    assert block_r2({"dynamic": leaking}, known)["dynamic"]["size"] > 0.9


@pytest.mark.parametrize(
    ("z", "known", "message"),
    [
        (torch.zeros(5), {"a": torch.arange(5)}, "z: expected shape (n, dim) with dim of at least"),
        (torch.zeros(5, 1), {"a": torch.arange(5)}, "at least 2, got (5, 1)"),
        (torch.zeros(5, 2), {}, "factors: expected at least one, got none"),
        (torch.zeros(5, 2), {"a": torch.arange(4)}, "a: expected shape (5,), got (4,)"),
        (torch.zeros(5, 2), {"a": torch.ones(5)}, "a: expected a factor that varies, got 1.0"),
    ],
)
def test_bad_input(z: Tensor, known: dict[str, Any], message: str) -> None:
    for score in (mutual_information_gap, sap, dci):
        with pytest.raises(ValueError, match=re.escape(message)):
            score(z, known)
    if z.ndim == 2 and z.shape[1] == 2:
        with pytest.raises(ValueError, match=re.escape(message)):
            block_r2({"z": z}, known)
