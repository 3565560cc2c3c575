from __future__ import annotations

import pytest
import torch

from pyro_lebm.inference.draws import Draws, PointEstimate


def numbered(chains: int = 2, draws: int = 3, n: int = 4, method: str = "counted") -> Draws:
    z0 = torch.arange(chains * draws * n * 5.0).reshape(chains, draws, n, 5)
    stats = {"lp": z0.sum(-1), "step_size": torch.ones(chains, draws)}
    return Draws({"z0": z0, "scale": z0[..., 0]}, stats, method)


def test_sizes_and_flat_order() -> None:
    draws = numbered()
    assert (draws.num_chains, draws.num_draws, draws.num_sequences) == (2, 3, 4)
    assert draws.sites == ("z0", "scale")
    assert torch.equal(draws.flat("z0")[3 + 1], draws["z0"][1, 1])
    assert draws.flat("scale").shape == (6, 4)


@pytest.mark.parametrize(
    "index", [slice(1, 3), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True, False])]
)
def test_select_takes_sequences_of_samples_and_stats(index: slice | list[int]) -> None:
    draws = numbered()
    part = draws.select(index)
    assert torch.equal(part["z0"], draws["z0"][:, :, 1:3])
    assert torch.equal(part.stats["lp"], draws.stats["lp"][:, :, 1:3])
    assert torch.equal(part.stats["step_size"], draws.stats["step_size"])
    assert part.method == "counted"


def test_select_then_concat_is_the_identity() -> None:
    draws = numbered()
    back = Draws.concat([draws.select([0]), draws.select([1, 2, 3])])
    assert torch.equal(back["z0"], draws["z0"])
    assert torch.equal(back.stats["lp"], draws.stats["lp"])
    assert "step_size" not in back.stats  # has no sequences to join over


@pytest.mark.parametrize(("over", "shape"), [("chains", (4, 3, 4)), ("draws", (2, 6, 4))])
def test_concat_over_chains_and_draws(over: str, shape: tuple[int, int, int]) -> None:
    both = Draws.concat([numbered(method="a"), numbered(method="b")], over=over)
    assert both.shape == shape
    assert both.stats["step_size"].shape == shape[:2]
    assert both.method == "a; b"


def test_thin_and_to() -> None:
    draws = numbered().thin(2)
    assert draws.shape == (2, 2, 4)
    assert torch.equal(draws["z0"], numbered()["z0"][:, ::2])
    double = draws.to(torch.float64)
    assert double["z0"].dtype == double.stats["lp"].dtype == torch.float64


def test_bad_draws_are_refused() -> None:
    z0 = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match="samples: expected at least one site"):
        Draws({})
    with pytest.raises(TypeError, match=r"samples\['z0'\]: expected a tensor, got list"):
        Draws({"z0": [1.0]})
    with pytest.raises(ValueError, match=r"expected shape \(chains, draws, N, \*event\).*\(3, 4\)"):
        Draws({"z0": z0[0, :, :, 0]})
    with pytest.raises(ValueError, match=r"at least one of each, got \(2, 0, 4, 5\)"):
        Draws({"z0": z0[:, :0]})
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) as in 'z0', got \(2, 3, 1\)"):
        Draws({"z0": z0, "scale": z0[:, :, :1]})
    with pytest.raises(ValueError, match=r"stats\['lp'\]: expected shape \(2, 3\) or \(2, 3, 4\)"):
        Draws({"z0": z0}, {"lp": torch.zeros(3)})
    with pytest.raises(TypeError, match="method: expected a string, got int"):
        Draws({"z0": z0}, method=3)
    with pytest.raises(KeyError, match="expected one of"):
        Draws({"z0": z0}).flat("z1")
    with pytest.raises(ValueError, match="over: expected one of"):
        Draws.concat([Draws({"z0": z0})], over="time")
    with pytest.raises(ValueError, match="parts: expected at least one Draws"):
        Draws.concat([])
    with pytest.raises(ValueError, match=r"parts: expected sites \['z0'\] in each, got \['u'\]"):
        Draws.concat([Draws({"z0": z0}), Draws({"u": z0})])
    with pytest.raises(ValueError, match="index: expected one dimension"):
        Draws({"z0": z0}).select(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="every: expected at least 1, got 0"):
        Draws({"z0": z0}).thin(0)


def test_point_estimate_is_checked_and_is_no_draws() -> None:
    point = PointEstimate({"z0": torch.zeros(4, 2)}, torch.zeros(4), "best of 8")
    assert point.num_sequences == 4
    assert not isinstance(point, Draws)
    with pytest.raises(ValueError, match=r"log_joint: expected shape \(N,\), got \(4, 2\)"):
        PointEstimate({"z0": torch.zeros(4, 2)}, torch.zeros(4, 2), "best")
    with pytest.raises(ValueError, match=r"values\['z0'\]: expected shape \(3, \*event\)"):
        PointEstimate({"z0": torch.zeros(4, 2)}, torch.zeros(3), "best")
    with pytest.raises(ValueError, match="values: expected at least one site"):
        PointEstimate({}, torch.zeros(3), "best")
