"""One training by one process and by two: whether they learn the same, and how much faster two are.

    python benchmarks/scale.py [--quick] [--processes 2] [--seeds 5] [--json FILE]

An ODE-LEBM with a Langevin guide is trained on irregular sinusoids by `fit`, in minibatches of 1024
of 2048 sequences, from the same parameters by one process and, under torchrun, by several over
gloo, one thread each, one training after the other on the same machine. (A step has costs that do
not shrink with its minibatch, such as Pyro's and the prior's chains: small ones gain nothing.)

- the loss per sequence in each fifth of the run, the difference of several processes to one over
  the seeds, with its 95 % t interval. They draw different random numbers, so that it is noise;
- sequences a second, from the history's clock without the first tenth of the steps, and the paired
  ratios: as many times as there are processes is the most to hope for, where each has its core.
  Beside it the same ratio in CPU time, of the process that worked most: what is left of it when
  other work on the machine, and waiting for each other, are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trajectory import paired

from pyro_lebm import EnergyPrior, MLPEnergy
from pyro_lebm.inference import LangevinGuide, distributed, fit
from pyro_lebm.inference.parallel.ranks import Ranks
from pyro_lebm.inference.scores import paired_interval
from pyro_lebm.models import LatentODE, datasets

PARTS = 5


def work(folder: Path, seed: int, sequences: int, batch_size: int, steps: int) -> None:
    """What each process does; the first writes the history down."""
    torch.set_num_threads(1)
    with distributed() as (_, rank):
        torch.manual_seed(seed)
        series = datasets.irregular_sines(n=sequences, seed=0)
        prior = EnergyPrior(MLPEnergy(10), base=10, num_chains=256)
        model = LatentODE(latent=10, observed=1, prior=prior)
        guide = LangevinGuide(model, series, steps=10)
        began = time.process_time()
        history = fit(
            model,
            guide,
            series,
            max_steps=steps,
            batch_size=batch_size,
            seed=seed,
            progress=False,
        )
        cpu = max(Ranks().gather(time.process_time() - began))
        if rank == 0:
            columns = {name: history.column(name).tolist() for name in ("loss", "seconds")}
            columns["cpu"] = [cpu]
            (folder / "history.json").write_text(json.dumps(columns))


def train(processes: int, *options: int) -> dict[str, Tensor]:
    """A training by so many processes: the columns of its history."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes)]
        command += [__file__, "--worker", folder, *(str(option) for option in options)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        columns = json.loads((Path(folder) / "history.json").read_text())
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


def speed(history: dict[str, Tensor], batch_size: int) -> float:
    """Sequences a second."""
    seconds = history["seconds"]
    first = len(seconds) // 10
    return batch_size * (len(seconds) - 1 - first) / float(seconds[-1] - seconds[first])


def curve(history: dict[str, Tensor], sequences: int) -> Tensor:
    """The mean loss per sequence in each fifth of the run."""
    return torch.stack([part.mean() for part in history["loss"].tensor_split(PARTS)]) / sequences


def compared(one: Tensor, several: Tensor, slow: list[float], fast: list[float]) -> dict[str, Any]:
    """Curves ``(seeds, fifths)`` and sequences a second, set side by side."""
    loss = []
    for part, (a, b) in enumerate(zip(one.T, several.T, strict=True)):
        mean, low, high = paired_interval(b, a)
        of = {"one": float(a.mean()), "several": float(b.mean())}
        loss.append({"fifth": part + 1, **of, "difference": mean, "low": low, "high": high})
    # Seconds a sequence, so that the ratio is how many times as fast the several are.
    ratio = paired([1 / rate for rate in slow], [1 / rate for rate in fast])
    rates = {"one": statistics.median(slow), "several": statistics.median(fast)}
    return {"loss": loss, "sequences_per_second": rates, "speedup": ratio}


def told(report: dict[str, Any]) -> str:
    """The report in words."""
    n = report["processes"]
    lines = [f"loss per sequence, {report['seeds']} seeds: 1 process, {n} processes, difference"]
    for part in report["loss"]:
        lines.append(
            f"  fifth {part['fifth']}: {part['one']:9.3f} {part['several']:9.3f}  "
            f"{part['difference']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}]"
        )
    rates, ratio = report["sequences_per_second"], report["speedup"]
    lines.append(
        f"throughput: {rates['one']:.0f} and {rates['several']:.0f} sequences a second, ratio "
        f"{ratio['ratio']:.2f} [quartiles {ratio['lower_quartile']:.2f}, "
        f"{ratio['upper_quartile']:.2f}]; in CPU time {report['cpu_ratio']['ratio']:.2f}"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(Path(args.worker[0]), *(int(option) for option in args.worker[1:]))
        return
    sequences, batch_size, steps = (16, 8, 10) if args.quick else (2048, 1024, 200)
    seeds = range(2 if args.quick else args.seeds)
    # Interleaved: whatever else the machine does meets both.
    counts = (1, args.processes)
    runs = [[train(n, seed, sequences, batch_size, steps) for n in counts] for seed in seeds]
    columns = list(zip(*runs, strict=True))
    one, several = (torch.stack([curve(h, sequences) for h in column]) for column in columns)
    slow, fast = ([speed(history, batch_size) for history in column] for column in columns)
    report = compared(one, several, slow, fast)
    report["cpu_ratio"] = paired(*([float(h["cpu"]) for h in column] for column in columns))
    report |= {"processes": args.processes, "torch": torch.__version__, "seeds": len(seeds)}
    report |= {"sequences": sequences, "batch_size": batch_size, "steps": steps}
    print(told(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
