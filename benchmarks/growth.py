"""Growth of a posterior chain's time and memory with everything that it hangs on, engine by engine.

    python benchmarks/growth.py [--quick] [--only times batch ...] [--engine native vjp ...]
                                [--device cpu cuda] [--json FILE] [--picture FILE.png]

The chain is one of unadjusted Langevin steps under the Pyro program of a latent ODE (latent 10,
networks 100 wide, one feature, 100 irregular times, 128 sequences, 32 Runge-Kutta steps, 5 Langevin
steps). One size varies at a time: times, sequences of the batch, Langevin steps, solver steps,
dimension of the latent state, and chains of the potential of one sequence, as `VectorizedMCMC` has.

Every point runs in a fresh process on one thread; see ``growth_point.py``. Time is the CPU time of
one Langevin step (that of a chain, where their number varies), on a GPU that of the clock with the
device waited for; the first run, in which buffers are made and code is compiled, does not count.
Memory is the largest resident size in one chain (on a GPU, of torch's allocations) beyond what was
held once program, data and states were there: predictions, where an engine keeps them, are in it.

Slopes are those of log cost on log size over the upper half of a range, by least squares, with
their standard errors; memory below 1 MB is noise and left out. 1 is linear. "Worse than linear" is
what exceeds 1 by more than .05 and two standard errors. Points that would take too long by what the
last one took are left out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from growth_picture import draw
from growth_point import Cost, Point, measure
from scipy.stats import linregress
from tqdm import tqdm

from pyro_lebm import native
from pyro_lebm.engines import Engine

FLOOR = 2**20  # bytes; resident memory comes in pages and is never quite still
MARGIN = 0.05
LONGEST = 40.0  # seconds of one point
RUNS = 3  # of a chain, at least, in a point


@dataclass(frozen=True)
class Axis:
    """What varies: a field of `Point`, its values, and what else is not as it is elsewhere."""

    name: str
    label: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    others: Mapping[str, Any] = field(default_factory=dict)


AXES = {
    "times": Axis("times", "times T", (50, 100, 200, 500, 1000, 2000, 5000), (5, 10, 20, 40, 80)),
    "batch": Axis("sequences", "sequences", tuple(2**k for k in range(5, 13)), (2, 4, 8, 16, 32)),
    "langevin": Axis("langevin", "Langevin steps K", (5, 10, 20, 40, 80), (1, 2, 4, 8, 16)),
    "solver": Axis("solver", "solver steps", (8, 16, 32, 64, 128, 256), (2, 4, 8, 16, 32)),
    "latent": Axis(
        "latent", "latent dimension", (4, 6, 8, 12, 16, 24, 32, 48, 64), (2, 4, 8, 16, 32)
    ),
    "chains": Axis(
        "chains", "chains", tuple(4**k for k in range(7)), (1, 2, 4, 8, 16), {"sequences": 1}
    ),
}
QUICK: dict[str, Any] = {"times": 10, "sequences": 4, "langevin": 2, "solver": 2, "seconds": 0.0}


@dataclass(frozen=True)
class Row:
    """One point: its size on the axis, and what it cost, or why that was not measured."""

    size: int
    cost: Cost | None
    why: str = ""


@dataclass(frozen=True)
class Slope:
    """Of log cost on log size."""

    value: float
    error: float

    @property
    def worse(self) -> bool:
        """Than linear, beyond doubt."""
        return self.value - 1 > MARGIN + 2 * self.error

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.error:.2f}"


def ways(devices: Sequence[str], asked: Sequence[Engine] | None, quick: bool) -> list[Point]:
    """The default point for each engine and device that there is."""
    found: list[Point] = []
    for device in devices:
        if device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("--device: expected one that this machine has, got cuda")
        for engine in asked or _all(device, quick):
            why = _missing(engine, device)
            if why:
                print(f"{engine} on {device}: left out, {why}")
            else:
                found.append(Point(engine, device))
    return found


def _all(device: str, quick: bool) -> tuple[Engine, ...]:
    if device == "cuda":
        return ("vjp", "eager") if quick else ("vjp", "eager", "compile")
    return ("native", "vjp", "eager") if quick else ("native", "vjp", "eager", "xla")


def _missing(engine: Engine, device: str) -> str | None:
    if engine in ("native", "xla") and device != "cpu":
        return "it is measured on a CPU"
    if engine == "xla" and importlib.util.find_spec("jax") is None:
        return "jax is not installed"
    if engine == "native":
        try:
            native.library()
        except native.NativeError as reason:
            return str(reason)
    return None


def sweep(axis: Axis, base: Point, quick: bool) -> Iterator[Row]:
    """The points of one engine along an axis, from the smallest."""
    last: Row | None = None
    for size in axis.quick if quick else axis.sizes:
        point = replace(base, **{**axis.others, axis.name: size})
        why = "the one before was" if last and last.cost is None else too_much(size, last)
        last = Row(size, None, why) if why else apart(size, point)
        yield last


def too_much(size: int, last: Row | None) -> str:
    """Why a point is not to be measured, judged by the last one; empty where it is."""
    if last is None or last.cost is None:
        return ""
    factor = size / last.size
    seconds, most = RUNS * factor * last.cost.seconds, factor * last.cost.bytes
    if seconds > LONGEST:
        return f"would take {seconds:.0f} s"
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"would take {most / 1e9:.0f} GB" if most > installed / 2 else ""


def apart(size: int, point: Point) -> Row:
    """Measured in a process of its own, forked from one that has done no more than import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["growth"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return Row(size, pool.submit(measure, point).result())
        except Exception as error:  # out of memory, mostly: the other points stand
            return Row(size, None, f"{type(error).__name__}: {str(error).splitlines()[0]}")


def slope(sizes: Sequence[float], costs: Sequence[float]) -> Slope | None:
    """Over the upper half of the sizes, on a logarithmic scale; None with fewer than three."""
    middle = math.sqrt(sizes[0] * sizes[-1]) if sizes else 0.0
    upper = [(x, y) for x, y in zip(sizes, costs, strict=True) if x >= middle * (1 - 1e-9)]
    if len(upper) < 3:
        return None
    x, y = zip(*((math.log(a), math.log(b)) for a, b in upper), strict=True)
    fit = linregress(x, y)
    return Slope(float(fit.slope), float(fit.stderr))


def grown(axis: Axis, base: Point, rows: Sequence[Row]) -> dict[str, Any]:
    """One engine along one axis: its points in milliseconds and megabytes, and their slopes."""
    found = [(row.size, row.cost) for row in rows if row.cost is not None]
    sizes = [size for size, _ in found]
    steps = 1 if axis.name == "langevin" else base.langevin
    seconds = [cost.seconds / steps for _, cost in found]
    seen = [(size, cost.bytes) for size, cost in found if cost.bytes >= FLOOR]
    slopes = {
        "time": slope(sizes, seconds),
        "memory": slope(*zip(*seen, strict=True)) if seen else None,
    }
    return {
        "engine": base.engine,
        "device": base.device,
        "sizes": sizes,
        "milliseconds": [1e3 * s for s in seconds],
        "megabytes": [cost.bytes / 1e6 for _, cost in found],
        "first_seconds": [cost.first for _, cost in found],
        "left_out": {row.size: row.why for row in rows if row.cost is None},
        "slope": {k: None if s is None else asdict(s) for k, s in slopes.items()},
        "worse_than_linear": [k for k, s in slopes.items() if s is not None and s.worse],
    }


def name_of(line: dict[str, Any]) -> str:
    return str(line["engine"]) + ("" if line["device"] == "cpu" else f", {line['device']}")


def table(axis: Axis, lines: Sequence[dict[str, Any]]) -> str:
    """An axis as text: a column an engine, a row a size, slopes below."""
    what = "a chain" if axis.name == "langevin" else "a Langevin step"
    head = "".join(f"{name_of(line):>24}" for line in lines)
    text = [f"\n{axis.label}: time of {what}, peak memory", f"{'':>10}{head}"]
    for size in sorted({size for line in lines for size in (*line["sizes"], *line["left_out"])}):
        text.append(f"{size:>10}" + "".join(f"{_cell(line, size):>24}" for line in lines))
    for kind in ("time", "memory"):
        cells = "".join(f"{_slope(line, kind):>24}" for line in lines)
        text.append(f"{kind + ' ~':>10}{cells}")
    return "\n".join(text)


def _cell(line: dict[str, Any], size: int) -> str:
    if size in line["left_out"]:
        return str(line["left_out"][size])[:23]
    i = line["sizes"].index(size)
    return f"{line['milliseconds'][i]:.3g} ms {line['megabytes'][i]:6.1f} MB"


def _slope(line: dict[str, Any], kind: str) -> str:
    found = line["slope"][kind]
    if found is None:
        return "-"
    return f"{Slope(**found)}{' WORSE' if kind in line['worse_than_linear'] else ''}"


def verdict(axes: dict[str, list[dict[str, Any]]]) -> str:
    """Which slopes are above 1, if any."""
    worse = [
        f"{kind} of {name_of(line)} in {name}"
        for name, lines in axes.items()
        for line in lines
        for kind in line["worse_than_linear"]
    ]
    if worse:
        return f"worse than linear: {', '.join(worse)}"
    return "worse than linear: none of the slopes that could be fitted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--picture", type=Path, help="draw them into this file")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--only", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    parser.add_argument("--engine", nargs="+", choices=("native", "vjp", "eager", "xla", "compile"))
    parser.add_argument("--device", nargs="+", choices=("cpu", "cuda"), default=("cpu",))
    args = parser.parse_args()
    # for the processes to come, which also have to find what they preload
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    begin = time.perf_counter()
    chosen = {name: AXES[name] for name in args.only}
    bases = [
        replace(base, **(QUICK if args.quick else {}))
        for base in ways(args.device, args.engine, args.quick)
    ]
    count = sum(len(a.quick if args.quick else a.sizes) for a in chosen.values()) * len(bases)
    found: dict[str, list[dict[str, Any]]] = {}
    with tqdm(total=count, unit="point", file=sys.stderr) as bar:
        for name, axis in chosen.items():
            found[name] = []
            for base in bases:
                bar.set_description(f"{name}, {base.engine}")
                rows = []
                for row in sweep(axis, base, args.quick):
                    rows.append(row)
                    bar.update()
                found[name].append(grown(axis, base, rows))
            bar.write(table(axis, found[name]), file=sys.stdout)
    print(f"\n{verdict(found)}\n{time.perf_counter() - begin:.0f} s in all")
    report = {"threads": 1, "torch": torch.__version__, "quick": args.quick, "axes": found}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    if args.picture:
        draw(found, {name: axis.label for name, axis in chosen.items()}, args.picture)
        print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
