"""A run of many chains that was cut short goes on to the same draws, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.inference import MALA, MALT, ULA, VectorizedMCMC
from pyro_lebm.inference.sampling import vectorized
from pyro_lebm.inference.sampling.targets import ModelTarget
from samplers import KERNELS, conjugate, gaussian, ran


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("moves", [7, 23])  # in the warm-up, and after it
def test_a_run_cut_short_goes_on_to_the_same_draws(
    name: str, moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    settings: dict[str, Any] = {"num_chains": 3, "progress": False, "checkpoint": path}

    def begin() -> VectorizedMCMC:
        return VectorizedMCMC(KERNELS[name](conjugate), 12, 20, save_every=moves, **settings)

    pyro.set_rng_seed(8)
    whole = begin()
    whole.run()

    class Killed(Exception): ...

    pyro.set_rng_seed(8)
    cut = begin()
    advance = cut._advance
    calls: list[int] = []

    def dying(bar: Any) -> None:
        if len(calls) == moves + 2:
            raise Killed
        calls.append(1)
        advance(bar)

    monkeypatch.setattr(cut, "_advance", dying)
    with pytest.raises(Killed):
        cut.run()
    pyro.set_rng_seed(99)
    again = begin()
    again.resume()
    for site, value in whole.get_samples(group_by_chain=True).items():
        assert torch.equal(again.get_samples(group_by_chain=True)[site], value)
    for key, value in whole.statistics.items():
        assert torch.equal(again.statistics[key], value)


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    options: dict[str, Any] = {"progress": False, "checkpoint": path}
    VectorizedMCMC(MALA(conjugate), 2, 2, num_chains=3, **options).run()
    with pytest.raises(CheckpointError, match="kernel was 'MALA', now 'ULA'"):
        VectorizedMCMC(ULA(conjugate), 2, 2, num_chains=3, **options).resume()
    with pytest.raises(CheckpointError, match="num_chains was 3, now 4"):
        VectorizedMCMC(MALA(conjugate), 2, 2, num_chains=4, **options).resume()
    with pytest.raises(ValueError, match="checkpoint: expected a path"):
        VectorizedMCMC(MALA(conjugate), 2, 2).resume()


@pytest.mark.parametrize(
    ("kernel", "options", "data", "message"),
    [
        (MALT(gaussian, steps=2), {}, torch.full((5,), 7.0), "the model or its data"),
        (MALT(gaussian, steps=6), {}, torch.zeros(5), "kernel's gradients was 2, now 6"),
        (MALT(gaussian, steps=2, friction=0.0), {}, torch.zeros(5), "kernel's friction was"),
        (MALT(gaussian, steps=2), {"strategy": "loop"}, torch.zeros(5), "strategy was 'vmap'"),
    ],
)
def test_a_run_of_other_data_or_settings_is_not_resumed(
    kernel: Any, options: dict[str, Any], data: Tensor, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "chains"
    ran(MALT(gaussian, steps=2), 5, 5, torch.zeros(5), num_chains=3, checkpoint=path)
    other = VectorizedMCMC(kernel, 10, 5, num_chains=3, checkpoint=path, progress=False, **options)
    with pytest.raises(CheckpointError, match=message):
        other.resume(data)


def test_a_resumed_run_may_ask_for_fewer_draws(tmp_path: Path) -> None:
    path = tmp_path / "chains"
    first = ran(MALA(gaussian), 20, 5, torch.zeros(5), num_chains=3, checkpoint=path)
    fewer = VectorizedMCMC(MALA(gaussian), 10, 5, num_chains=3, checkpoint=path, progress=False)
    fewer.resume(torch.zeros(5))
    found, all_of_them = (run.get_samples(group_by_chain=True)["loc"] for run in (fewer, first))
    assert torch.equal(found, all_of_them[:, :10])
    assert fewer.statistics["lp"].shape == (3, 10)


def test_a_resumed_run_is_on_the_models_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chains"
    ran(MALT(gaussian), 5, 8, torch.zeros(5), num_chains=3, checkpoint=path)

    class Elsewhere(ModelTarget):  # type: ignore[misc]
        """A model on a device that holds no numbers: all that is needed is to look."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.device = torch.device("meta")

    monkeypatch.setattr(vectorized, "ModelTarget", Elsewhere)
    again = VectorizedMCMC(MALT(gaussian), 5, 8, num_chains=3, checkpoint=path, progress=False)
    monkeypatch.setattr(again, "_check_density", lambda position: None)
    monkeypatch.setattr(again, "_continue", lambda: None)
    again.resume(torch.zeros(5))
    (sampler,) = again._samplers
    state = sampler.get_state()
    parts = [sampler.position, *again._positions, *again._statistics[0], *state["moments"]]
    parts += [*state["metric"], *state["state"], *state["track"], state["caution"]]
    assert {part.device.type for part in parts if isinstance(part, Tensor)} == {"meta"}
    # What chains share stays where they decide on it.
    shared = [state["step_size"], *state["average"]]
    assert {part.device.type for part in shared if isinstance(part, Tensor)} == {"cpu"}
