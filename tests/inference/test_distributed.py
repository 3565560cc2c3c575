"""Two processes over gloo: one training and one run of chains between them.

What they do is in `two_ranks.py`; one start of them, by torchrun, serves most of the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from house import ROOT
from pyro_lebm.checkpoint import read_state
from pyro_lebm.inference.parallel.ranks import Ranks, distributed
from pyro_lebm.inference.parallel.shards import share_of
from scripts import run_script
from two_ranks import MEAN, SD, SEEDS, STEPS, Guide, Model, N, data, exact, found, train, unlike

pytestmark = pytest.mark.xdist_group("ranks")  # their fixtures take a minute: once is enough

SCRIPT = str(ROOT / "tests/two_ranks.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PARTS = torch.tensor([10.0, 10.0, 1.0], dtype=torch.float64) / N  # an epoch's minibatches

Found = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What one process found, whose checkpoint two will take up."""
    kept = found(*train(folder / "one.pt"))
    shutil.copy(folder / "one.pt", folder / "of-one.pt")
    loss = torch.stack([train(seed=seed)[2].column("loss") for seed in SEEDS])
    return {"kept": kept, "loss": loss}


@pytest.fixture(scope="module")
def both(folder: Path, alone: dict[str, Any]) -> Found:
    """What each of two processes found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", SCRIPT, "together", str(folder)]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (
        torch.load(folder / f"together-{rank}.pt", weights_only=False) for rank in (0, 1)
    )
    return first, second


def assert_same(one: dict[str, Any], other: dict[str, Any], *names: str) -> None:
    for name in names or one:
        if name == "numbers":
            for key, column in one[name].items():
                assert torch.equal(column.nan_to_num(), other[name][key].nan_to_num()), key
        elif name not in ("moved", "steps") or name in names:
            assert torch.equal(one[name], other[name]), name


def test_one_worker_has_all_of_this_file(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@ranks")


def test_ranks_share_parameters_and_keep_their_own_chains(both: Found) -> None:
    first, second = both
    one, other = first["whole"], second["whole"]
    assert_same(one, other, "parameters", "gain", "numbers", "chains", "visited", "steps")
    assert one["steps"].shape == (STEPS,) and len(one["steps"].unique()) > 1
    assert one["moved"] == set(range(0, N, 2)) and other["moved"] == set(range(1, N, 2))
    assert bool(one["visited"].all()) and one["gain"] != 1
    assert not bool((one["negatives"] == other["negatives"]).all(-1).any())


def test_the_joint_minibatch_gives_the_gradient_of_one_process(both: Found) -> None:
    level, loss = exact()
    for rank in both:
        torch.testing.assert_close(rank["exact"][0], level)
        torch.testing.assert_close(rank["exact"][1], loss, rtol=1e-6, atol=0)


def test_parameters_that_one_rank_alone_met_are_the_same_on_all(both: Found) -> None:
    one, other = (rank["unlike"] for rank in both)
    assert_same(one, other)
    expected = unlike()
    for name in ("level", "first", "late"):
        torch.testing.assert_close(one[name], expected[name])
    assert expected["first"].abs() > 1 and one["drawn"] > 0


def test_the_loss_curve_is_that_of_one_process(alone: dict[str, Any], both: Found) -> None:
    def epochs(loss: Tensor) -> Tensor:
        return loss[:, : STEPS // 3 * 3].reshape(len(loss), -1, 3) @ PARTS

    one, two = epochs(alone["loss"]), epochs(both[0]["loss"])
    for part in (slice(0, 3), slice(-4, None)):
        a, b = one[:, part].mean(1), two[:, part].mean(1)
        error = ((a.var() + b.var()) / len(a)).sqrt()
        assert (a.mean() - b.mean()).abs() < 4 * error
    fallen = one[:, :3].mean() - one[:, -4:].mean()
    assert fallen > 10 * error  # or the comparison would tell nothing


def test_the_clock_and_the_scores_are_those_of_rank_0(both: Found) -> None:
    one, other = (rank["timed"] for rank in both)
    assert_same(one, other, "parameters", "gain", "chains", "numbers")
    assert bool(one["numbers"]["validation"][4].isfinite())


def test_waiting_for_other_ranks_is_a_part_of_a_profile(both: Found) -> None:
    assert all({"other ranks", "prior chains"} <= set(rank["parts"]) for rank in both)


def test_a_prior_is_fitted_to_the_draws_of_rank_0(both: Found) -> None:
    assert torch.equal(both[0]["prior"], both[1]["prior"])


def test_as_many_ranks_resume_to_the_same_numbers(both: Found) -> None:
    for rank in both:
        assert_same(rank["whole"], rank["resumed"])


def test_two_ranks_go_on_where_one_was(alone: dict[str, Any], both: Found) -> None:
    first, second = (rank["as one had it"] for rank in both)
    assert_same(first, alone["kept"], "parameters", "chains", "visited", "negatives")
    assert_same(second, alone["kept"], "parameters", "chains", "visited", "negatives")
    on, other = (rank["on from one"] for rank in both)
    assert_same(on, other, "parameters", "numbers", "chains")
    assert on["numbers"]["step"].tolist() == list(range(1, STEPS + 21))
    assert not bool((on["negatives"] == other["negatives"]).all(-1).any())


def test_one_process_goes_on_where_two_were(both: Found, folder: Path) -> None:
    path = folder / "two.pt"
    kept = found(*train(path))
    assert_same(kept, both[0]["whole"], "parameters", "chains", "visited", "negatives")
    *_, history = train(path, max_steps=STEPS + 3)
    assert history.column("step").tolist() == list(range(1, STEPS + 4))


def test_a_fault_on_one_rank_sends_both_back(both: Found) -> None:
    told = (
        "step 8: FloatingPointError: a path blew up (rank 1); back to step 5 with half the "
        "learning rates (rollback 1 of at most 5)"
    )
    assert both[0]["told"] == both[1]["told"] == [told, told]
    one, other = both[0]["fault"], both[1]["fault"]
    assert_same(one, other, "parameters", "numbers")
    assert one["numbers"]["rollbacks"].tolist() == [0] * 5 + [1] * (STEPS - 5)
    with pytest.warns(RuntimeWarning, match="step 8: a path blew up; back to step 5"):
        level, loss = exact(when=9, snapshot_every=5)
    for rank in both:
        torch.testing.assert_close(rank["exact fault"][0], level)
        torch.testing.assert_close(rank["exact fault"][1], loss, rtol=1e-6, atol=0)


def test_a_failure_on_one_rank_is_told_by_the_other(both: Found) -> None:
    assert both[1]["failure"] == "KeyError: 'a mistake'"
    assert both[0]["failure"] == (
        "LostRank: step 26: rank 1 failed with KeyError: 'a mistake'; the checkpoint holds the run "
        "up to step 20: start all processes again with resume=True"
    )


def test_an_interrupt_stops_both_and_keeps_the_run(both: Found, folder: Path) -> None:
    assert [rank["interrupt"] for rank in both] == ["KeyboardInterrupt: "] * 2
    # The last good state of rank 1, too, is in it.
    current = read_state(folder / "stopped.pt", kind="training")["current"]
    assert current["step"] == 20 and len(current["others"]) == 1


def test_ranks_that_would_train_differently_are_refused(both: Found) -> None:
    for rank in both:
        assert rank["differ"] == (
            "ValueError: learning_rate: expected the same on all ranks, got 0.1 on rank 0 and 0.2 "
            "on rank 1"
        )
        assert "batch_size: expected at least a sequence for each of 2 ranks" in rank["too small"]


def test_chains_are_shared_out_and_gathered(both: Found) -> None:
    one, other = both[0]["chains"], both[1]["chains"]
    for name, value in one.items():
        assert value == other[name] if isinstance(value, str) else torch.equal(value, other[name])
    z = one["z"]
    assert z.shape == (100, 200, 2) and one["acceptance"].shape == (100, 200)
    by_chain = z.mean(1)
    assert len(by_chain.unique(dim=0)) == 100
    error = by_chain.std(0) / 10
    assert bool(((by_chain.mean(0) - MEAN).abs() < 4 * error).all())
    spread = (z - MEAN).square().mean(1)
    error = spread.std(0) / 10
    assert bool(((spread.mean(0) - SD**2).abs() < 4 * error).all())
    assert torch.equal(one["more"][:, :30], one["kept"]) and one["more"].shape == (5, 40, 2)
    assert (
        one["too few"] == "ValueError: num_chains: expected at least one for each of 2 ranks, got 1"
    )
    assert "superchains: expected a multiple of 2 ranks, got 3" in one["superchains"]


@pytest.mark.parametrize(
    ("scenario", "code"), [("killed", -signal.SIGKILL), ("interrupted twice", -signal.SIGINT)]
)
def test_a_rank_that_ends_ends_the_run_and_the_checkpoint_resumes(
    scenario: str, code: int, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def process(rank: int) -> subprocess.CompletedProcess[str]:
        environment = ENVIRONMENT | shared | {"RANK": str(rank)}
        command = (SCRIPT, scenario, str(tmp_path))
        return run_script(*command, cwd=tmp_path, env=environment, timeout=120)

    with ThreadPoolExecutor(2) as pool:
        processes = list(pool.map(process, (0, 1)))
    told = processes[0].stderr
    assert [p.returncode for p in processes] == [1, code]
    assert "LostRank: step 26: another process of the run ended or does not answer" in told
    assert "the checkpoint holds the run up to step 20: start all processes again" in told
    *_, history = train(tmp_path / "ended.pt")
    assert history.column("step").tolist() == list(range(1, STEPS + 1))


def test_no_group_is_left_whose_threads_meet_the_end_of_python(both: Found) -> None:
    assert both[0]["group is freed"] and both[1]["group is freed"]


def test_sequences_are_dealt_out_evenly() -> None:
    ranks = Ranks()
    ranks.size = 3
    order = ranks.dealt(torch.randperm(11))
    assert sorted(order.tolist()) == list(range(11))
    assert (order % 3).tolist() == [0, 1, 2] * 3 + [0, 1]
    shares = []
    for ranks.rank in range(3):
        shares.append(ranks.share(order).tolist())
    assert [len(share) for share in shares] == [4, 4, 3]


def test_a_rank_that_is_new_takes_up_its_part(folder: Path, alone: dict[str, Any]) -> None:
    saved = read_state(folder / "of-one.pt", kind="training")["current"]
    saved["order"], saved["position"] = torch.arange(N - 1, -1, -1), 1
    model = Model()
    guide = Guide(model, data())
    both = torch.nn.ModuleDict({"model": model, "guide": guide})
    ranks = Ranks()
    ranks.size = 2
    parts = []
    for ranks.rank in range(2):
        parts.append(share_of(saved, ranks, both, data()))
    assert torch.equal(parts[0]["rng"]["cpu"], saved["rng"]["cpu"])
    assert not torch.equal(parts[1]["rng"]["cpu"], saved["rng"]["cpu"])
    assert (parts[1]["order"][1:] % 2).tolist() == [0, 1] * 10  # and not 1, 0, ...
    chains = parts[1]["modules"]["chains"]["guide.chains"]
    assert torch.equal(chains["position"][1::2], alone["kept"]["chains"][1::2])
    assert not bool(chains["visited"][::2].any())  # another rank's


def test_outside_of_torchrun_a_process_stays_alone() -> None:
    with distributed() as (_, rank):
        assert Ranks().alone and rank == 0
    with (
        pytest.raises(ValueError, match="timeout: expected a positive number"),
        distributed(timeout=0),
    ):
        pass
